"""TensorFlow ops for `tf.data` that turn the bytes of a photograph into square uint8 crops.

The training crop is written for speed: it decodes only the required window, at the required
resolution. The evaluation crop is written for fidelity to `keras_mobileone.evaluation_crop`.

Bytes that can't be decoded raise `tf.errors.InvalidArgumentError` with TensorFlow's message, such
as "Unknown image file format" or "Invalid JPEG data". These functions do not know the name of the
file, so the caller has to add it.
"""

import math
from typing import Any

from keras_mobileone.data.exif import jpeg_orientation, turn_upright
from keras_mobileone.errors import InputValueError

TRIES = 10  # random windows tried before the central one, as in torchvision's RandomResizedCrop

# libjpeg can decode at 1/2, 1/4 and 1/8 of the size, which is faster. At this ratio of the short
# side of the window to the crop, or a larger one, the result is also closer to Pillow's antialiased
# resizing than without: 2.8 instead of 3.0 levels at ratio 1.6, averaged over 74 ImageNet
# photographs.
HALVE_FROM = 1.6
JPEG_RATIOS = (1, 2, 4, 8)

# Sizes and offsets in a BMP file: the size of both headers, the size of the first header, and the
# offset of the field that locates the pixels.
BMP_HEADER = 54
BMP_FILE_HEADER = 14
BMP_PIXELS = 10

# Pillow uses this method. TensorFlow's default deviates by about one level and is hardly faster.
DCT_METHOD = "INTEGER_ACCURATE"


def decode(encoded: Any) -> Any:
    """Decodes a whole photograph to RGB. The format is found from the bytes, not from a file name.

    Args:
        encoded: Scalar string tensor with the bytes of a JPEG (RGB, gray, CMYK or YCCK), PNG, BMP,
            WebP or GIF, whose first frame is decoded.

    Returns:
        uint8 tensor of shape (height, width, 3) with the same pixels as `load_image` returns. Gray
        is repeated for each channel, alpha is dropped, and of 16 bits the upper eight are kept. The
        Exif orientation of a JPEG is applied; other formats keep the orientation in which they are
        stored.

    Raises:
        tf.errors.InvalidArgumentError: If the format is not supported or the bytes are truncated.

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
    """Draws a random window of an image, as in Inception's training (arXiv 1409.4842, section 6).

    The area (uniform) and the aspect ratio (log-uniform) are drawn up to ten times until the window
    fits into the image. If none fits, the largest central window with an allowed ratio is returned.
    This is the algorithm of torchvision's `RandomResizedCrop`, without its loop.

    Args:
        height: Height of the image in pixels, an int or a scalar integer tensor.
        width: Width of the image in pixels, an int or a scalar integer tensor.
        seed: Integer tensor of shape (2,). Equal seeds give equal windows. Use a different seed for
            each function that draws random numbers for the same image.
        area: Smallest and largest area of the window as a fraction of the image, in (0, 1].
        ratio: Smallest and largest aspect ratio, width / height.

    Returns:
        int32 tensor (top, left, height, width) of a window inside the image.

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
            f"`area` is a fraction of the image, at most 1. Received: area={area}."
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
        # In float32 the product can be rounded up to free + 1.
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
    """Decodes a random window of a photograph and resizes it to a square, for training.

    The window is drawn by `random_crop_window`. Of a JPEG, only the window is decoded. A window
    much larger than `size` is decoded at 1/2, 1/4 or 1/8 of its size, after its borders are moved
    by less than 2, 4 or 8 pixels, and then resized by bilinear sampling. The mean distance to
    Pillow's antialiased resizing of the same windows of ImageNet photographs is 1.4 levels at size
    224 and 3.2 levels at size 160. Images of other formats are decoded completely and resized with
    antialiasing, which costs more than decoding a typical JPEG.

    Args:
        encoded: Scalar string tensor, as for `decode`.
        size: Side of the result in pixels, an int.
        seed: Integer tensor of shape (2,); see `random_crop_window`.
        area: See `random_crop_window`.
        ratio: See `random_crop_window`.

    Returns:
        uint8 tensor of shape (size, size, 3).

    Raises:
        ValueError: If `area` or `ratio` is out of range; see `random_crop_window`.
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
        lying = orientation >= 5  # the orientations that exchange height and width
        height, width = tf.where(lying, shape[1], shape[0]), tf.where(lying, shape[0], shape[1])
        window = random_crop_window(height, width, seed, area, ratio)
        # The window in the stored image may be at a mirrored place, which is equally likely.
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
    """Applies ImageNet's evaluation transform to the bytes of a photograph, for `tf.data`.

    `keras_mobileone.evaluation_crop` is the same transform for a Pillow image.

    The short side is resized to size / crop_fraction by bilinear sampling with antialiasing, and
    the center is cropped. Only the pixels of the crop are computed.

    Args:
        encoded: Scalar string tensor, as for `decode`.
        size: Side of the result in pixels, an int.
        crop_fraction: `size` divided by the resized short side, in (0, 1].

    Returns:
        uint8 tensor of shape (size, size, 3), within 2 levels of the result of Pillow.

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
            f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={crop_fraction}."
        )
    image = decode(encoded)
    sides = tf.shape(image)[:2]
    # The long side is rounded down, as in torchvision's Resize.
    resized = round(size / crop_fraction) * sides // tf.reduce_min(sides)
    # Halves are rounded to even, as in torchvision's CenterCrop, which uses Python's round.
    corner = tf.round(tf.cast(resized - size, tf.float32) / 2)
    crop = _resize_antialiased(image, resized, corner, size)[0]
    return tf.ensure_shape(tf.cast(tf.round(crop), tf.uint8), (size, size, 3))


def random_flip(image: Any, seed: Any) -> Any:
    """Flips an image horizontally with probability 1/2.

    Args:
        image: Tensor of shape (height, width, channels) and any dtype.
        seed: Integer tensor of shape (2,); see `random_crop_window`.

    Returns:
        The image or its mirror image, with the same shape and dtype.

    Examples:
        >>> import tensorflow as tf
        >>> random_flip(tf.zeros((4, 6, 3)), seed=(0, 7)).shape
        TensorShape([4, 6, 3])
    """
    import tensorflow as tf

    mirrored = tf.random.stateless_uniform((), seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: tf.identity(image))


def _decode_other(encoded: Any) -> Any:
    """Decodes any supported format other than JPEG to uint8 (height, width, 3)."""
    import tensorflow as tf

    def other() -> Any:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    return tf.cond(tf.strings.substr(encoded, 0, 2) == b"BM", lambda: _decode_bmp(encoded), other)


def _decode_bmp(encoded: Any) -> Any:
    """Decodes a BMP with its palette, whose indices TensorFlow's decoder takes for gray levels."""
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
    """Decodes a window of a JPEG at the smallest resolution that is sufficient for `size`."""
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
    """Returns the largest central window whose width / height lies within `ratio`."""
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
    """Resizes `image` to `resized` and crops a square at `corner`: float32 (1, size, size, 3)."""
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
