"""How much better, and why to believe it."""
