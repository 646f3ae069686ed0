"""The commands `logratio train`."""
