"""Sampling with exact log-probabilities."""
