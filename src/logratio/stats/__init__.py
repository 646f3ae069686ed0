"""Intervals, resampling, strengths from comparisons and Pareto fronts."""
