"""Metrics of semantic segmentation: the confusion matrix and the IoU of classes."""

import numpy as np
from numpy.typing import ArrayLike

from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.errors import InputValueError


def mask_confusion(
    labels: ArrayLike, predictions: ArrayLike, classes: int, ignore: int = IGNORE
) -> np.ndarray:
    """Counts the pixels of each pair of label and predicted class.

    Sums of the matrices of several images are the matrix of all of them.

    Args:
        labels: Integer array of any shape, with `ignore` for pixels that do not count.
        predictions: Integer array of the same shape.
        classes: Number of classes.
        ignore: Label of pixels that do not count.

    Returns:
        int64 array of shape (classes, classes): rows are labels, columns predictions.

    Raises:
        ValueError: If the shapes differ, or if a class is out of range.

    Examples:
        >>> mask_confusion([0, 0, 1, 255], [0, 1, 1, 0], classes=2)
        array([[1, 1],
               [0, 1]])
    """
    truth, found = np.asarray(labels), np.asarray(predictions)
    if truth.shape != found.shape:
        raise InputValueError(
            "Expected labels and predictions of the same shape. Received: "
            f"{truth.shape} and {found.shape}."
        )
    counted = truth != ignore
    truth, found = truth[counted].astype(np.int64), found[counted].astype(np.int64)
    for name, values in (("labels", truth), ("predictions", found)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise InputValueError(
                f"Expected {name} from 0 to {classes - 1}. Received: values from {values.min()} to "
                f"{values.max()}."
            )
    pairs = np.bincount(truth * classes + found, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def iou_by_class(confusion: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of each class, NaN for classes that never occur.

    Args:
        confusion: See `mask_confusion`.

    Returns:
        float64 array of shape (classes,) with values in [0, 1].

    Examples:
        >>> iou_by_class(np.array([[1, 1], [0, 1]]))
        array([0.5, 0.5])
    """
    shared = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - shared
    return np.divide(shared, union, out=np.full(len(shared), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Returns the mean IoU of the classes that occur as label or prediction, NaN if none does."""
    ious = iou_by_class(confusion)
    present = ~np.isnan(ious)
    return float(ious[present].mean()) if present.any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Returns the fraction of pixels whose class is right, NaN if there are none."""
    total = confusion.sum()
    return float(np.diag(confusion).sum() / total) if total else float("nan")
