"""The process a run lives in: memory, allocator, versions."""
