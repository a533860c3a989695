"""A look at all captions of a data set together: what should not be there, and what there is too much of."""
