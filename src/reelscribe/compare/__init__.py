"""Compares two or more sets of captions of the same clips side by side, with votes on which is better."""
