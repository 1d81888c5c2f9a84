"""How far the confidence of a classifier can be trusted, and the temperature that corrects it."""

from dataclasses import dataclass

import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.metrics import are_probabilities, softmax
from keras_mobileone.reports import Report

BINS = 15  # as in the paper that the error is usually cited from
# Bounds of the search for a temperature, and the ratio of the golden section.
LOWEST, HIGHEST, GOLDEN = 0.05, 20.0, (5**0.5 - 1) / 2
STEPS = 60
TINY = 1e-12


@dataclass(frozen=True)
class Confidence(Report):
    """Calibration of the confidence of a classifier.

    The temperature is fitted on every other image and tried on the rest.

    Attributes:
        images: Number of images.
        mean_confidence: Mean of the highest probability of each image.
        accuracy: Fraction of images whose label has the highest probability.
        expected_calibration_error: Mean difference of confidence and accuracy over 15 bins of equal
            width, weighted by their images (Guo et al. 2017, arXiv 1706.04599).
        temperature: Number that the logits are divided by before the softmax.
        scaled_expected_calibration_error: The error with that temperature, on the images that it
            was not fitted on.
        unscaled_expected_calibration_error: The error without it, on the same images.
    """

    images: int
    mean_confidence: float
    accuracy: float
    expected_calibration_error: float
    temperature: float
    scaled_expected_calibration_error: float
    unscaled_expected_calibration_error: float


def measure_confidence(scores: np.ndarray, labels: np.ndarray) -> Confidence:
    """Measures the calibration of scores and fits a temperature.

    Args:
        scores: Logits or probabilities (images, classes).
        labels: Class index of each image, (images,).

    Returns:
        A `Confidence`.

    Raises:
        ValueError: If there are fewer than two images.

    Examples:
        >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
        >>> found = measure_confidence(logits, np.array([0, 0, 0, 1]))
        >>> round(found.expected_calibration_error, 3)
        0.15
    """
    if len(scores) < 2:
        raise InputValueError(
            f"Measuring confidence needs at least 2 images. Received: {len(scores)}."
        )
    logits = as_logits(scores)
    probabilities = softmax(logits)
    half = np.arange(len(logits)) % 2 == 0
    temperature = fit_temperature(logits[half], labels[half])
    rest, rest_labels = logits[~half], labels[~half]
    return Confidence(
        images=len(logits),
        mean_confidence=float(probabilities.max(1).mean()),
        accuracy=float((probabilities.argmax(1) == labels).mean()),
        expected_calibration_error=expected_calibration_error(probabilities, labels),
        temperature=temperature,
        scaled_expected_calibration_error=expected_calibration_error(
            softmax(rest / temperature), rest_labels
        ),
        unscaled_expected_calibration_error=expected_calibration_error(softmax(rest), rest_labels),
    )


def as_logits(scores: np.ndarray) -> np.ndarray:
    """Returns scores as float64 logits; probabilities are replaced by their logarithms."""
    scores = np.asarray(scores, np.float64)
    return np.log(np.maximum(scores, TINY)) if are_probabilities(scores) else scores


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """Returns the mean gap of confidence and accuracy over bins of confidence.

    Args:
        probabilities: (images, classes).
        labels: Class index of each image.
        bins: Number of bins of equal width from 0 to 1.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    # A bin contains its upper edge, as in the paper.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        abs(confidence[place == index].sum() - right[place == index].sum()) for index in range(bins)
    ]
    return float(np.sum(gaps) / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature with the lowest mean cross-entropy, by golden-section search."""

    def loss(exponent: float) -> float:
        scaled = logits / np.exp(exponent)
        highest = scaled.max(1, keepdims=True)
        totals = highest[:, 0] + np.log(np.exp(scaled - highest).sum(1))
        return float((totals - scaled[np.arange(len(labels)), labels]).mean())

    low, high = np.log(LOWEST), np.log(HIGHEST)
    for _ in range(STEPS):
        first, second = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if loss(first) < loss(second):
            high = second
        else:
            low = first
    return float(np.exp((low + high) / 2))
