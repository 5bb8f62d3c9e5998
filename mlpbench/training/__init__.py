"""Train one config, or many: trainer, studies, batched seeds, progress."""
