"""Checks an image and stores it as a `tf.train.Example` of TensorFlow's scripts for ImageNet."""

import io
from typing import Any

import numpy as np

from keras_mobileone.data.decoding import decode
from keras_mobileone.data.images import to_rgb

# The formats that `tf.io.decode_image` reads, by Pillow's names. MPO is a JPEG that is followed by
# further images.
FORMATS = {name: name for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP")} | {"MPO": "JPEG"}


class BadImage(Exception):
    """An image can't be used, for the reason in the message."""


def inspect_image(encoded: bytes) -> dict[str, int | str]:
    """Decodes a whole image and returns its description.

    Returns:
        The features "image/height", "image/width", "image/channels", "image/colorspace" (Pillow's
        mode: RGB, L, CMYK, …) and "image/format", which are found from the bytes and not from a
        file name.

    Raises:
        BadImage: If the image can't be decoded, or if TensorFlow does not read its format.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            pixels = np.asarray(to_rgb(image))
    except Exception as error:  # Pillow raises a dozen types of errors for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage("no image" if "cannot identify" in reason else reason) from error
    if image.format not in FORMATS:
        raise BadImage(f"{image.format} is not one of {', '.join(FORMATS)}")
    if FORMATS[image.format] != "JPEG":
        require_same_pixels(encoded, pixels)
    return {
        "image/height": image.height,
        "image/width": image.width,
        "image/channels": len(image.getbands()),
        "image/colorspace": image.mode,
        "image/format": FORMATS[image.format],
    }


def require_same_pixels(encoded: bytes, pixels: np.ndarray) -> None:
    """Raises `BadImage` unless TensorFlow decodes the same pixels as Pillow.

    TensorFlow does not read every variety of PNG, BMP and WebP. An animated WebP is an example.
    JPEG decoders may differ by rounding.
    """
    import tensorflow as tf

    try:
        found = decode(encoded).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise BadImage("a variety that TensorFlow does not decode; save it as PNG") from error
    if not np.array_equal(found, pixels):
        raise BadImage("a variety that TensorFlow decodes to other pixels; save it as PNG")


def example_bytes(
    encoded: bytes, filename: bytes, label: int, synset: str, text: str | None
) -> Any:
    """Returns a serialized `tf.train.Example`, with equal bytes for equal arguments.

    Args:
        encoded: Content of the image file, which is stored without change.
        filename: Path of the file below the directory of the class folders.
        label: Class index, counted from 0. The stored label is counted from 1.
        synset: Name of the class folder, such as a WordNet id.
        text: Readable name of the class, or None if it is unknown.

    Raises:
        BadImage: If the image can't be used; see `inspect_image`.
    """
    import tensorflow as tf

    values = inspect_image(encoded) | {
        "image/encoded": encoded,
        "image/filename": filename,
        "image/class/label": label + 1,
        "image/class/synset": synset,
    }
    if text is not None:
        values["image/class/text"] = text

    def feature(value: Any) -> Any:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        value = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = tf.train.Features(feature={name: feature(v) for name, v in values.items()})
    return tf.train.Example(features=features).SerializeToString(deterministic=True)
