"""People compare answers: pairs, the page, the store of verdicts, agreement, export. Imports no torch."""
