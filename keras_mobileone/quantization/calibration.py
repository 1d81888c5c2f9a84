"""Loads and checks calibration images for int8."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import list_images, load_crops, load_stretched, spread
from keras_mobileone.errors import InputValueError

CALIBRATION_IMAGES = 200  # taken from a directory, spread evenly over its files


def calibration_batches(source: Any, config: ImageConfig) -> Iterator[np.ndarray]:
    """Yields batches of calibration images in the units that a file or model takes.

    Args:
        source: A directory of images, a list of paths, an array of images, or an iterable of such
            arrays or of tuples of an array and labels, such as a `tf.data.Dataset`.
        config: How the file or model takes images.

    Yields:
        float32 arrays of shape (count, height, width, channels).

    Raises:
        ValueError: If there is no image, or if an array has an unexpected shape.
    """
    height, width = config.image_size
    if isinstance(source, (str, os.PathLike)):
        source = spread(list_images(source), CALIBRATION_IMAGES)
    if isinstance(source, Sequence) and source and isinstance(source[0], (str, os.PathLike)):
        paths = [Path(path) for path in source]
        images = (
            load_stretched(paths, (height, width))
            if config.stretch
            else load_crops(paths, (height, width), config.crop_fraction)
        )
        for image in images:
            yield config.normalize(image)[None]
        return
    batches = [source] if hasattr(source, "shape") else source
    if not isinstance(batches, Iterable):
        raise InputValueError(
            "`calibration` must be a directory, a list of paths, an array or an iterable of "
            f"batches. Received: {type(source).__name__}. Pass one of these."
        )
    empty = True
    for batch in batches:
        if isinstance(batch, tuple) and len(batch) in (2, 3):
            batch = batch[0]  # a training dataset: images, labels and perhaps sample weights
        batch = np.asarray(batch, np.float32)
        if batch.ndim != 4 or batch.shape[1:3] != (height, width):
            remedy = (
                "These are single images: call dataset.batch(32), or images[None] for one image."
                if batch.shape[:2] == (height, width)
                else "Resize the images to the size of the model."
            )
            raise InputValueError(
                f"Calibration batches must have shape (count, {height}, {width}, channels). "
                f"Received: {batch.shape}. {remedy}"
            )
        if len(batch):
            empty = False
            yield batch
    if empty:
        raise InputValueError(
            "`calibration` must contain at least one image. Received: none. Pass 50 or more."
        )


def calibration_images(source: Any, config: ImageConfig) -> np.ndarray:
    """Loads all calibration images into one array and checks it for common mistakes.

    A single image causes a warning.

    Args:
        source: A directory, a list of paths, an array or batches, see `calibration_batches`.
        config: How the file or model takes images.

    Returns:
        float32 array of shape (count, height, width, channels).

    Raises:
        ValueError: If there is no image, if an array has an unexpected shape, or if the values are
            in the wrong units, for example pixels instead of normalized values, or values that are
            normalized twice.
    """
    images = np.concatenate(list(calibration_batches(source, config)))
    if config.is_rgb and images.shape[3] != 3:
        raise InputValueError(
            "Calibration images must have 3 channels, like the model's input. "
            f"Received: shape {images.shape}. Convert them to RGB."
        )
    if config.takes_pixels:
        _check_pixels(images)
    elif config.is_rgb:
        _check_normalized(images, config)
    if len(images) == 1:
        warnings.warn(
            "A single image for calibration sets the ranges by that image alone. Pass 50 or more.",
            stacklevel=3,
        )
    return images


def _check_normalized(images: np.ndarray, config: ImageConfig) -> None:
    """Raises ValueError if values do not look normalized as `config` says."""
    lowest, highest = config.range
    span = highest - lowest
    low, high = float(images.min()), float(images.max())
    if high > highest + 0.5 * span + 4:
        mistake = (
            "look like pixels 0 … 255. Normalize them for the model, or pass normalize=True so "
            "that the file does it"
        )
    elif lowest < -1.5 and low >= 0 and 0.2 < high <= 1:
        mistake = "look like pixels scaled to [0, 1]. Normalize them with preprocess_input instead"
    elif lowest < -1.5 and high < -1 and float(images.std()) < 0.2:
        mistake = "look like values normalized twice. Call preprocess_input once"
    else:
        return
    raise InputValueError(
        f"Calibration images must be normalized to about {lowest:.2g} … {highest:.2g}. "
        f"Received: values {low:.3g} … {high:.3g}, which {mistake}."
    )


def _check_pixels(images: np.ndarray) -> None:
    """Raises ValueError if values do not look like pixels."""
    low, high = float(images.min()), float(images.max())
    if low < 0:
        mistake = (
            "look normalized already. Pass the pixels, or, if the model takes normalized images, "
            "normalize=False"
        )
    elif 0 < high <= 1:
        mistake = "look scaled to [0, 1]. Pass the pixels themselves"
    elif high > 255:
        mistake = "exceed 255. Pass 8-bit pixels"
    else:
        return
    raise InputValueError(
        "Calibration images must be pixels, 0 … 255, as the file takes them. "
        f"Received: values {low:.3g} … {high:.3g}, which {mistake}."
    )
