"""Metrics that compare the outputs of classifiers."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

VALUES_AT_ONCE = 2**16  # by `sqnr`, few enough for the processor's cache


def sqnr(reference: ArrayLike, candidate: Any) -> float:
    """Computes the signal-to-quantization-noise ratio in dB.

    It is 10·log10(Σ reference² / Σ (reference − candidate)²).
    """
    reference = np.atleast_1d(reference)
    if not getattr(candidate, "shape", ()):  # an `IntegerTensor` is read in parts
        candidate = np.atleast_1d(candidate)
    signal = noise = 0.0
    rows = max(1, VALUES_AT_ONCE // max(1, reference[:1].size))
    for start in range(0, len(reference), rows):
        part = reference[start : start + rows].astype(np.float64).ravel()
        error = part - candidate[start : start + rows].ravel()
        signal += float(np.vdot(part, part))
        noise += float(np.vdot(error, error))
    return float(10 * np.log10(signal / noise)) if noise and signal else float("inf")


def are_probabilities(scores: np.ndarray) -> bool:
    """Returns whether each row of scores (images, classes) is a distribution, and not logits."""
    return bool(scores.min() >= 0 and np.allclose(scores.sum(1), 1, atol=0.02))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits (images, classes)."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def best_classes(scores: np.ndarray, count: int = 5) -> np.ndarray:
    """Returns the indices of the `count` highest scores, best first, shape (images, count)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def agreement(reference: np.ndarray, candidate: np.ndarray) -> int:
    """Counts the images for which both outputs have the same best class."""
    return int((reference.argmax(1) == candidate.argmax(1)).sum())
