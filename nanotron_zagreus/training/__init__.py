"""Training: the trainer over Nanotron's, saving and loading, stopping, guards, metrics."""
