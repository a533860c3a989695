"""Pages to inspect captions with: what the model saw, what it said, and what failed."""
