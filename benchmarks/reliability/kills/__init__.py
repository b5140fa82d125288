"""Runs that are ended at any moment, by a signal or by their screen, and begun again."""
