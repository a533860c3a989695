"""Plans a run before it starts: what there is to caption, what it costs, and on which GPUs."""
