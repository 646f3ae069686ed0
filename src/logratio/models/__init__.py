"""Loading and saving, tokenisation, packing, and log-probabilities over the vocabulary."""
