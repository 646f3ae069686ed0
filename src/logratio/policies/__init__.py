"""Policies: `decoding` draws answers, `language` says how probable an answer is."""
