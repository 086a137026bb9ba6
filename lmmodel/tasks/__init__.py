"""What a model can be fine-tuned for: one object a task, from its files to its scores."""
