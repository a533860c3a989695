"""How near captions are to references."""
