"""What the algorithms share: invariants, checkpoints, optimisation, the order of data."""
