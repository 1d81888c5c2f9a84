"""One checked image as a `tf.train.Example`, as TensorFlow's scripts for ImageNet write it."""

import io
from typing import Any

import numpy as np

from keras_mobileone.data.decoding import decode
from keras_mobileone.data.images import to_rgb

# What `tf.io.decode_image` reads, by Pillow's names; MPO is a JPEG with more pictures behind it.
FORMATS = {name: name for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP")} | {"MPO": "JPEG"}


class BadImage(Exception):
    """Why an image can't be used."""


def inspect_image(encoded: bytes) -> dict[str, int | str]:
    """Decodes an image wholly and describes it.

    Returns:
        The features "image/height", "image/width", "image/channels", "image/colorspace" (Pillow's
        mode: RGB, L, CMYK, …) and "image/format", which go by the bytes and not by a file's name.

    Raises:
        BadImage: If it can't be decoded, or is of a format that TensorFlow does not read.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            pixels = np.asarray(to_rgb(image))
    except Exception as error:  # damaged files make Pillow raise errors of a dozen types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage("no image" if "cannot identify" in reason else reason) from error
    if image.format not in FORMATS:
        raise BadImage(f"{image.format} is none of {', '.join(FORMATS)}")
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

    TensorFlow does not read every variety of PNG, BMP and WebP, such as an animated WebP. Decoders
    of JPEG may differ by rounding.
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
    """A serialized `tf.train.Example`, the same bytes for the same arguments.

    Args:
        encoded: The image file, stored as it is.
        filename: Its path below the class folders' directory.
        label: Class index from 0; stored from 1.
        synset: Name of the class.
        text: What the class shows, if it is known.

    Raises:
        BadImage: See `inspect_image`.
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
