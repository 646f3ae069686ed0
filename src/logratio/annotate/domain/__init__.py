"""Pairs, votes and what is made of them."""
