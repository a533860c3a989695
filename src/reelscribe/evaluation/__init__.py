"""Scores captions by references that people wrote."""
