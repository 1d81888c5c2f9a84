"""Matches anchors with the labeled boxes of an image."""

from typing import Any

from keras import ops
from keras.utils import bounding_boxes

from keras_mobileone.models.detection.encoding import ANCHOR_FORMAT

Tensor = Any  # a tensor of Keras' backend, or an array
MATCH_IOU = 0.5  # overlap from which on an anchor belongs to a box (SSD, section 2.2)


def overlaps(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Returns the intersection over union of anchors (N, 4) and boxes (batch, M, 4).

    Both have the format center_yxhw.

    Returns:
        Shape (batch, N, M). Boxes and anchors without area have an overlap of 0.
    """
    return bounding_boxes.compute_iou(anchors, boxes, ANCHOR_FORMAT)


def match_anchors(
    anchors: Tensor, boxes: Tensor, valid: Tensor, match_iou: float = MATCH_IOU
) -> Tensor:
    """Finds the box that each anchor has to predict.

    An anchor belongs to the box that it overlaps most, if the overlap is at least `match_iou`.
    Then each box, in order, takes the anchor that overlaps it most and that no earlier box took, so
    that every box that overlaps an anchor has one. Nothing depends on how many padding boxes there
    are.

    Args:
        anchors: Shape (N, 4) in the format center_yxhw.
        boxes: Shape (batch, M, 4) in the format center_yxhw. M may be 0.
        valid: Which of the boxes are labels and not padding, bool, shape (batch, M).
        match_iou: Smallest overlap of an anchor with its box.

    Returns:
        The index of the box of each anchor, or −1 for background: int32, shape (batch, N).
    """
    anchors, boxes = ops.cast(anchors, "float32"), ops.cast(boxes, "float32")
    # A box of padding lets the maximum over the boxes exist in any case.
    boxes = ops.pad(boxes, [(0, 0), (0, 1), (0, 0)])
    valid = ops.pad(ops.cast(valid, "int32"), [(0, 0), (0, 1)])
    iou = ops.where(ops.expand_dims(valid, 1) > 0, overlaps(anchors, boxes), -1.0)
    nearest = ops.cast(ops.argmax(iou, axis=2), "int32")
    matched = ops.where(ops.max(iou, axis=2) >= match_iou, nearest, -1)

    anchor_indices = ops.arange(ops.shape(anchors)[0], dtype="int32")

    def take_best(index: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        matched, taken = state
        overlap = ops.where(taken, -1.0, ops.take(iou, index, axis=2))
        best = ops.cast(ops.argmax(overlap, axis=1, keepdims=True), "int32")
        found = ops.max(overlap, axis=1, keepdims=True) > 0
        here = ops.logical_and(anchor_indices[None] == best, found)
        return ops.where(here, ops.cast(index, "int32"), matched), ops.logical_or(taken, here)

    state = matched, ops.zeros_like(matched, dtype="bool")
    matched, _ = ops.fori_loop(0, ops.shape(boxes)[1], take_best, state)
    return ops.stop_gradient(matched)
