"""The label store."""
