"""Calibration images for int8: from a directory, an array or batches, in the file's units."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import list_images, load_crops, spread
from keras_mobileone.errors import InputValueError

CALIBRATION_IMAGES = 200  # of a directory, spread evenly over it


def calibration_batches(source, config: ImageConfig) -> Iterator[np.ndarray]:
    """Batches of calibration images, in the units that a file or model takes.

    Args:
        source: A directory of images, a list of paths, an array of images, or an iterable of such
            arrays or of pairs of an array and labels, such as a `tf.data.Dataset`.
        config: How the images enter the file or model.

    Yields:
        float32 (count, height, width, channels).

    Raises:
        ValueError: If there is no image, or one of another shape.
    """
    size = config.image_size
    if isinstance(source, (str, os.PathLike)):
        source = spread(list_images(source), CALIBRATION_IMAGES)
    if isinstance(source, Sequence) and source and isinstance(source[0], (str, os.PathLike)):
        for crop in load_crops([Path(path) for path in source], size, config.crop_fraction):
            yield config.normalize(crop)[None]
        return
    batches = [source] if hasattr(source, "shape") else source
    if not isinstance(batches, Iterable):
        raise InputValueError(
            "`calibration` must be a directory, an array or an iterable of batches. "
            f"Received: {type(source).__name__}."
        )
    empty = True
    for batch in batches:
        if isinstance(batch, tuple) and len(batch) in (2, 3):
            batch = batch[0]  # a data set to train with: images, labels, and perhaps weights
        batch = np.asarray(batch, np.float32)
        if batch.ndim != 4 or batch.shape[1:3] != tuple(size):
            raise InputValueError(
                f"Calibration batches must have shape (count, {size[0]}, {size[1]}, channels). "
                f"Received: {batch.shape}."
            )
        if len(batch):
            empty = False
            yield batch
    if empty:
        raise InputValueError("`calibration` must hold at least one image. Received: none.")


def calibration_images(source, config: ImageConfig) -> np.ndarray:
    """All calibration images as one array, checked for the classic mistakes.

    A single image is allowed, with a warning.

    Args:
        source: As of `calibration_batches`.
        config: How the images enter the file or model.

    Returns:
        float32 (count, height, width, channels).

    Raises:
        ValueError: If the values look like pixels where normalized ones are wanted, like values
            normalized twice, and so on.
    """
    images = np.concatenate(list(calibration_batches(source, config)))
    if config.is_rgb and images.shape[3] != 3:
        raise InputValueError(
            "Calibration images must have 3 channels, like the model's input. "
            f"Received: shape {images.shape}."
        )
    if config.takes_pixels:
        _check_pixels(images)
    elif config.is_rgb:
        _check_normalized(images, config)
    if len(images) == 1:
        warnings.warn(
            "Calibration with a single image sets the ranges by that image alone. Pass 50 or more.",
            stacklevel=3,
        )
    return images


def _check_normalized(images: np.ndarray, config: ImageConfig) -> None:
    lowest, highest = config.range
    span = highest - lowest
    low, high = float(images.min()), float(images.max())
    if high > highest + 0.5 * span + 4:
        mistake = "look like pixels 0 … 255. Normalize them as the model takes them, or pixels with"
        mistake += " normalize=True"
    elif lowest < -1.5 and low >= 0 and 0.2 < high <= 1:
        mistake = "look like pixels scaled to [0, 1]. Normalize them with preprocess_input instead"
    elif lowest < -1.5 and high < -1 and float(images.std()) < 0.2:
        mistake = "look like values normalized twice. Call preprocess_input once"
    else:
        return
    raise InputValueError(
        f"Calibration images must be normalized: about {lowest:.2g} … {highest:.2g}. "
        "Received: values "
        f"{low:.3g} … {high:.3g}, which {mistake}."
    )


def _check_pixels(images):
    low, high = float(images.min()), float(images.max())
    if low < 0:
        mistake = "look normalized already. Pass the pixels, or normalize=False"
    elif 0 < high <= 1:
        mistake = "look scaled to [0, 1]. Pass the pixels themselves"
    elif high > 255:
        mistake = "exceed 255. Pass 8-bit pixels"
    else:
        return
    raise InputValueError(
        "With normalize=True calibration images must be pixels, 0 … 255. Received: values "
        f"{low:.3g} … {high:.3g}, which {mistake}."
    )
