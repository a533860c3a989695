"""A page to look at captions with: what the model saw, what it said, and what failed."""
