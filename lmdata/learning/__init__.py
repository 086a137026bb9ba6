"""How a tokenizer is learned: counting words, joining pieces, choosing pieces."""
