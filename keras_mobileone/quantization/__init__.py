"""Full-integer int8 quantization that keeps the accuracy."""
