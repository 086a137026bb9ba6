"""What a report on a run is counted from: its metrics, and what a fine-tuned model answers."""
