"""Worlds small enough to enumerate."""
