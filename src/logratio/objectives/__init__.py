"""The mathematics: pure functions of log-probabilities, with no reduction, no model and no configuration."""
