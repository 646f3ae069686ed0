"""Models computed by fused layers: packed rows, shared prefixes, chunked heads."""
