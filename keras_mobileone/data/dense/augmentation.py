"""Random changes to images with masks or boxes, as data and as TensorFlow ops for `tf.data`."""

from dataclasses import dataclass
from typing import Any

from keras_mobileone.data.dense.windows import (
    Move,
    fill_outside,
    move_boxes,
    move_image,
    move_mask,
)
from keras_mobileone.errors import InputValueError

# SSD's random crop: the least IoU with some object, and 0 for any crop (arXiv 1512.02325, section
# 2.2). Sides and aspect ratio of the crop and the number of tries are those of mmdetection.
LEAST_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
CROP_SIDES = (0.3, 1.0)
CROP_ASPECTS = (0.5, 2.0)
CROP_TRIES = 50
# SSD's photometric distortion: the greatest change of brightness in levels, of contrast and
# saturation as a factor, and of the hue as a fraction of the circle (18°). Each is done with
# probability 1/2.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, 0.5, 0.5, 18 / 360


@dataclass(frozen=True)
class DenseAugmentation:
    """Random changes to a training image, its mask and its boxes, in the order of the fields.

    Attributes:
        size: (height, width) of the result in pixels.
        scale: Least and greatest short side of the image, divided by that of `size`, from which
            the result is a random crop with the aspect ratio of `size`. Where the image does not
            reach, the result is filled. None stretches the image to `size` instead.
        expand: Greatest factor by which the surroundings of the image are extended, with
            probability 1/2. 1 leaves it as it is.
        crop: Whether to choose one of SSD's random crops, which keep some object visible.
        flip: Whether to mirror the image with probability 1/2.
        photometric: Strength of SSD's photometric distortion, from 0 for none to 1.

    Raises:
        ValueError: If a field is out of range.

    Examples:
        >>> image, mask = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8)
        >>> augmentation = DenseAugmentation((32, 48), scale=(0.5, 2.0))
        >>> image, changed = augmentation(image, {"mask": mask}, seed=(0, 7))
        >>> image.shape, changed["mask"].shape
        (TensorShape([32, 48, 3]), TensorShape([32, 48]))
    """

    size: tuple[int, int]
    scale: tuple[float, float] | None = None
    expand: float = 1.0
    crop: bool = False
    flip: bool = True
    photometric: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "size": min(self.size) >= 1,
            "scale": self.scale is None or 0 < self.scale[0] <= self.scale[1],
            "expand": self.expand >= 1,
            "photometric": 0 <= self.photometric <= 1,
        }
        for name, holds in limits.items():
            if not holds:
                raise InputValueError(
                    f"`{name}` is out of range (see the class `DenseAugmentation`). Received: "
                    f"{name}={getattr(self, name)}."
                )

    def __call__(self, image: Any, annotation: dict[str, Any], seed: Any) -> tuple[Any, dict]:
        """Changes an image and its annotation.

        Args:
            image: uint8 tensor of shape (height, width, 3).
            annotation: Dictionary that may have "mask": uint8 (height, width), and "boxes":
                float32 (n, 4) with "labels": int64 (n,).
            seed: Integer tensor of shape (2,). Equal seeds give equal results.

        Returns:
            The uint8 image of shape (*size, 3), and the dictionary with the changed annotation.
        """
        import tensorflow as tf

        seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int64), 5))
        window = self.first_window(tf.cast(tf.shape(image)[:2], tf.float32), seeds[0])
        if self.expand > 1:
            window = expanded(window, self.expand, seeds[1])
        if self.crop:
            window = object_crop(window, annotation["boxes"], seeds[2])
        mirrored = tf.constant(False)
        if self.flip:
            mirrored = tf.random.stateless_uniform((), seeds[3]) < 0.5
        move = Move(window, mirrored, self.size)
        pixels = move_image(image, move)
        if self.photometric:
            pixels = distorted(pixels, self.photometric, seeds[4])
        pixels = fill_outside(pixels, image, move)
        return tf.cast(tf.round(pixels), tf.uint8), moved(annotation, move)

    def first_window(self, sides: Any, seed: Any) -> Any:
        """Returns the window of the random scale, or that of the whole image."""
        import tensorflow as tf

        if self.scale is None:
            return tf.concat([[0.0, 0.0], sides], 0)
        draws = tf.random.stateless_uniform((3,), seed)
        scale = self.scale[0] + draws[0] * (self.scale[1] - self.scale[0])
        pixels = tf.reduce_min(sides) / (
            scale * min(self.size)
        )  # of the image for one of the output
        window = tf.constant(self.size, tf.float32) * pixels
        return tf.concat([draws[1:] * (sides - window), window], 0)


def moved(annotation: dict[str, Any], move: Move) -> dict[str, Any]:
    """Returns an annotation after a move; see `DenseAugmentation.__call__`."""
    changed = {}
    if "mask" in annotation:
        changed["mask"] = move_mask(annotation["mask"], move)
    if "boxes" in annotation:
        changed["boxes"], changed["labels"] = move_boxes(
            annotation["boxes"], annotation["labels"], move
        )
    return changed


