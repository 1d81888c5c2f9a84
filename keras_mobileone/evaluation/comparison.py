"""`compare`: measures how much the outputs of two classifiers differ."""

import os
from dataclasses import dataclass

import keras
import numpy as np

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import image_labels, list_images
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.accuracy import predict_images
from keras_mobileone.evaluation.metrics import agreement, best_classes, sqnr
from keras_mobileone.evaluation.predictor import Predictor, as_predictor
from keras_mobileone.reports import Report


@dataclass(frozen=True)
class Comparison(Report):
    """Result of `compare`: outputs of a candidate and of a reference on the same images.

    Attributes:
        images: Number of images.
        agreement: Number of images for which both have the same best class.
        sqnr: Signal-to-quantization-noise ratio of the outputs,
            10·log10(Σ reference² / Σ (reference − candidate)²), in dB.
        cosine: Cosine similarity of the outputs, averaged over the images.
        error: Largest difference divided by the largest magnitude of the reference.
        reference_top1, candidate_top1: Number of images whose label is the best class; None
            without labels.
        reference_top5, candidate_top5: Number of images whose label is among the five best
            classes; None without labels.
    """

    images: int
    agreement: int
    sqnr: float
    cosine: float
    error: float
    reference_top1: int | None
    candidate_top1: int | None
    reference_top5: int | None
    candidate_top5: int | None


def compare(
    reference: "keras.Model | Predictor | str | os.PathLike",
    candidate: "keras.Model | Predictor | str | os.PathLike",
    images: "str | os.PathLike | np.ndarray",
    labels: np.ndarray | None = None,
    *,
    image_config: ImageConfig | None = None,
    crop_fraction: float | None = None,
) -> Comparison:
    """Runs two classifiers, each a Keras model or a TFLite file, on the same images.

    Args:
        reference: Keras model, path of a `.keras` or `.tflite` file, or predictor.
        candidate: Keras model, path of a `.keras` or `.tflite` file, or predictor.
        images: Directory of images, or an array of pixels (count, height, width, 3) uint8.
        labels: Class index of each image. None: for a directory of class folders named by WordNet
            id, the indices in ImageNet; otherwise there are no labels.
        image_config: How `candidate` takes images. None: according to its graph or its metadata. To
            set the configuration of `reference`, make a predictor of it with `load_predictor`.
        crop_fraction: Side of the center crop divided by the short side of the resized image, for a
            directory. None: the crop fraction in the configuration of `reference`, see
            `ImageConfig`.

    Returns:
        A `Comparison`.

    Raises:
        FileNotFoundError: If a file or the directory does not exist.
        ValueError: If the outputs of the two models, or the labels, do not fit each other, or if a
            model does not take RGB images.

    Examples:
        >>> model = km.MobileOneS0(weights=None, classes=2, input_shape=(64, 64, 3), deploy=True)
        >>> report = km.export_tflite(model, "model.tflite", "float16")
        >>> result = km.compare(model, "model.tflite", "photos")
        >>> result.images, result.error < 0.01
        (8, True)
    """
    predictors = [as_predictor(reference), as_predictor(candidate, image_config=image_config)]
    if isinstance(images, (str, os.PathLike)):
        paths = list_images(images)
        labels = image_labels(paths) if labels is None else labels
        crop_fraction = crop_fraction or predictors[0].image_config.crop_fraction
        outputs = predict_images(predictors, paths, crop_fraction)
    else:
        outputs = [predictor(np.asarray(images)) for predictor in predictors]
    return compare_outputs(outputs[0], outputs[1], labels)


def compare_outputs(
    reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray | None = None
) -> Comparison:
    """Compares outputs that two classifiers gave for the same images.

    Args:
        reference, candidate: Outputs of shape (images, classes).
        labels: Class index of each image, or None.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If the shapes differ.
    """
    if reference.shape != candidate.shape or (labels is not None and len(labels) != len(reference)):
        raise InputValueError(
            "Expected outputs of the same shape, and a label for each image. Received: outputs of "
            f"shapes {reference.shape} and {candidate.shape}, and "
            f"{'no' if labels is None else len(labels)} labels."
        )
    products = (reference * candidate).sum(1, dtype=np.float64)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    return Comparison(
        len(reference),
        agreement(reference, candidate),
        sqnr(reference, candidate),
        float((products / np.maximum(norms, 1e-30)).mean()),
        float(np.abs(reference - candidate).max() / max(np.abs(reference).max(), 1e-30)),
        _correct(reference, labels, 1),
        _correct(candidate, labels, 1),
        _correct(reference, labels, 5),
        _correct(candidate, labels, 5),
    )


def _correct(outputs: np.ndarray, labels: np.ndarray | None, count: int) -> int | None:
    """Counts the images whose label is among the `count` best classes; None without labels."""
    if labels is None:
        return None
    return int((best_classes(outputs, count) == labels[:, None]).sum())
