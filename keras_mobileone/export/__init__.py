"""Exporting models to TFLite and Core ML."""
