"""The commands `logratio annotate`."""
