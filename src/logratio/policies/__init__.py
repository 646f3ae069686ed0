"""Policies: how probable an answer is (`language`), what it is worth (`actor_critic`, `reward_scorer`)."""
