"""What is checked about a dataset, and how a verdict is reached."""
