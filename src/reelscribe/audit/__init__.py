"""Checks all captions of a data set together: faulty captions, duplicates, and what is too frequent."""
