"""The page and the tables of `logratio verify`."""