def expanded(window: Any, greatest: float, seed: Any) -> Any:
    """Extends a window by a factor up to `greatest`, with probability 1/2.

    The old window lies at a random place in the new one, which has the same aspect ratio.
    """
    import tensorflow as tf

    draws = tf.random.stateless_uniform((4,), seed)
    factor = tf.where(draws[0] < 0.5, 1 + draws[1] * (greatest - 1), 1.0)
    sides = window[2:] * factor
    return tf.concat([window[:2] - draws[2:] * (sides - window[2:]), sides], 0)


def object_crop(window: Any, boxes: Any, seed: Any) -> Any:
    """Draws one of SSD's random crops: a window whose IoU with some object is large enough.

    With equal probability the window stays as it is, or the least IoU is one of `LEAST_IOUS`. Of
    `CROP_TRIES` random windows, the first is returned that contains the center of an object and has
    this IoU with one. If there is none, or no object, the window stays as it is.

    References: [SSD](https://arxiv.org/abs/1512.02325), section 2.2; mmdetection's
    `MinIoURandomCrop`, which asks for this IoU with every object of the image instead, and hardly
    crops images with many objects.

    Args:
        window: float32 tensor (top, left, height, width).
        boxes: float32 "xyxy" tensor of shape (n, 4).
        seed: Integer tensor of shape (2,).
    """
    import tensorflow as tf

    seeds = tf.unstack(tf.random.split(seed, 2))
    mode = tf.random.stateless_uniform((), seeds[0], 0, len(LEAST_IOUS) + 1, tf.int32)
    least = tf.constant([*LEAST_IOUS, 0.0])[mode]
    draws = tf.random.stateless_uniform((4, CROP_TRIES), seeds[1])
    sides = CROP_SIDES[0] + draws[:2] * (CROP_SIDES[1] - CROP_SIDES[0])
    heights, widths = sides[0] * window[2], sides[1] * window[3]
    tops = window[0] + draws[2] * (window[2] - heights)
    lefts = window[1] + draws[3] * (window[3] - widths)
    crops = tf.stack([tops, lefts, heights, widths], 1)
    y, x = (boxes[:, 1] + boxes[:, 3]) / 2, (boxes[:, 0] + boxes[:, 2]) / 2
    inside = (y > tops[:, None]) & (y < (tops + heights)[:, None])
    inside &= (x > lefts[:, None]) & (x < (lefts + widths)[:, None])
    aspects = heights / widths
    fits = tf.reduce_any(inside & (overlaps(crops, boxes) >= least), 1)
    fits &= (aspects >= CROP_ASPECTS[0]) & (aspects <= CROP_ASPECTS[1])
    crop = crops[tf.argmax(fits)]
    return tf.where(tf.reduce_any(fits) & (mode < len(LEAST_IOUS)), crop, window)


def overlaps(windows: Any, boxes: Any) -> Any:
    """Returns the IoU of windows (top, left, height, width) and "xyxy" boxes, shape (m, n)."""
    import tensorflow as tf

    # TensorFlow 2.21 optimizes the slice [:, side, None] of a stacked tensor to one of rank 1.
    tops, lefts, heights, widths = tf.split(windows, 4, 1)
    x1, y1, x2, y2 = tf.unstack(boxes, axis=1)
    height = tf.minimum(tops + heights, y2) - tf.maximum(tops, y1)
    width = tf.minimum(lefts + widths, x2) - tf.maximum(lefts, x1)
    shared = tf.maximum(height, 0) * tf.maximum(width, 0)
    return shared / (heights * widths + (x2 - x1) * (y2 - y1) - shared)


def distorted(pixels: Any, strength: Any, seed: Any) -> Any:
    """Changes brightness, contrast, saturation and hue as SSD does.

    The order is brightness, contrast, saturation, hue, or with probability 1/2 the contrast last.
    Channels are not permuted.

    Args:
        pixels: float32 tensor of shape (height, width, 3) with values in [0, 255].
        strength: Factor of the amounts, from 0 to 1.
        seed: Integer tensor of shape (2,).

    Returns:
        float32 tensor of the same shape, clipped to [0, 255].
    """
    import tensorflow as tf

    draws = tf.random.stateless_uniform((9,), seed)
    amounts = tf.where(draws[:4] < 0.5, strength * (2 * draws[4:8] - 1), 0.0)
    contrast, last = 1 + CONTRAST * amounts[1], draws[8] < 0.5
    pixels = pixels + BRIGHTNESS * amounts[0]
    pixels = tf.clip_by_value(pixels * tf.where(last, 1.0, contrast), 0, 255)
    pixels = tf.image.adjust_saturation(pixels, 1 + SATURATION * amounts[2])
    pixels = tf.image.adjust_hue(pixels, HUE * amounts[3])
    return tf.clip_by_value(pixels * tf.where(last, contrast, 1.0), 0, 255)
