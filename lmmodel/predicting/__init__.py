"""What a trained model says about texts, batched by length on every core."""
