"""The built-in model: its world (`scenes`), its weights and its card."""
