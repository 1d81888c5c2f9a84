"""Accuracy of a Keras model or a TFLite file on class folders of images."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.imagenet import NUM_CLASSES
from keras_mobileone.data.images import list_labelled_images, load_crops, spread
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.metrics import agreement, best_classes
from keras_mobileone.evaluation.predictor import Predictor, as_predictor
from keras_mobileone.files import atomic_write

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
    crop_fraction: float | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    reference: "keras.Model | Predictor | str | os.PathLike | None" = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Top-1 and top-5 of a classifier on class folders.

    Args:
        model: Keras model, or path of a `.keras` or `.tflite` file.
        directory: Class folders. For a model of ImageNet's 1,000 classes they are named by WordNet
            id, such as `n01440764/`, and may be a part of them; for any other there is one for each
            output, in sorted order.
        crop_fraction: Side of the center crop over the resized short side; the model's own if None.
        classes: Names of the folders in the order of the outputs (`classes.txt` of a training run),
            where that is not the above.
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
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise InputValueError(
            f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={crop_fraction}."
        )
    if limit is not None and limit < 1:
        raise InputValueError(f"`limit` must be at least 1. Received: limit={limit}.")
    predictors = [as_predictor(m, threads) for m in (model, reference) if m is not None]
    outputs = predictors[0].classes
    for predictor in predictors:
        _check_outputs(predictor, outputs)
    labelled = label_images(directory, outputs, classes)
    if limit is not None:
        labelled = spread(labelled, limit)
    paths, labels = [path for path, _ in labelled], np.array([label for _, label in labelled])
    crop_fraction = crop_fraction or predictors[0].image_config.crop_fraction
    start = time.perf_counter()
    scores = predict_images(predictors, paths, crop_fraction, progress)
    seconds = time.perf_counter() - start
    best = best_classes(scores[0])
    return Evaluation(
        model=predictors[0].name,
        images=len(paths),
        top1=int((best[:, 0] == labels).sum()),
        top5=int((best == labels[:, None]).sum()),
        agreement=agreement(scores[1], scores[0]) if reference is not None else None,
        images_per_second=round(len(paths) / seconds, 1),
        image_size=predictors[0].image_config.image_size,
        crop_fraction=crop_fraction,
    )


def predict_images(
    predictors: Sequence[Predictor],
    paths: Sequence[Path],
    crop_fraction: float,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Outputs of several predictors for the same image files, each decoded once.

    Returns:
        For each predictor a float32 array (len(paths), classes).

    Raises:
        ValueError: If the predictors take different image sizes, or a file can't be decoded.
    """
    sizes = {predictor.image_config.image_size for predictor in predictors}
    if len(sizes) != 1:
        raise InputValueError(f"Expected models of one image size. Received: {sorted(sizes)}.")
    crops = load_crops(paths, sizes.pop(), crop_fraction)
    outputs = [[] for _ in predictors]
    for start in range(0, len(paths), BATCH_SIZE):
        pixels = np.stack(list(islice(crops, BATCH_SIZE)))
        for predictor, batches in zip(predictors, outputs, strict=True):
            batches.append(predictor(pixels))
        if progress:
            progress(start + len(pixels), len(paths))
    return [np.concatenate(batches) for batches in outputs]


def label_images(
    directory: str | os.PathLike, outputs: int, classes: Sequence[str] | None = None
) -> list[tuple[Path, int]]:
    """Images in class folders, each with the output that stands for its class: see `evaluate`."""
    if classes is None and outputs == NUM_CLASSES:
        return list_labelled_images(directory)
    folders = ClassFolders(directory, classes)
    if len(folders.classes) != outputs:
        raise InputValueError(
            f"Expected one class for each of the model's {outputs} outputs. Received: "
            f"{len(folders.classes)} in {directory if classes is None else '`classes`'}."
        )
    paths = [folders.root / file for file in folders.files]
    return list(zip(paths, folders.labels.tolist(), strict=True))


def _check_outputs(predictor, outputs):
    if predictor.classes is None or predictor.classes != outputs:
        raise InputValueError(
            f"Expected a classifier{'' if outputs is None else f' of {outputs} classes'}. "
            f"Received: {predictor.name}, whose output is another."
        )
