"""One small module per command: composes, computes nothing."""
