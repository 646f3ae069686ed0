"""Preference data: reading, checking, splitting. Imports neither torch nor transformers."""
