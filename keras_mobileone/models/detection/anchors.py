"""The anchors (default boxes) of SSD."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

FIRST_STRIDE = 16  # of the first feature map with anchors; each further one has half its size


def feature_sizes(image_size: Sequence[int], levels: int) -> list[tuple[int, int]]:
    """Returns (height, width) of each feature map with anchors.

    Examples:
        >>> feature_sizes((320, 320), 6)
        [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    """
    height, width = (-(-side // FIRST_STRIDE) for side in image_size)
    sizes = []
    for _ in range(levels):
        sizes.append((height, width))
        height, width = -(-height // 2), -(-width // 2)
    return sizes


def anchor_shapes(scale: float, following: float, ratios: Sequence[float]) -> list[tuple]:
    """Returns (height, width) of the anchors of one cell, in units of `scale`.

    These are a square, a larger square between this scale and the next one, and for each ratio a
    wide and a tall box with the area of the smaller square.
    """
    middle = math.sqrt(scale * following)
    shapes = [(scale, scale), (middle, middle)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        shapes += [(scale / root, scale * root), (scale * root, scale / root)]
    return shapes


def anchor_boxes(
    image_size: Sequence[int], scales: Sequence[float], ratios: Sequence[float]
) -> np.ndarray:
    """Returns the anchors of all feature maps, in the order of the outputs of a detector.

    The centers divide the image evenly. Anchors may extend beyond the image. See section 2.2 of
    [SSD](https://arxiv.org/abs/1512.02325).

    Args:
        image_size: (height, width) of the images in pixels.
        scales: Sides of the smaller square anchor of each feature map, divided by the short side of
            the image, and one more scale for the larger square of the last feature map.
        ratios: Aspect ratios larger than 1.

    Returns:
        float32 array of shape (anchors, 4) in the format center_yxhw, in pixels. The order is by
        feature map, row, column, and then shape.

    Examples:
        >>> anchor_boxes((320, 320), [0.15, 0.3125], [2.0])[0]
        array([ 8.,  8., 48., 48.], dtype=float32)
    """
    height, width = image_size
    levels = []
    sizes = feature_sizes(image_size, len(scales) - 1)
    for (rows, columns), pair in zip(sizes, pairwise(scales), strict=True):
        shapes = np.array(anchor_shapes(*pair, ratios)) * min(height, width)
        y = (np.arange(rows) + 0.5) * height / rows
        x = (np.arange(columns) + 0.5) * width / columns
        boxes = np.empty((rows, columns, len(shapes), 4))
        boxes[..., 0] = y[:, None, None]
        boxes[..., 1] = x[None, :, None]
        boxes[..., 2:] = shapes
        levels.append(boxes.reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)
