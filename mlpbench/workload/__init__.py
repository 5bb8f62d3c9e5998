"""What is trained: models, activations, optimizers and data."""
