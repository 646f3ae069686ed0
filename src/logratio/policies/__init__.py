"""Policies: `language` says how probable an answer is, `reward_scorer` how good it is."""
