"""Deployment of a model as verified files with a report."""
