"""Policies: sample() draws actions, evaluate() gives their log-probabilities."""
