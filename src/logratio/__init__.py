"""Preference optimisation and reinforcement learning for language models, with runs that prove themselves."""

__version__ = "0.1.0"
