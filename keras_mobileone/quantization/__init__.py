"""Full-integer int8 that keeps the accuracy."""
