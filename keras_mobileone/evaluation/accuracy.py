"""`evaluate`: measures the accuracy of a Keras model or a TFLite file on class folders."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import load_crops
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.confidence import Confidence, measure_confidence
from keras_mobileone.evaluation.metrics import agreement, best_classes
from keras_mobileone.evaluation.predictor import Predictor, as_predictor
from keras_mobileone.reports import Report

BATCH_SIZE = 32


@dataclass(frozen=True)
class Evaluation(Report):
    """Result of `evaluate`.

    Attributes:
        model: Name of the model or file.
        images: Number of images that were evaluated.
        top1: Number of images whose label is the best class.
        top5: Number of images whose label is among the five best classes.
        agreement: Number of images for which the reference has the same best class; None without a
            reference.
        images_per_second: Speed of the evaluation, including the decoding of the files.
        image_size: (height, width) in pixels.
        crop_fraction: Crop fraction of the evaluation transform.
        confidence: Calibration of the confidence; None unless it was asked for.
    """

    model: str
    images: int
    top1: int
    top5: int
    agreement: int | None
    images_per_second: float
    image_size: tuple[int, int]
    crop_fraction: float
    confidence: Confidence | None = None


def evaluate(
    model: "keras.Model | Predictor | str | os.PathLike",
    directory: str | os.PathLike,
    *,
    image_config: ImageConfig | None = None,
    crop_fraction: float | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    reference: "keras.Model | Predictor | str | os.PathLike | None" = None,
    confidence: bool = False,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measures the top-1 and top-5 accuracy of a classifier on class folders.

    Args:
        model: Keras model, path of a `.keras` or `.tflite` file, or predictor.
        directory: Directory of class folders. For a model of ImageNet's 1,000 classes they are
            named by WordNet id, such as `n01440764/`, and some may be missing. For any other model
            there is one folder for each output, in sorted order.
        image_config: How `model` takes images. None: according to its graph or its metadata. To
            set the configuration of `reference`, make a predictor of it with `load_predictor`.
        crop_fraction: Side of the center crop divided by the short side of the resized image. None:
            the crop fraction in the configuration of `model`, see `ImageConfig`.
        classes: Names of the folders in the order of the outputs, such as the lines of
            `classes.txt` of a training run. None: the order described for `directory`.
        limit: Largest number of images to evaluate, spread evenly over the sorted list.
        reference: Second model, whose best class is compared image by image.
        confidence: Whether to measure how far the confidence can be trusted too, see
            `measure_confidence`.
        threads: Number of CPU threads for TFLite files.
        progress: Called with (done, total) after each batch.

    Returns:
        An `Evaluation`.

    Raises:
        FileNotFoundError: If `directory` or a model file does not exist.
        ValueError: If an argument is out of range, a model does not classify RGB images, the
            folders do not fit its outputs, or an image cannot be decoded. The message names the
            file or folder.

    Examples:
        >>> model = km.MobileOneS0(weights=None, classes=2, input_shape=(64, 64, 3), deploy=True)
        >>> result = km.evaluate(model, "photos")
        >>> result.images, result.image_size, result.crop_fraction
        (8, (64, 64), 0.875)
    """
    check_selection(limit, crop_fraction)
    predictors = [as_predictor(model, threads, image_config)]
    if reference is not None:
        predictors.append(as_predictor(reference, threads))
    outputs = number_of_classes(predictors)
    paths, labels = ClassFolders.of_outputs(directory, outputs, classes).spread(limit)
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
        confidence=measure_confidence(scores[0], labels) if confidence else None,
    )


def check_selection(limit: int | None, crop_fraction: float | None) -> None:
    """Raises ValueError if a number of images or a crop fraction is out of range."""
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise InputValueError(
            f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={crop_fraction}."
        )
    if limit is not None and limit < 1:
        raise InputValueError(f"`limit` must be at least 1. Received: limit={limit}.")


def predict_images(
    predictors: Sequence[Predictor],
    paths: Sequence[Path],
    crop_fraction: float,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Runs several predictors on the same image files, each of which is decoded once.

    Args:
        predictors: Predictors of one image size.
        paths: The image files.
        crop_fraction: Side of the center crop divided by the short side of the resized image.
        progress: Called with (done, total) after each batch.

    Returns:
        For each predictor a float32 array (len(paths), classes).

    Raises:
        ValueError: If the predictors take different image sizes, or a file cannot be decoded.
    """
    crops = load_crops(paths, common_size(predictors), crop_fraction)
    return predict_crops(predictors, crops, len(paths), progress)


def predict_crops(
    predictors: Sequence[Predictor],
    crops: Iterator[np.ndarray],
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Runs several predictors on the same images.

    Args:
        predictors: Predictors of the size of the images.
        crops: Images, uint8 (height, width, 3).
        count: Number of images.
        progress: Called with (done, total) after each batch.

    Returns:
        For each predictor a float32 array (count, classes).
    """
    outputs: list[list[np.ndarray]] = [[] for _ in predictors]
    for start in range(0, count, BATCH_SIZE):
        pixels = np.stack(list(islice(crops, BATCH_SIZE)))
        for predictor, batches in zip(predictors, outputs, strict=True):
            batches.append(predictor(pixels))
        if progress:
            progress(start + len(pixels), count)
    return [np.concatenate(batches) for batches in outputs]


def common_size(predictors: Sequence[Predictor]) -> tuple[int, int]:
    """Returns (height, width), which must be the same for all predictors."""
    sizes = {predictor.image_config.image_size for predictor in predictors}
    if len(sizes) != 1:
        raise InputValueError(f"Expected models of one image size. Received: {sorted(sizes)}.")
    return sizes.pop()


def number_of_classes(predictors: Sequence[Predictor]) -> int:
    """Returns the number of classes, which must be the same for all predictors."""
    outputs = _classes_of(predictors[0])
    for predictor in predictors[1:]:
        if _classes_of(predictor) != outputs:
            raise InputValueError(
                f"Expected a classifier of {outputs} classes. "
                f"Received: {predictor.name}, which has {predictor.classes}. Pass a reference "
                "with the classes of the model."
            )
    return outputs


def _classes_of(predictor: Predictor) -> int:
    if predictor.classes is None:
        raise InputValueError(
            "Expected a classifier with one output of shape (batch, classes). "
            f"Received: {predictor.name}, whose output has a different shape."
        )
    return predictor.classes
