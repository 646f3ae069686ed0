"""What is held against the exact worlds."""
