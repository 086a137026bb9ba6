"""What can be wrong with a training, told from its curves, its data and its model."""
