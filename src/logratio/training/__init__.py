"""What the algorithms share: laws, checkpoints, optimisation, the order of data."""
