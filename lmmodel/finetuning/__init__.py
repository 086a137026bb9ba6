"""Task files to examples, logits to answers, answers to scores: the data side of fine-tuning."""
