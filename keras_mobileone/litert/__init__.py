"""TFLite files: converting, reading, describing and running them."""
