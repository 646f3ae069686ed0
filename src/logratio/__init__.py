"""Preference optimisation and reinforcement learning for language models, with runs that check their own invariants."""

__version__ = "0.2.0"
