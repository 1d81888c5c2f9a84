"""The training loss of SSD: cross-entropy with hard negatives, and smooth L1 of the boxes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops
from keras.utils import bounding_boxes

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.encoding import ANCHOR_FORMAT, encode_boxes, image_shape
from keras_mobileone.models.detection.matching import match_anchors

Tensor = Any  # a tensor of Keras' backend, or an array
BOXES_OUTPUT, CLASSES_OUTPUT = "bbox_regression", "cls_logits"  # keras-hub's names
BOXES_LABEL, CLASSES_LABEL = "boxes", "labels"
PADDING = -1  # class of a row that is not a box
BACKGROUND = 0  # index of the background among the logits; class c has the index c + 1
NEGATIVES_PER_POSITIVE = 3  # SSD, section 2.2


def detection_targets(
    labels: Mapping[str, Tensor], config: DetectionConfig, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Returns what a detector has to predict for the labels of a batch.

    Args:
        labels: `"boxes"` (batch, M, 4) in the configuration's format, and `"labels"` (batch, M),
            the classes from 0, or −1 for padding. M may be 0.
        config: Configuration of the detector.
        image_size: (height, width) of the images in pixels.

    Returns:
        offsets: float32 (batch, anchors, 4). Those of background anchors have no meaning.
        classes: int32 (batch, anchors): 0 for background, c + 1 for class c.

    Raises:
        ValueError: If `labels` is not a dictionary of boxes and classes.
    """
    boxes, classes = _checked(labels)
    anchors = config.anchors(image_size)
    centered = bounding_boxes.convert_format(
        boxes, config.bounding_box_format, ANCHOR_FORMAT, *image_shape(image_size)[:2]
    )
    matched = match_anchors(anchors, centered, classes >= 0)
    is_object = matched >= 0
    # A last row of padding is taken where an anchor has no box, also if there are no boxes at all.
    rows = ops.where(is_object, matched, ops.shape(classes)[1])
    padded = ops.pad(centered, [(0, 0), (0, 1), (0, 0)])
    own = ops.take_along_axis(padded, ops.expand_dims(rows, 2), axis=1)
    own = ops.where(ops.expand_dims(is_object, 2), own, anchors[None])
    offsets = encode_boxes(own, anchors, config.variances, ANCHOR_FORMAT, image_size)
    padded_classes = ops.pad(classes, [(0, 0), (0, 1)], constant_values=PADDING)
    return offsets, ops.take_along_axis(padded_classes, rows, axis=1) + 1


def detection_loss(
    labels: Mapping[str, Tensor],
    predictions: Mapping[str, Tensor],
    config: DetectionConfig,
    image_size: tuple[int, int],
) -> dict[str, Tensor]:
    """Computes the loss of SSD for a batch.

    Anchors with a box have the smooth L1 loss of the four offsets and the cross-entropy of the
    class. Of the background anchors of each image only those with the largest cross-entropy count,
    three for each anchor with a box. Both sums are divided by the number of anchors with boxes in
    the batch. An image without boxes adds nothing.

    Reference: [SSD](https://arxiv.org/abs/1512.02325), section 2.2.

    Args:
        labels: As in `detection_targets`.
        predictions: Outputs of the model: `"bbox_regression"` (batch, anchors, 4) and
            `"cls_logits"` (batch, anchors, 1 + classes), background first.
        config: Configuration of the detector.
        image_size: (height, width) of the images in pixels.

    Returns:
        The float32 scalars `"box_loss"` and `"class_loss"`, whose sum is the loss.

    Raises:
        ValueError: If `labels` is not a dictionary of boxes and classes.
    """
    offsets, classes = detection_targets(labels, config, image_size)
    is_object = classes > BACKGROUND
    found = ops.cast(predictions[BOXES_OUTPUT], "float32")
    box_losses = ops.sum(smooth_l1(found - ops.stop_gradient(offsets)), axis=2)

    logits = ops.cast(predictions[CLASSES_OUTPUT], "float32")
    chosen = ops.take_along_axis(logits, ops.expand_dims(classes, 2), axis=2)
    class_losses = ops.logsumexp(logits, axis=2) - ops.squeeze(chosen, 2)
    counts = ops.logical_or(is_object, hard_negatives(class_losses, is_object))

    total = ops.maximum(ops.sum(ops.cast(is_object, "float32")), 1.0)
    return {
        "box_loss": ops.sum(ops.where(is_object, box_losses, 0.0)) / total,
        "class_loss": ops.sum(ops.where(counts, class_losses, 0.0)) / total,
    }


def smooth_l1(errors: Tensor) -> Tensor:
    """Returns e² / 2 for errors |e| < 1, and |e| − 1/2 for larger ones."""
    size = ops.abs(errors)
    return ops.where(size < 1, 0.5 * size * size, size - 0.5)


def hard_negatives(losses: Tensor, is_object: Tensor) -> Tensor:
    """Selects the background anchors with the largest losses, three for each anchor with a box.

    Args:
        losses: Cross-entropy of each anchor, shape (batch, anchors).
        is_object: Which anchors have a box, bool, shape (batch, anchors).

    Returns:
        Which anchors are selected, bool, shape (batch, anchors).
    """
    losses = ops.stop_gradient(ops.where(is_object, -np.inf, losses))
    order = ops.argsort(-losses, axis=1)
    rank = ops.argsort(order, axis=1)
    objects = ops.sum(ops.cast(is_object, "int32"), axis=1, keepdims=True)
    few = ops.cast(rank, "int32") < NEGATIVES_PER_POSITIVE * objects
    return ops.logical_and(few, ops.logical_not(is_object))


def _checked(labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if not isinstance(labels, Mapping) or not {BOXES_LABEL, CLASSES_LABEL} <= set(labels):
        found = sorted(labels) if isinstance(labels, Mapping) else type(labels).__name__
        raise InputValueError(
            "The labels of a detector must be a dictionary with 'boxes' (batch, count, 4) and "
            f"'labels' (batch, count), −1 for padding. Received: {found}."
        )
    boxes, classes = labels[BOXES_LABEL], labels[CLASSES_LABEL]
    if len(boxes.shape) != 3 or len(classes.shape) != 2:
        raise InputValueError(
            "The labels of a detector must have boxes of shape (batch, count, 4) and labels of "
            f"shape (batch, count). Received: {tuple(boxes.shape)} and {tuple(classes.shape)}. "
            "Pad each image to the same number of boxes, with the label −1."
        )
    return ops.cast(boxes, "float32"), ops.cast(classes, "int32")
