"""Calibration images for int8: from a directory, an array or batches, in the file's units."""

import os
import warnings
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from keras_mobileone.compat import flatten_layers
from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.data.images import list_images, load_crops, spread
from keras_mobileone.errors import InputValueError

CALIBRATION_IMAGES = 200  # of a directory, spread evenly over it


def calibration_batches(source, size: tuple[int, int], normalize: bool) -> Iterator[np.ndarray]:
    """float32 batches of calibration images, in the units of the file's input.

    Args:
        source: As `export_tflite`'s `calibration`.
        size: (height, width) of the model's input.
        normalize: Whether the file takes pixels 0 … 255 instead of normalized values.

    Raises:
        ValueError: If there is no image, or one of another shape.
    """
    if isinstance(source, (str, os.PathLike)):
        paths = spread(list_images(source), CALIBRATION_IMAGES)
        for crop in load_crops(paths, size, crop_fraction=0.875):
            yield (crop.astype(np.float32) if normalize else preprocess_input(crop))[None]
        return
    batches = [source] if hasattr(source, "shape") else source
    if not isinstance(batches, Iterable):
        raise InputValueError(
            "`calibration` must be a directory, an array or an iterable of batches. "
            f"Received: {type(source).__name__}."
        )
    empty = True
    for batch in batches:
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


def calibration_images(source, model: keras.Model, normalize: bool) -> np.ndarray:
    """All calibration images as one array, checked for the classic mistakes.

    Args:
        source, normalize: As `calibration_batches`.
        model: The model they are for.

    Returns:
        float32 (count, height, width, channels).

    Raises:
        ValueError: If the values look like pixels where normalized ones are wanted, like values
            normalized twice, and so on.

    A single image is allowed, with a warning.
    """
    _, *size, channels = model.input_shape
    images = np.concatenate(list(calibration_batches(source, size, normalize)))
    if images.shape[3] != channels:
        raise InputValueError(
            f"Calibration images must have {channels} channels, like the model's input. "
            f"Received: shape {images.shape}."
        )
    if images.shape[-1] == 3 and not scales_itself(model):
        (_check_pixels if normalize else _check_normalized)(images)
    if len(images) == 1:
        warnings.warn(
            "Calibration with a single image sets the ranges by that image alone. Pass 50 or more.",
            stacklevel=3,
        )
    return images


def scales_itself(model: keras.Model) -> bool:
    """Whether the model takes pixels, since it has a layer that scales them."""
    return any(
        isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization))
        for layer in flatten_layers(model)
    )


def _check_normalized(images):
    low, high = float(images.min()), float(images.max())
    if high > 20:
        mistake = "look like pixels 0 … 255. Pass them through preprocess_input, or normalize=True"
    elif low >= 0 and 0.2 < high <= 1:
        mistake = "look like pixels scaled to [0, 1]. Normalize them with preprocess_input instead"
    elif high < -1 and float(images.std()) < 0.2:
        mistake = "look like values normalized twice. Call preprocess_input once"
    else:
        return
    raise InputValueError(
        "Calibration images must be normalized: about -2.1 … 2.6. Received: values "
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
