"""Data sets of images with masks or boxes: readers, augmentation, batches and drawing."""
