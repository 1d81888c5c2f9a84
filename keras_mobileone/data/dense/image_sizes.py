"""Reads the sizes of upright images from the headers of their files."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_mobileone.data.exif import ORIENTATION_TAG
from keras_mobileone.data.images import DECODE_THREADS, JPEG_FORMATS, LOOKAHEAD, in_order


def image_sizes(paths: Iterable[Path]) -> Iterator[tuple[int, int] | None]:
    """Yields (height, width) of each image as it is shown, or None if it can't be decoded.

    Only the headers are read. The Exif orientation of a JPEG counts, as in `load_image`.
    """
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        yield from in_order(pool, image_size, paths, LOOKAHEAD)


def image_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """Returns (height, width) of an upright image, or None if its header can't be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format in JPEG_FORMATS:
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
                if exif.get(ORIENTATION_TAG, 1) >= 5:  # height and width are exchanged
                    width, height = height, width
            return height, width
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None
