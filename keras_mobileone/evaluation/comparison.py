"""`compare`: how closely one classifier follows another."""

import os
from dataclasses import asdict, dataclass

import keras
import numpy as np

from keras_mobileone.data.images import image_labels, list_images
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.accuracy import predict_images
from keras_mobileone.evaluation.metrics import agreement, best_classes, sqnr
from keras_mobileone.evaluation.predictor import Predictor, as_predictor


@dataclass(frozen=True)
class Comparison:
    """A candidate's outputs beside a reference's, on the same images.

    Attributes:
        images: How many.
        agreement: For how many both have the same best class.
        sqnr: Signal to quantization noise of the outputs, 10·log10(Σ r² / Σ (r − c)²), dB.
        cosine: Mean over the images of the outputs' cosine similarity.
        error: Largest difference over the reference's largest magnitude.
        reference_top1, candidate_top1: How many have their label as best class; None without
            labels.
        reference_top5, candidate_top5: The same among the five best.
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

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)


def compare(
    reference: "keras.Model | Predictor | str | os.PathLike",
    candidate: "keras.Model | Predictor | str | os.PathLike",
    images: "str | os.PathLike | np.ndarray",
    labels: np.ndarray | None = None,
    *,
    crop_fraction: float | None = None,
) -> Comparison:
    """Runs two classifiers on the same images, any pair of Keras and TFLite models.

    Args:
        reference: Keras model, or path of a `.keras` or `.tflite`.
        candidate: The same.
        images: Directory of images, or an array of pixels (count, height, width, 3) uint8.
        labels: Class index of each image. For a directory of class folders named by WordNet id
            they are ImageNet's by default.
        crop_fraction: Side of the center crop over the resized short side, for a directory; the
            reference's own if None.

    Raises:
        FileNotFoundError: If a file or the directory does not exist.
        ValueError: If the models' outputs or the labels do not fit each other.

    Example:

    ```python
    result = keras_mobileone.compare(model, "mobileone_s0_int8.tflite", "photographs/")
    print(f"{result.agreement} of {result.images} alike, {result.sqnr:.1f} dB")
    ```
    """
    predictors = [as_predictor(reference), as_predictor(candidate)]
    if isinstance(images, (str, os.PathLike)):
        paths = list_images(images)
        labels = image_labels(paths) if labels is None else labels
        crop_fraction = crop_fraction or predictors[0].image_config.crop_fraction
        outputs = predict_images(predictors, paths, crop_fraction)
    else:
        outputs = [predictor(np.asarray(images)) for predictor in predictors]
    return compare_outputs(*outputs, labels)


def compare_outputs(
    reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray | None = None
) -> Comparison:
    """`compare` for outputs at hand, each (images, classes).

    Raises:
        ValueError: If the shapes differ.
    """
    if reference.shape != candidate.shape or (labels is not None and len(labels) != len(reference)):
        raise InputValueError(
            "Expected outputs of one shape, and a label for each image. Received: "
            f"{reference.shape}, {candidate.shape}, "
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
        *_right(reference, candidate, labels, 1),
        *_right(reference, candidate, labels, 5),
    )


def _right(reference, candidate, labels, count):
    """How many images have their label among the `count` best classes of either."""
    if labels is None:
        return None, None
    return tuple(
        int((best_classes(outputs, count) == labels[:, None]).sum())
        for outputs in (reference, candidate)
    )
