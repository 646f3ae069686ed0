"""Worlds small enough that every answer is known exactly, and what is true in them."""
