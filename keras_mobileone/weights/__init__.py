"""Pretrained weights: find and download files, read them, and assign them to a model."""
