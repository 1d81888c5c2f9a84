"""Conventions of ImageNet: the normalization of images and the names of the classes."""

import csv
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import keras
import numpy as np

from keras_mobileone.checks import require_channels_last
from keras_mobileone.errors import InputValueError

# Per-channel statistics of ImageNet's RGB values scaled to [0, 1], as in the training by the
# authors.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NUM_CLASSES = 1000

# The classes of Imagenette, github.com/fastai/imagenette, in the order of their WordNet ids.
IMAGENETTE = (
    "n01440764",
    "n02102040",
    "n02979186",
    "n03000684",
    "n03028079",
    "n03394916",
    "n03417042",
    "n03425413",
    "n03445777",
    "n03888257",
)

# Number of outputs of the classifiers with pretrained weights, by the name of the weights.
PRETRAINED_CLASSES = {"imagenet": NUM_CLASSES, "imagenette": len(IMAGENETTE)}


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Normalizes RGB images for MobileOne: (x / 255 − mean) / std in each channel.

    Args:
        x: Array or tensor of shape (…, height, width, 3) with values in [0, 255], of any dtype.
        data_format: None or `"channels_last"`.

    Returns:
        Array or tensor of the same type and shape as `x`, with the dtype of `x` if it is floating
        point and float32 otherwise. `x` is not modified.

    Raises:
        ValueError: If there are not 3 channels, or for another data format.
    """
    if data_format is None:
        require_channels_last()
    elif data_format != "channels_last":
        raise InputValueError(
            f"MobileOne takes channels last. Received: data_format={data_format!r}. "
            "Move the channels to the last axis."
        )
    if x.shape[-1] != 3:
        raise InputValueError(
            "Expected RGB images of shape (…, height, width, 3). "
            f"Received: shape {tuple(x.shape)}. Convert gray images to RGB first."
        )
    scale = 1 / (255 * np.array(STD))
    offset = np.array(MEAN) / STD
    if isinstance(x, np.ndarray):
        dtype = x.dtype if np.issubdtype(x.dtype, np.floating) else np.float32
        return x.astype(dtype) * scale.astype(dtype) - offset.astype(dtype)
    dtype = keras.backend.standardize_dtype(x.dtype)
    dtype = dtype if keras.backend.is_float_dtype(dtype) else "float32"
    return keras.ops.cast(x, dtype) * scale.astype(dtype) - offset.astype(dtype)


@cache
def classes() -> tuple[tuple[str, str], ...]:
    """Returns (WordNet id, name) of ImageNet's 1,000 classes in index order."""
    table = resources.files("keras_mobileone") / "assets" / "imagenet_classes.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    return tuple((row["wnid"], row["name"]) for row in csv.DictReader(lines))


@cache
def class_index() -> dict[str, int]:
    """Returns the class index of each WordNet id."""
    return {wnid: index for index, (wnid, _) in enumerate(classes())}


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Returns the classes with the highest scores, best first.

    Args:
        preds: Array of shape (batch, 1000) with probabilities or logits.
        top: Number of classes to return for each image.

    Returns:
        A list of (WordNet id, class name, score) for each image.

    Raises:
        ValueError: If `preds` has another shape.
    """
    preds = keras.ops.convert_to_numpy(preds)
    if preds.ndim != 2 or preds.shape[1] != NUM_CLASSES:
        raise InputValueError(
            "`decode_predictions` expects a batch of ImageNet scores, shape (batch, 1000). "
            f"Received: shape {preds.shape}."
        )
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(*classes()[index], float(scores[index])) for index in row]
        for scores, row in zip(preds, best, strict=True)
    ]


def class_table(weights: str) -> tuple[tuple[str, str], ...]:
    """Returns (WordNet id, name) of the classes of the weights called `weights`, in index order."""
    if weights == "imagenette":
        return tuple((wnid, name) for wnid, name in classes() if wnid in IMAGENETTE)
    return classes()


def top_labels(
    scores: np.ndarray, labels: Sequence[str] | None, top: int = 5
) -> tuple[tuple[str, float], ...]:
    """Returns (label, score) of an image's highest `scores`, with the index for a missing label."""
    best = np.argsort(-scores, kind="stable")[:top]
    return tuple((labels[i] if labels else str(i), float(scores[i])) for i in best)


def labels_of(folders: Sequence[str]) -> list[str]:
    """Returns the class name of each folder: ImageNet's for a WordNet id, else the folder name."""
    known = dict(classes())
    return unique_labels([(folder, known.get(folder, folder)) for folder in folders])


def unique_labels(table: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the class names, with the WordNet id appended to names that two classes share."""
    names = [name for _, name in table]
    return [name if names.count(name) == 1 else f"{name} ({wnid})" for wnid, name in table]
