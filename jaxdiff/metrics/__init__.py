"""Measures of a run: writers and label agreement."""
