"""Define the parts of a workload: models, activations, optimizers, data sets, seeds and digests."""
