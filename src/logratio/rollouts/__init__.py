"""Answers from a model and rewards for them."""
