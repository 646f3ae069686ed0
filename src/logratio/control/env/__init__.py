"""Environments as the collector drives them."""
