"""From the bytes of a photograph to square uint8 crops, as TensorFlow ops for `tf.data`.

The training crop is written for speed: it decodes only the window it needs, at the resolution it
needs. The evaluation crop is written for fidelity to `keras_mobileone.evaluation_crop`.

What can't be decoded raises `tf.errors.InvalidArgumentError` with TensorFlow's message, such as
"Unknown image file format" or "Invalid JPEG data"; these functions see bytes, so the caller has to
add the file's name.
"""

import math
from typing import Any

from keras_mobileone.data.exif import jpeg_orientation, turn_upright
from keras_mobileone.errors import InputValueError

TRIES = 10  # of a random window before the central one, as in torchvision's RandomResizedCrop

# libjpeg can decode at 1/2, 1/4 and 1/8 of the size, which costs less. From this ratio of the
# window's short side to the crop's on, the result is also closer to Pillow's antialiased resizing
# than without: 2.8 against 3.0 levels in the mean of 74 ImageNet photographs at ratio 1.6.
HALVE_FROM = 1.6
JPEG_RATIOS = (1, 2, 4, 8)

# Sizes and places in a BMP file: its two headers, the first of them, where the pixels begin.
BMP_HEADER = 54
BMP_FILE_HEADER = 14
BMP_PIXELS = 10

# As Pillow; TensorFlow's default is off by about one level and hardly faster.
DCT_METHOD = "INTEGER_ACCURATE"


def decode(encoded: Any) -> Any:
    """A whole photograph as RGB, whatever its kind: the bytes decide, not a file's name.

    Args:
        encoded: Scalar string tensor: a JPEG (RGB, gray, CMYK or YCCK), PNG, BMP, WebP or GIF (its
            first frame).

    Returns:
        uint8 tensor of shape (height, width, 3), the same pixels as `load_image` gives. Gray is
        repeated, alpha is dropped, of 16 bits the upper eight are kept. A JPEG is turned upright as
        its Exif orientation says; other kinds of files are left as stored.

    Raises:
        tf.errors.InvalidArgumentError: For other bytes, and for a file cut short.

    Examples:
        >>> import tensorflow as tf
        >>> decode(tf.io.read_file("cat.png")).shape
        TensorShape([224, 224, 3])
    """
    import tensorflow as tf

    def jpeg() -> Any:
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD)
        return turn_upright(image, jpeg_orientation(encoded))

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, lambda: _decode_other(encoded))
    return tf.ensure_shape(image, (None, None, 3))


