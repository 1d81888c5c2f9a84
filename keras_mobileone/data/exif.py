"""Reads and applies the orientation of photographs with TensorFlow ops, for `tf.data`.

Cameras store the pixels in the order of the sensor, and store in the Exif block of a JPEG how to
rotate them. Training, evaluation, calibration and prediction apply that orientation, to JPEG files
only.

Reference: Exif 2.32 (CIPA DC-008), sections 4.5 and 4.6; TIFF 6.0, section 2.
"""

from typing import Any

ORIENTATION_TAG = 0x0112
# The Exif block is one of the first segments of a file, IFD 0 is its first part, and ICC profiles
# come later.
HEAD_BYTES = 4096
EXIF_HEADER = b"Exif\0\0"
ENTRY_BYTES = 12
UPRIGHT = 1


def jpeg_orientation(encoded: Any) -> Any:
    """Reads the orientation in the Exif block of a JPEG.

    Args:
        encoded: Scalar string tensor, the bytes of a JPEG.

    Returns:
        int32 scalar tensor from 1 to 8. It is 1, which means upright, if there is no orientation.
    """
    import tensorflow as tf

    head = tf.strings.substr(encoded, 0, tf.minimum(HEAD_BYTES, tf.strings.length(encoded)))
    data = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    header = _marker_position(data)
    return tf.cond(header < 0, lambda: UPRIGHT, lambda: _stated(data, header))


def turn_upright(image: Any, orientation: Any) -> Any:
    """Applies an orientation to pixels, as Pillow's `ImageOps.exif_transpose` does.

    Args:
        image: Tensor of shape (height, width, channels).
        orientation: int32 scalar tensor from 1 to 8.

    Returns:
        The upright image. For orientations 5 to 8, height and width are exchanged.
    """
    import tensorflow as tf

    def among(*values: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(values))

    def turned() -> Any:
        result = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        result = tf.cond(among(2, 3, 6, 7), lambda: tf.reverse(result, [1]), lambda: result)
        return tf.cond(among(3, 4, 7, 8), lambda: tf.reverse(result, [0]), lambda: result)

    return tf.cond(orientation == UPRIGHT, lambda: image, turned)


def _marker_position(data: Any) -> Any:
    """Returns the index of the Exif header in the first bytes of a file, or −1."""
    import tensorflow as tf

    # The segment begins with 0xFF 0xE1 and two bytes for its length.
    pattern = [0xFF, 0xE1, None, None, *EXIF_HEADER]
    places = tf.maximum(tf.size(data) - len(pattern) + 1, 0)
    found = tf.fill([places], True)
    for offset, value in enumerate(pattern):
        if value is not None:
            found &= data[offset : offset + places] == value
    first = tf.argmax(tf.concat([tf.cast(found, tf.int32), [0]], 0), output_type=tf.int32)
    return tf.where(tf.reduce_any(found), first + 4, -1)


def _stated(data: Any, header: Any) -> Any:
    """Returns the orientation in IFD 0 of the Exif block whose header is at `header`."""
    import tensorflow as tf

    tiff = tf.concat([data[header + len(EXIF_HEADER) :], tf.zeros([8], tf.int32)], 0)
    little = tiff[0] == ord("I")

    def number(values: Any, width: int) -> Any:
        """Converts (…, width) bytes to integers, in the byte order of the file."""
        values = tf.where(little, tf.reverse(values, [-1]), values)
        factors = [256**i for i in reversed(range(width))]
        return tf.reduce_sum(tf.cast(values, tf.int64) * tf.constant(factors, tf.int64), -1)

    # Entries past the end of the bytes that were read are empty.
    length = tf.size(tiff, tf.int64)
    start = tf.minimum(number(tiff[4:8], 4), length - 2)
    count = number(tiff[start : start + 2], 2)
    count = tf.minimum(count, (length - start - 2) // ENTRY_BYTES)
    entries = tiff[start + 2 : start + 2 + count * ENTRY_BYTES]
    entries = tf.reshape(entries, (-1, ENTRY_BYTES))
    wanted = number(entries[:, :2], 2) == ORIENTATION_TAG
    values = tf.boolean_mask(number(entries[:, 8:10], 2), wanted)
    value = tf.cast(tf.concat([values, [UPRIGHT]], 0)[0], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, UPRIGHT)
