"""Preference optimisation and reinforcement learning for language models, in runs that check themselves."""

__version__ = "0.2.0"
