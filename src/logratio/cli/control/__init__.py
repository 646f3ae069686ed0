"""The commands `logratio control`."""
