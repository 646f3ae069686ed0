"""Strengths of models from pairwise comparisons."""
