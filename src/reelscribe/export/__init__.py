"""Captions in the forms of other programs, made from a data set that a run wrote."""
