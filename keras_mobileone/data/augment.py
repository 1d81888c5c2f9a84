"""AutoAugment and RandAugment as TensorFlow ops on a single uint8 image, for `tf.data`.

The operations give the same results as Pillow for the same parameter. Geometric operations fill
pixels from outside the image with ImageNet's mean color, and interpolate with the nearest pixel, as
the authors of the policies and torchvision do, and mmpretrain for rotation and translation. It is
also the fastest method.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from keras_mobileone.data.imagenet import MEAN
from keras_mobileone.errors import InputValueError

FILL = tuple(round(255 * mean) for mean in MEAN)
SOLARIZE_ADD_BELOW = 128
# ITU-R 601-2 luma in 1/65536, as Pillow converts to gray. The weighted sum of three bytes is below
# 2²⁴ and therefore exact in float32.
LUMA = (19595.0, 38470.0, 7471.0)

# All images and all results are uint8 tensors of shape (height, width, 3).

# Geometric operations.


def shear_x(image: Any, level: Any) -> Any:
    """Moves row y left by level · y, as Pillow's affine transform (1, level, 0, 0, 1, 0)."""
    return _affine(image, (1.0, level, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: Any, level: Any) -> Any:
    """Moves column x up by level · x, as Pillow's affine transform (1, 0, 0, level, 1, 0)."""
    return _affine(image, (1.0, 0.0, 0.0, level, 1.0, 0.0))


def translate_x(image: Any, pixels: Any) -> Any:
    """Moves the image left, as Pillow's affine transform (1, 0, pixels, 0, 1, 0)."""
    return _affine(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0))


def translate_y(image: Any, pixels: Any) -> Any:
    """Moves the image up, as Pillow's affine transform (1, 0, 0, 0, 1, pixels)."""
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels))


