"""Training: recipes as data, the trainer, checkpoints, several devices and machines."""
