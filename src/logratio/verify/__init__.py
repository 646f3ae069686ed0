"""Every estimator and algorithm held against exact answers: what `logratio verify` runs."""
