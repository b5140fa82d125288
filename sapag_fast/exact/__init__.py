"""Inputs that follow from a gradient by arithmetic, without a search."""
