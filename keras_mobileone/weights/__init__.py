"""Pretrained weights: finding, downloading and reading files, and assigning them to a model."""
