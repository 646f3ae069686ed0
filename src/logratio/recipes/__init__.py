"""Recipes: what the commands do, as Python functions: paths and objects in, a `Run` out."""
