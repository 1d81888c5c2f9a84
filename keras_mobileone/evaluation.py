"""Accuracy of a Keras model or a TFLite file on class folders of images."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.files import atomic_write
from keras_mobileone.images import list_labelled_images, load_crops
from keras_mobileone.prediction import Predictor, load_predictor

BATCH_SIZE = 32


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        model: Name of the model or file.
        images: How many were evaluated.
        top1, top5: How many of them have their label as best, among the five best.
        agreement: How many get the reference's answer; None without a reference.
        images_per_second: Decoding included.
        image_size: (height, width) in pixels.
        crop_fraction: Of the evaluation transform.
    """

    model: str
    images: int
    top1: int
    top5: int
    agreement: int | None
    images_per_second: float
    image_size: tuple[int, int]
    crop_fraction: float

    def save(self, path: str | os.PathLike) -> None:
        """Writes the result as JSON, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def evaluate(
    model: "keras.Model | Predictor | str | os.PathLike",
    directory: str | os.PathLike,
    *,
    crop_fraction: float = 0.875,
    limit: int | None = None,
    reference: "keras.Model | Predictor | str | os.PathLike | None" = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Top-1 and top-5 of a classifier of ImageNet's classes.

    Args:
        model: Keras model that takes normalized images, or path of a `.keras` or `.tflite` file.
        directory: Class folders named by WordNet id, such as `n01440764/`.
        crop_fraction: Crop side over resized short side. See `Variant.crop_fraction`.
        limit: Evaluate only so many images, spread evenly over the sorted list.
        reference: Second model, whose best class is compared image by image.
        threads: For a TFLite file.
        progress: Called with (done, total) after each batch.

    Raises:
        FileNotFoundError: If `directory` or a model file does not exist.
        ValueError: For a folder or file that does not fit, with its name.

    Example:

    ```python
    result = keras_mobileone.evaluate("mobileone_s0.tflite", "imagenet/val")
    print(result.top1 / result.images)
    ```
    """
    if not 0 < crop_fraction <= 1:
        raise ValueError(
            f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={crop_fraction}."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1. Received: limit={limit}.")
    labelled = list_labelled_images(directory)
    if limit is not None and limit < len(labelled):
        labelled = [labelled[i * len(labelled) // limit] for i in range(limit)]
    paths, labels = [path for path, _ in labelled], np.array([label for _, label in labelled])
    predict = _predictor(model, threads)
    predict_reference = None if reference is None else _predictor(reference, threads)

    crops = load_crops(paths, predict.image_size, crop_fraction)
    top1 = top5 = agreement = done = 0
    start = time.perf_counter()
    while done < len(paths):
        pixels = np.stack([next(crops) for _ in range(min(BATCH_SIZE, len(paths) - done))])
        truth = labels[done : done + len(pixels), None]
        best = _best_classes(predict(pixels), predict.name)
        top1 += int((best[:, :1] == truth).sum())
        top5 += int((best == truth).sum())
        if predict_reference is not None:
            other = _best_classes(predict_reference(pixels), predict_reference.name)
            agreement += int((best[:, 0] == other[:, 0]).sum())
        done += len(pixels)
        if progress:
            progress(done, len(paths))
    return Evaluation(
        model=predict.name,
        images=done,
        top1=top1,
        top5=top5,
        agreement=None if reference is None else agreement,
        images_per_second=round(done / (time.perf_counter() - start), 1),
        image_size=predict.image_size,
        crop_fraction=crop_fraction,
    )


def _predictor(model, threads) -> Predictor:
    if isinstance(model, (keras.Model, str, Path)):
        return load_predictor(model, threads)
    return model


def _best_classes(scores, name):
    from keras_mobileone.imagenet import NUM_CLASSES

    if scores.ndim != 2 or scores.shape[1] != NUM_CLASSES:
        raise ValueError(
            f"Expected scores of ImageNet's {NUM_CLASSES} classes. "
            f"Received: output of shape {scores.shape} from {name}."
        )
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]
