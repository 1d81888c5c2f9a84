"""Converts boxes to the offsets from anchors that a detector predicts, and back."""

from collections.abc import Sequence
from typing import Any

from keras import ops
from keras.utils import bounding_boxes

Tensor = Any  # a tensor of Keras' backend, or an array
ANCHOR_FORMAT = "center_yxhw"


def image_shape(image_size: Sequence[int]) -> tuple[int, int, int]:
    """Returns an image size as Keras' functions for boxes take it."""
    return int(image_size[0]), int(image_size[1]), 3


def encode_boxes(
    boxes: Tensor,
    anchors: Tensor,
    variances: Sequence[float],
    bounding_box_format: str,
    image_size: Sequence[int],
) -> Tensor:
    """Returns the offsets of boxes from anchors, as SSD defines them.

    The offsets are ((y − y_a) / h_a / v_y, (x − x_a) / w_a / v_x, log(h / h_a) / v_h,
    log(w / w_a) / v_w) for centers, sizes and variances v. Sizes below 1e-7 count as 1e-7.

    Args:
        boxes: Shape (anchors, 4) or (batch, anchors, 4), one box for each anchor.
        anchors: Result of `anchor_boxes`, shape (anchors, 4).
        variances: Divisors of the four offsets.
        bounding_box_format: Format of `boxes`.
        image_size: (height, width) of the images, for relative formats.

    Returns:
        float32 offsets with the shape of `boxes`.
    """
    return bounding_boxes.encode_box_to_deltas(
        ops.convert_to_tensor(anchors, "float32"),
        ops.cast(boxes, "float32"),
        ANCHOR_FORMAT,
        bounding_box_format,
        ANCHOR_FORMAT,
        list(variances),
        image_shape(image_size),
    )


def decode_boxes(
    offsets: Tensor,
    anchors: Tensor,
    variances: Sequence[float],
    bounding_box_format: str,
    image_size: Sequence[int],
) -> Tensor:
    """Returns the boxes that offsets from anchors describe, the inverse of `encode_boxes`.

    Args:
        offsets: Shape (anchors, 4) or (batch, anchors, 4).
        anchors, variances, bounding_box_format, image_size: As in `encode_boxes`.

    Returns:
        float32 boxes with the shape of `offsets`.
    """
    return bounding_boxes.decode_deltas_to_boxes(
        ops.convert_to_tensor(anchors, "float32"),
        ops.cast(offsets, "float32"),
        ANCHOR_FORMAT,
        bounding_box_format,
        ANCHOR_FORMAT,
        list(variances),
        image_shape(image_size),
    )
