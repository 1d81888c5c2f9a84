"""Running classifiers on images and measuring them."""
