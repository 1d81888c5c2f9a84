"""Reading photographs from disk: class folders, and the transform used for evaluation."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_mobileone.data.imagenet import class_index
from keras_mobileone.errors import InputValueError

EXAMPLE_IMAGE = "cat.png"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
DECODE_THREADS = 2
LOOKAHEAD = 64  # images decoded before they are asked for


def load_image(path: str | os.PathLike):
    """A photograph as an RGB `PIL.Image`, whatever its mode on disk (grey, CMYK, palette).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image or is cut short; names it.
    """
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an image file. Received: {path}, which does not exist.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputValueError(
            f"Expected a whole image file. Received: {path}, which can't be decoded "
            f"({str(error).split(' /')[0]}). Remove or replace it."
        ) from error


def example_image(size: tuple[int, int]) -> np.ndarray:
    """The photograph that comes with this package, as a model of (height, width) `size` takes it.

    A cat, 224×224 pixels, cut from `chelsea.png` of scikit-image (Stéfan van der Walt, CC0).

    Returns:
        uint8 (height, width, 3), resized by Pillow, bilinear, if that is another size.
    """
    from PIL import Image

    image = load_image(example_path())
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def example_path() -> Path:
    """Where the photograph of `example_image` lies."""
    return Path(__file__).parents[1] / "assets" / EXAMPLE_IMAGE


def evaluation_crop(image, size: int = 224, crop_fraction: float = 0.875) -> np.ndarray:
    """ImageNet's evaluation transform.

    Resizes the short side to size / crop_fraction, bilinear with Pillow's antialiasing, and cuts
    out the centre.

    Args:
        image: RGB `PIL.Image`.
        size: Side of the result in pixels.
        crop_fraction: `size` over the resized short side, in (0, 1]. See `Variant.crop_fraction`.

    Returns:
        uint8 array of shape (size, size, 3).
    """
    from PIL import Image

    short = round(size / crop_fraction)
    width, height = image.size
    if width < height:
        resized = (short, int(short * height / width))
    else:
        resized = (int(short * width / height), short)
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in resized)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def list_images(directory: str | os.PathLike) -> list[Path]:
    """Every image file below `directory`, sorted.

    Raises:
        FileNotFoundError: If the directory does not exist.
        ValueError: If it holds no image.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of images. Received: {directory}, which is none."
        )
    found = sorted(p for p in directory.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputValueError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {directory} or below. "
            "Received: none."
        )
    return found


def list_labelled_images(directory: str | os.PathLike) -> list[tuple[Path, int]]:
    """Images below `directory` with ImageNet's class index, from folders named by WordNet id.

    Raises:
        FileNotFoundError: If the directory does not exist.
        ValueError: If it holds no image, or one in a folder that names no ImageNet class.
    """
    labelled = []
    for path in list_images(directory):
        wnid = path.parent.name
        if wnid not in class_index():
            raise InputValueError(
                "Expected class folders named by ImageNet's WordNet ids, such as n01440764. "
                f"Received: folder {wnid!r} with {path.name}."
            )
        labelled.append((path, class_index()[wnid]))
    return labelled


def image_labels(
    paths: Sequence[Path], index: Mapping[str, int] | None = None
) -> np.ndarray | None:
    """Class indices of files in folders named by WordNet id; None if any is no class.

    `index` gives them by id; ImageNet's by default.
    """
    index = class_index() if index is None else index
    wnids = [path.parent.name for path in paths]
    if not all(wnid in index for wnid in wnids):
        return None
    return np.array([index[wnid] for wnid in wnids])


def spread(items: Sequence, count: int) -> list:
    """`count` of the items at even distances, all of them if there are no more."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def load_crops(
    paths: Iterable[Path], size: tuple[int, int], crop_fraction: float
) -> Iterator[np.ndarray]:
    """Decodes and crops images in threads, in order: uint8 arrays of shape (size, size, 3)."""
    if size[0] != size[1]:
        raise InputValueError(
            f"The evaluation transform gives squares. Received: input size {size}."
        )
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        waiting = deque()
        for path in paths:
            waiting.append(pool.submit(_load_crop, path, size[0], crop_fraction))
            if len(waiting) > LOOKAHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load_crop(path, size, crop_fraction):
    return evaluation_crop(load_image(path), size, crop_fraction)
