"""What a run would be, before it is begun: what there is to caption, what it costs, and on which GPUs."""