def random_crop_window(
    height: Any,
    width: Any,
    seed: Any,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Any:
    """A random window of a picture: the crop of Inception's training (arXiv 1409.4842, section 6).

    Draws area (uniform) and aspect ratio (log-uniform) up to ten times until the window fits into
    the picture; after that takes the largest central window with an allowed ratio. This is the
    algorithm of torchvision's `RandomResizedCrop`, without its loop.

    Args:
        height: Of the picture in pixels, an int or scalar integer tensor.
        width: Likewise.
        seed: Integer tensor of shape (2,). Equal seeds give equal windows; give each function that
            draws for the same picture a seed of its own.
        area: Smallest and largest share of the picture, in (0, 1].
        ratio: Smallest and largest width / height.

    Returns:
        int32 tensor (top, left, height, width), inside the picture.

    Raises:
        ValueError: If `area` or `ratio` is not an increasing pair of positive numbers, or an area
            exceeds 1.

    Examples:
        >>> top, left, height, width = random_crop_window(375, 500, seed=(1, 2)).numpy()
        >>> bool(0 <= top and top + height <= 375)
        True
    """
    import tensorflow as tf

    _check_range("area", area)
    _check_range("ratio", ratio)
    if area[1] > 1:
        raise InputValueError(
            f"`area` is a share of the picture, at most 1. Received: area={area}."
        )
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    # Shape (4, TRIES): area, aspect ratio, vertical and horizontal position, all in [0, 1).
    draws = tf.random.stateless_uniform((4, TRIES), seed)
    pixels = tf.cast(height, tf.float32) * tf.cast(width, tf.float32)
    pixels *= area[0] + draws[0] * (area[1] - area[0])
    aspect = tf.exp(math.log(ratio[0]) + draws[1] * math.log(ratio[1] / ratio[0]))
    widths = tf.cast(tf.round(tf.sqrt(pixels * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(pixels / aspect)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(fits, output_type=tf.int32)

    def drawn() -> Any:
        size = tf.stack([heights[first], widths[first]])
        free = tf.stack([height, width]) - size
        # float32 can round the product up to free + 1.
        corner = tf.cast(draws[2:, first] * tf.cast(free + 1, tf.float32), tf.int32)
        return tf.concat([tf.minimum(corner, free), size], 0)

    return tf.cond(fits[first], drawn, lambda: _central_window(height, width, ratio))


def decode_and_random_crop(
    encoded: Any,
    size: int,
    seed: Any,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Any:
    """The training crop: `random_crop_window` of a photograph, resized to a square.

    A JPEG is decoded only inside the window. A window much larger than `size` is decoded at 1/2,
    1/4 or 1/8 of its size, after moving its borders by less than that many pixels; the rest of the
    way is bilinear sampling. Mean distance to Pillow's antialiased resizing of the same windows of
    ImageNet photographs: 1.4 levels at size 224, 3.2 at 160. Other formats are decoded whole and
    resized with antialiasing, which costs more than the decoding of the usual JPEG.

    Args:
        encoded: Scalar string tensor, as for `decode`.
        size: Side of the result in pixels, an int.
        seed: Integer tensor of shape (2,), see `random_crop_window`.
        area: See `random_crop_window`.
        ratio: See `random_crop_window`.

    Returns:
        uint8 tensor of shape (size, size, 3).

    Raises:
        ValueError: For `area` and `ratio` as in `random_crop_window`.
        tf.errors.InvalidArgumentError: If the bytes can't be decoded.

    Examples:
        >>> import tensorflow as tf
        >>> decode_and_random_crop(tf.io.read_file("cat.png"), 96, seed=(0, 7)).shape
        TensorShape([96, 96, 3])
    """
    import tensorflow as tf

    def jpeg() -> Any:
        shape = tf.image.extract_jpeg_shape(encoded)
        orientation = jpeg_orientation(encoded)
        lying = orientation >= 5  # height and width are exchanged
        height, width = tf.where(lying, shape[1], shape[0]), tf.where(lying, shape[0], shape[1])
        window = random_crop_window(height, width, seed, area, ratio)
        # The window of the stored picture, at a mirrored place: all places are equally likely.
        window = tf.where(lying, tf.gather(window, (1, 0, 3, 2)), window)
        image = _decode_window(encoded, window, size)[None]
        image = tf.raw_ops.ResizeBilinear(images=image, size=(size, size), half_pixel_centers=True)
        return turn_upright(image[0], orientation)[None]

    def other() -> Any:
        image = _decode_other(encoded)
        height, width = tf.unstack(tf.shape(image)[:2])
        top, left, height, width = tf.unstack(random_crop_window(height, width, seed, area, ratio))
        image = image[top : top + height, left : left + width]
        return _resize_antialiased(image, tf.stack([size, size]), (0, 0), size)

    resized = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)[0]
    return tf.ensure_shape(tf.cast(tf.round(resized), tf.uint8), (size, size, 3))


def evaluation_crop(encoded: Any, size: int, crop_fraction: float = 0.875) -> Any:
    """ImageNet's evaluation transform for `tf.data`.

    `keras_mobileone.evaluation_crop` is the same transform of a Pillow image.

    Resizes the short side to size / crop_fraction, bilinear with antialiasing, and cuts out the
    center; computes only the pixels that remain.

    Args:
        encoded: Scalar string tensor, as for `decode`.
        size: Side of the result in pixels, an int.
        crop_fraction: `size` over the resized short side, in (0, 1].

    Returns:
        uint8 tensor of shape (size, size, 3), within 2 levels of Pillow's.

    Raises:
        ValueError: If `crop_fraction` is not in (0, 1].
        tf.errors.InvalidArgumentError: If the bytes can't be decoded.

    Examples:
        >>> import tensorflow as tf
        >>> evaluation_crop(tf.io.read_file("cat.png"), 96).shape
        TensorShape([96, 96, 3])
    """
    import tensorflow as tf

    if not 0 < crop_fraction <= 1:
        raise InputValueError(
            f"`crop_fraction` is a share of the short side, in (0, 1]. Received: {crop_fraction}."
        )
    image = decode(encoded)
    sides = tf.shape(image)[:2]
    # The long side rounds down: torchvision's Resize.
    resized = round(size / crop_fraction) * sides // tf.reduce_min(sides)
    # Halves round to even, as torchvision's CenterCrop does with Python's round.
    corner = tf.round(tf.cast(resized - size, tf.float32) / 2)
    crop = _resize_antialiased(image, resized, corner, size)[0]
    return tf.ensure_shape(tf.cast(tf.round(crop), tf.uint8), (size, size, 3))


def random_flip(image: Any, seed: Any) -> Any:
    """Mirrors a picture left to right in half of the cases.

    Args:
        image: Tensor of shape (height, width, channels), any dtype.
        seed: Integer tensor of shape (2,), see `random_crop_window`.

    Returns:
        The picture or its mirror image; same shape and dtype.

    Examples:
        >>> import tensorflow as tf
        >>> random_flip(tf.zeros((4, 6, 3)), seed=(0, 7)).shape
        TensorShape([4, 6, 3])
    """
    import tensorflow as tf

    mirrored = tf.random.stateless_uniform((), seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: tf.identity(image))


def _decode_other(encoded: Any) -> Any:
    """Any kind of file but JPEG: uint8 (height, width, 3)."""
    import tensorflow as tf

    def other() -> Any:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    return tf.cond(tf.strings.substr(encoded, 0, 2) == b"BM", lambda: _decode_bmp(encoded), other)


def _decode_bmp(encoded: Any) -> Any:
    """A BMP: TensorFlow's decoder takes the indices of a palette for gray levels."""
    import tensorflow as tf

    pixels = tf.io.decode_bmp(encoded)
    header = tf.cast(
        tf.io.decode_raw(tf.strings.substr(encoded, 0, BMP_HEADER), tf.uint8), tf.int32
    )

    def number(place: Any) -> Any:
        return tf.reduce_sum(header[place : place + 4] * tf.constant([1, 256, 256**2, 256**3]))

    def palette() -> Any:
        start = BMP_FILE_HEADER + number(BMP_FILE_HEADER)
        length = (number(BMP_PIXELS) - start) // 4 * 4
        colors = tf.io.decode_raw(tf.strings.substr(encoded, start, length), tf.uint8)
        colors = tf.reverse(tf.reshape(colors, (-1, 4))[:, :3], [1])  # stored as blue, green, red
        return tf.gather(colors, tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(tf.shape(pixels)[-1] == 1, palette, lambda: pixels[..., :3])


def _decode_window(encoded: Any, window: Any, size: int) -> Any:
    """Decodes a JPEG's window at the smallest resolution that serves `size`."""
    import tensorflow as tf

    def at(ratio: int) -> Any:
        return lambda: tf.image.decode_and_crop_jpeg(
            encoded, window // ratio, channels=3, ratio=ratio, dct_method=DCT_METHOD
        )

    short = tf.cast(tf.minimum(window[2], window[3]), tf.float32)
    bounds = tf.constant([HALVE_FROM / 2 * ratio * size for ratio in JPEG_RATIOS[1:]])
    return tf.switch_case(
        tf.reduce_sum(tf.cast(short >= bounds, tf.int32)), [at(ratio) for ratio in JPEG_RATIOS]
    )


def _central_window(height: Any, width: Any, ratio: tuple[float, float]) -> Any:
    """The largest central window whose width / height lies within `ratio`."""
    import tensorflow as tf

    def scaled(side: Any, factor: Any) -> Any:
        return tf.cast(tf.round(tf.cast(side, tf.float32) * factor), tf.int32)

    inner = tf.stack(
        [
            tf.clip_by_value(scaled(width, 1 / ratio[0]), 1, height),
            tf.clip_by_value(scaled(height, ratio[1]), 1, width),
        ]
    )
    return tf.concat([(tf.stack([height, width]) - inner) // 2, inner], 0)


def _resize_antialiased(image: Any, resized: Any, corner: Any, size: int) -> Any:
    """The square at `corner` of `image` resized to `resized`: float32 (1, size, size, 3)."""
    import tensorflow as tf

    return tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=(size, size),
        scale=tf.cast(resized, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32),
        translation=-tf.cast(corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )


def _check_range(name: str, pair: tuple[float, float]) -> None:
    if not 0 < pair[0] <= pair[1]:
        raise InputValueError(
            f"`{name}` is a pair (smallest, largest) of positive numbers. Received: {name}={pair}."
        )
