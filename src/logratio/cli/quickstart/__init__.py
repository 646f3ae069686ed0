"""The command `logratio quickstart`."""
