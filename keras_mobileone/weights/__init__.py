"""Pretrained weights: finding and downloading files, reading them, putting them into a model."""
