"""One self-contained HTML file from a run directory."""

from logratio.report.collect import collect
from logratio.report.page import render, write_report

__all__ = ["collect", "render", "write_report"]
