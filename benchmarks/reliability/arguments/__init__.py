"""Combinations of arguments: what is given either works or is refused by name."""
