"""Agents in Gymnasium environments."""
