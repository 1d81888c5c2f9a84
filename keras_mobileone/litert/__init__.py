"""The TFLite file format: writing, reading, running."""
