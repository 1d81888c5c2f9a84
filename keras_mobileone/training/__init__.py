"""Training recipes, the trainer, checkpoints, and training on several devices and machines."""