def rotate(image: Any, degrees: Any) -> Any:
    """Rotates the image counterclockwise about its center, as Pillow's `Image.rotate`."""
    import tensorflow as tf

    angle = -tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    center = tf.cast(tf.shape(image)[:2], tf.float32) / 2
    y, x = center[0], center[1]
    return _affine(image, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


# Operations that map each value on its own.


def invert(image: Any) -> Any:
    """Replaces each value by 255 − value, as Pillow's `ImageOps.invert`."""
    return 255 - image


def solarize(image: Any, threshold: Any) -> Any:
    """Inverts the values of at least `threshold` (0 to 256), as Pillow's `ImageOps.solarize`."""
    import tensorflow as tf

    bright = tf.cast(image, tf.float32) >= tf.cast(threshold, tf.float32)
    return tf.where(bright, 255 - image, image)


def solarize_add(image: Any, addition: Any) -> Any:
    """Adds `addition` (0 to 255, without its fraction) to the values below 128."""
    import tensorflow as tf

    addition = tf.cast(addition, tf.uint8)
    # Below 128 the sum of two bytes overflows only if the addition exceeds 128.
    sums = image + tf.minimum(addition, 255 - image)
    return tf.where(image < SOLARIZE_ADD_BELOW, sums, image)


def posterize(image: Any, bits: Any) -> Any:
    """Keeps the highest `bits` (0 to 8) of each value, as Pillow's `ImageOps.posterize`."""
    import tensorflow as tf

    lost = 8 - tf.cast(bits, tf.int32)
    mask = 256 - tf.bitwise.left_shift(1, lost)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def autocontrast(image: Any) -> Any:
    """Stretches each channel to 0 … 255 unless it is constant, as `ImageOps.autocontrast`."""
    import tensorflow as tf

    low = tf.cast(tf.reduce_min(image, (0, 1)), tf.float64)
    high = tf.cast(tf.reduce_max(image, (0, 1)), tf.float64)
    # Pillow computes in double precision and in this order, and drops the fraction.
    scale = 255 / tf.maximum(high - low, 1)
    values = tf.range(256, dtype=tf.float64)[:, None]
    table = tf.clip_by_value(values * scale - low * scale, 0, 255)
    return _look_up(image, tf.where(high > low, table, values))


def equalize(image: Any) -> Any:
    """Flattens the histogram of each channel, as Pillow's `ImageOps.equalize`."""
    import tensorflow as tf

    flat = tf.reshape(_channel_index(image), [-1])
    histogram = tf.math.bincount(flat, minlength=3 * 256, maxlength=3 * 256)
    histogram = tf.transpose(tf.reshape(histogram, (3, 256)))
    pixels = tf.size(image) // 3
    highest = tf.cast(tf.reduce_max(image, (0, 1)), tf.int32)
    last = tf.gather(tf.transpose(histogram), highest[:, None], batch_dims=1)[:, 0]
    step = (pixels - last) // 255
    below = tf.cumsum(histogram, axis=0, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    return _look_up(image, tf.where(step > 0, table, tf.range(256)[:, None]))


# Operations of Pillow's `ImageEnhance`. Factor 1 gives the image and factor 0 its degenerate form;
# other factors interpolate or extrapolate linearly.


def color(image: Any, factor: Any) -> Any:
    """Changes the saturation, with gray at factor 0, as Pillow's `ImageEnhance.Color`."""
    return _blend(_gray(image), image, factor)


def contrast(image: Any, factor: Any) -> Any:
    """Changes the contrast, with the mean gray at factor 0, as Pillow's `ImageEnhance.Contrast`."""
    import tensorflow as tf

    # In float64, because float32 can't hold the sum of a large image's values exactly.
    mean = tf.reduce_mean(tf.cast(_gray(image), tf.float64))
    return _blend(tf.cast(tf.floor(mean + 0.5), tf.float32), image, factor)


def brightness(image: Any, factor: Any) -> Any:
    """Changes the brightness, with black at factor 0, as Pillow's `ImageEnhance.Brightness`."""
    return _blend(0.0, image, factor)


def sharpness(image: Any, factor: Any) -> Any:
    """Changes the sharpness, with a blur at factor 0, as Pillow's `ImageEnhance.Sharpness`."""
    import tensorflow as tf

    pixels = tf.cast(image, tf.float32)
    # Pillow's SMOOTH kernel consists of ones and a 5 in the center, divided by 13. It does not
    # change the outermost pixels.
    around = tf.nn.avg_pool2d(pixels[None], 3, 1, "SAME")[0] * 9
    smooth = tf.floor((around + 4 * pixels) / 13 + 0.5)
    shape = tf.shape(image)
    y, x = tf.range(shape[0])[:, None, None], tf.range(shape[1])[None, :, None]
    inside = (y > 0) & (y < shape[0] - 1) & (x > 0) & (x < shape[1] - 1)
    return _blend(tf.where(inside, smooth, pixels), image, factor)


# Policies.


@dataclass(frozen=True)
class Range:
    """Amounts of an operation at the least and the greatest magnitude; amount 0 has no effect."""

    least: float
    greatest: float
    signed: bool = False


_ENHANCE = Range(0, 0.9, signed=True)  # 0.1 to 1.9 as a factor
_MOVE = Range(0, 0.45, signed=True)  # fraction of the width or height

# Magnitudes of mmpretrain's `timm_increasing` set, in its order. None marks an operation without a
# magnitude.
RAND_AUGMENT = {
    "autocontrast": None,
    "equalize": None,
    "invert": None,
    "rotate": Range(0, 30, signed=True),  # degrees
    "posterize": Range(4, 8),  # number of lost bits, without its fraction
    "solarize": Range(0, 256),  # 256 − threshold
    "solarize_add": Range(0, 110),
    "color": _ENHANCE,
    "contrast": _ENHANCE,
    "brightness": _ENHANCE,
    "sharpness": _ENHANCE,
    "shear_x": Range(0, 0.3, signed=True),
    "shear_y": Range(0, 0.3, signed=True),
    "translate_x": _MOVE,
    "translate_y": _MOVE,
}
# AutoAugment drops at most 4 bits. The 0.5 rounds the number of bits, whose fraction is dropped.
AUTO_AUGMENT = RAND_AUGMENT | {"posterize": Range(0.5, 4.5)}

RAND_MAGNITUDES = 10
AUTO_MAGNITUDES = 9
# A chosen operation runs with probability 1/2 in mmpretrain and timm, and always in the paper.
RAND_PROBABILITY = 0.5

# AutoAugment's policy for ImageNet: pairs of (operation, probability, magnitude 0 … 9), from arXiv
# 1805.09501 version 3, table 9. For an operation without a magnitude, the magnitude is 0.
IMAGENET_POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def auto_augment(image: Any, seed: Any, strength: Any = 1.0) -> Any:
    """Applies AutoAugment's policy for ImageNet, which draws one of 25 pairs of operations.

    Reference: [AutoAugment: Learning Augmentation Policies from Data](
    https://arxiv.org/abs/1805.09501).

    Args:
        image: uint8 tensor of shape (height, width, 3).
        seed: Integer tensor of shape (2,). Equal seeds give equal results. Use a different seed for
            each function that draws random numbers for the same image.
        strength: Float or scalar tensor in [0, 1]. Scales the amount of each operation, such as
            degrees, the distance of a factor from 1, or lost bits. For an operation without a
            magnitude (`autocontrast`, `equalize`, `invert`) it scales the probability instead. 1 is
            the policy of the paper, and 0 does not change any image.

    Returns:
        uint8 tensor of the same shape.

    Examples:
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> auto_augment(image, seed=(0, 7), strength=0.3).shape
        TensorShape([32, 32, 3])
    """
    import tensorflow as tf

    table = _policy_table()
    draws = tf.random.stateless_uniform((5,), seed)
    chosen = tf.cast(draws[0] * len(IMAGENET_POLICY), tf.int32)
    for position in range(2):
        operation = tf.constant(table["operation"][:, position])[chosen]
        probability = tf.constant(table["probability"][:, position])[chosen]
        level = tf.constant(table["level"][:, position])[chosen]
        runs, negative = draws[1 + position], draws[3 + position] < 0.5
        image = _augment(
            image, AUTO_AUGMENT, operation, probability, runs, level, negative, strength
        )
    return image


def rand_augment(
    image: Any,
    seed: Any,
    strength: Any = 1.0,
    operations: Any = 2,
    magnitude: Any = 7.0,
    deviation: Any = 0.5,
) -> Any:
    """Applies RandAugment with the magnitudes of mmpretrain's recipe for MobileOne.

    Reference: [RandAugment: Practical automated data augmentation with a reduced search space](
    https://arxiv.org/abs/1909.13719).

    `operations` of the 15 operations in `RAND_AUGMENT` are drawn with replacement. Each runs with
    probability 1/2, at a magnitude from the normal distribution N(magnitude, deviation), clipped to
    [0, 10].

    Args:
        image: uint8 tensor of shape (height, width, 3).
        seed: Integer tensor of shape (2,); see `auto_augment`.
        strength: Float or scalar tensor in [0, 1]; see `auto_augment`.
        operations: Number of operations to draw, an int.
        magnitude: Mean magnitude, in [0, 10].
        deviation: Standard deviation of the magnitude.

    Returns:
        uint8 tensor of the same shape.

    Raises:
        ValueError: If `operations`, `magnitude` or `deviation` is out of range.

    Examples:
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> rand_augment(image, seed=(0, 7), strength=0.7).shape
        TensorShape([32, 32, 3])
    """
    import tensorflow as tf

    if operations < 1 or not 0 <= magnitude <= RAND_MAGNITUDES or deviation < 0:
        raise InputValueError(
            f"RandAugment takes operations ≥ 1, magnitude in [0, {RAND_MAGNITUDES}] and "
            f"deviation ≥ 0. Received: operations={operations}, magnitude={magnitude}, "
            f"deviation={deviation}."
        )
    # The seed is cast because an int32 seed and an equal int64 seed split into different seeds.
    seeds = tf.random.split(tf.cast(seed, tf.int64), 2)
    draws = tf.random.stateless_uniform((operations, 3), seeds[0])
    levels = tf.random.stateless_normal((operations,), seeds[1], magnitude, deviation)
    levels = tf.clip_by_value(levels / RAND_MAGNITUDES, 0, 1)
    for position in range(operations):
        chosen, runs, sign = tf.unstack(draws[position])
        image = _augment(
            image,
            RAND_AUGMENT,
            tf.cast(chosen * len(RAND_AUGMENT), tf.int32),
            RAND_PROBABILITY,
            runs,
            levels[position],
            sign < 0.5,
            strength,
        )
    return image


def _augment(
    image: Any,
    ranges: Any,
    operation: Any,
    probability: Any,
    runs: Any,
    level: Any,
    negative: Any,
    strength: Any,
) -> Any:
    """Applies operation number `operation` if the random number `runs` is below its probability.

    Args:
        ranges: `AUTO_AUGMENT` or `RAND_AUGMENT`.
        level: Magnitude in [0, 1].
        negative: Whether the amount of a signed operation is negative.
    """
    import tensorflow as tf

    bounds = [bound or Range(0, 0) for bound in ranges.values()]
    least = tf.constant([float(bound.least) for bound in bounds])[operation]
    greatest = tf.constant([float(bound.greatest) for bound in bounds])[operation]
    signed = tf.constant([bound.signed for bound in bounds])[operation]
    has_magnitude = tf.constant([bound is not None for bound in ranges.values()])[operation]

    strength = tf.cast(strength, tf.float32)
    amount = strength * (least + (greatest - least) * level)
    amount = tf.where(signed & negative, -amount, amount)
    probability = tf.where(has_magnitude, probability, probability * strength)
    branches = [partial(_by_amount()[name], image, amount) for name in ranges]
    branches.append(partial(tf.identity, image))
    chosen = tf.where(runs < probability, operation, len(branches) - 1)
    return tf.ensure_shape(tf.switch_case(chosen, branches), image.shape)


def _by_amount() -> dict[str, Callable]:
    """Returns each operation as a function of (image, amount), in which amount 0 has no effect."""
    import tensorflow as tf

    def plain(operation: Any) -> Any:
        return lambda image, amount: operation(image)

    def enhancing(operation: Any) -> Any:
        return lambda image, amount: operation(image, 1 + amount)

    def moving(operation: Any, axis: Any) -> Any:
        def move(image: Any, amount: Any) -> Any:
            return operation(image, amount * tf.cast(tf.shape(image)[axis], tf.float32))

        return move

    return {
        "autocontrast": plain(autocontrast),
        "equalize": plain(equalize),
        "invert": plain(invert),
        "rotate": rotate,
        "posterize": lambda image, amount: posterize(image, 8 - tf.cast(amount, tf.int32)),
        "solarize": lambda image, amount: solarize(image, 256 - amount),
        "solarize_add": solarize_add,
        "color": enhancing(color),
        "contrast": enhancing(contrast),
        "brightness": enhancing(brightness),
        "sharpness": enhancing(sharpness),
        "shear_x": shear_x,
        "shear_y": shear_y,
        "translate_x": moving(translate_x, 1),
        "translate_y": moving(translate_y, 0),
    }


@cache
def _policy_table() -> dict[str, np.ndarray]:
    """Returns `IMAGENET_POLICY` as arrays of shape (25, 2)."""
    numbers = {name: index for index, name in enumerate(AUTO_AUGMENT)}
    rows = [
        [(numbers[name], probability, magnitude) for name, probability, magnitude in pair]
        for pair in IMAGENET_POLICY
    ]
    operation, probability, magnitude = np.moveaxis(np.array(rows), 2, 0)
    return {
        "operation": operation.astype(np.int32),
        "probability": probability.astype(np.float32),
        "level": (magnitude / AUTO_MAGNITUDES).astype(np.float32),
    }


def _affine(image: Any, matrix: Any) -> Any:
    """Moves the pixel of `image` at (a·x + b·y + c, d·x + e·y + f) to (x, y)."""
    import tensorflow as tf

    a, b, c, d, e, f = (tf.cast(value, tf.float32) for value in matrix)
    # Pillow measures coordinates from the corner of a pixel and takes the floor. TensorFlow
    # measures them from the center and rounds halves away from zero. The small addition makes
    # TensorFlow round halves as the floor does.
    shift = -0.5 + 1e-4
    c, f = c + (a + b) / 2 + shift, f + (d + e) / 2 + shift
    transform = tf.stack([a, b, c, d, e, f, tf.zeros(()), tf.zeros(())])
    # The op fills all channels with one number. XOR with the fill color maps that color to 0 and
    # back.
    fill = tf.constant(FILL, tf.uint8)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.bitwise.bitwise_xor(image, fill)[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]
    return tf.ensure_shape(tf.bitwise.bitwise_xor(moved, fill), image.shape)


def _channel_index(image: Any) -> Any:
    """Returns the row of each value in a (3 · 256) table: int32 of the shape of the image."""
    import tensorflow as tf

    return tf.cast(image, tf.int32) + tf.constant([0, 256, 512])


def _look_up(image: Any, table: Any) -> Any:
    """Replaces each value by its entry in the column of its channel in `table`, shape (256, 3)."""
    import tensorflow as tf

    flat = tf.reshape(tf.transpose(tf.cast(table, tf.uint8)), [-1])
    return tf.gather(flat, _channel_index(image))


def _gray(image: Any) -> Any:
    """Converts to gray as Pillow does: float32 (height, width, 1) with integer values."""
    import tensorflow as tf

    luma = tf.reduce_sum(tf.cast(image, tf.float32) * tf.constant(LUMA), 2, keepdims=True)
    return tf.floor((luma + 0x8000) / 0x10000)


def _blend(degenerate: Any, image: Any, factor: Any) -> Any:
    """Blends two images as Pillow's `Image.blend` does, which drops the fraction."""
    import tensorflow as tf

    mixed = degenerate + tf.cast(factor, tf.float32) * (tf.cast(image, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)
