"""What may be wrong with a run, each check a function of the report: `None` where its number is not there."""
