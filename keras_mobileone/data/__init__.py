"""Sources of training images, TFRecords, augmentation, and input pipelines."""
