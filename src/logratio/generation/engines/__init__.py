"""How a batch of prompts is decoded."""
