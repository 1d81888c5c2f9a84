"""Finds photographs on disk, reads them, and applies the evaluation transform."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_mobileone.data.exif import ORIENTATION_TAG
from keras_mobileone.data.imagenet import class_index
from keras_mobileone.errors import InputValueError

Item = TypeVar("Item")
Result = TypeVar("Result")

EXAMPLE_IMAGE = "cat.png"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
JPEG_FORMATS = ("JPEG", "MPO")  # by Pillow's names
# Pillow's `Image.Transpose` by Exif orientation.
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
DECODE_THREADS = 2
LOOKAHEAD = 64  # images decoded ahead of their use


def load_image(path: str | os.PathLike) -> Any:
    """Reads a photograph of any mode (gray, CMYK, palette) as an RGB `PIL.Image`.

    The pixels are the same as in training: gray is repeated for each channel, alpha is dropped, the
    upper eight of 16 bits are kept, and the first frame of an animation is used. The Exif
    orientation of a JPEG is applied, which photographs from phones need. Other formats keep the
    orientation in which they are stored.

    Args:
        path: Path of the image file.

    Returns:
        RGB `PIL.Image`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not an image or is truncated. The message names the file.
    """
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an image file. Received: {path}, which does not exist.")
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputValueError(
            f"Expected a whole image file. Received: {path}, which can't be decoded "
            f"({str(error).split(' /')[0]}). Remove or replace it."
        ) from error


def to_rgb(image: Any) -> Any:
    """Converts an opened `PIL.Image` to upright RGB; see `load_image`."""
    from PIL import Image

    # Only the Exif orientation of a JPEG counts. Pillow's `exif_transpose` also reads XMP and
    # rotates other formats, which TensorFlow's decoders do not do in training.
    orientation = 1
    if image.format in JPEG_FORMATS:
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ORIENTATION_TAG, 1)
    if image.mode.startswith("I"):
        # Pillow's `convert` clips 16-bit values at 255.
        levels = np.asarray(image)
        image = Image.fromarray((np.clip(levels, 0, 2**16 - 1) >> 8).astype(np.uint8))
    rgb = image.convert("RGB")
    turn = TURNS.get(orientation)
    return rgb if turn is None else rgb.transpose(Image.Transpose[turn])


def example_image(size: tuple[int, int]) -> np.ndarray:
    """Returns the photograph that comes with this package in the size (height, width).

    It shows a cat in 224×224 pixels, cropped from `chelsea.png` of scikit-image (Stéfan van der
    Walt, CC0).

    Returns:
        uint8 array of shape (height, width, 3), resized by Pillow's bilinear method if necessary.
    """
    from PIL import Image

    image = load_image(example_path())
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def example_path() -> Path:
    """Returns the path of the photograph of `example_image`."""
    return Path(__file__).parents[1] / "assets" / EXAMPLE_IMAGE


def evaluation_crop(image: Any, size: int = 224, crop_fraction: float = 0.875) -> np.ndarray:
    """Applies ImageNet's evaluation transform to a Pillow image.

    `keras_mobileone.data.decoding.evaluation_crop` is the same transform in TensorFlow ops, which
    makes the batches of validation.

    The short side is resized to size / crop_fraction by bilinear sampling with Pillow's
    antialiasing, and the center is cropped.

    Args:
        image: RGB `PIL.Image`.
        size: Side of the result in pixels.
        crop_fraction: `size` divided by the resized short side, in (0, 1]; see
            `Variant.crop_fraction`.

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
    """Returns the sorted paths of all image files below `directory`.

    Symbolic links are followed. Hidden files and folders are left out; see `find_images`.

    Args:
        directory: Directory to search.

    Returns:
        Paths that begin with `directory`.

    Raises:
        FileNotFoundError: If `directory` is not a directory.
        ValueError: If there is no image.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of images. Received: {directory}, which is not a directory."
        )
    files, left_out = find_images(directory)
    if not files:
        raise InputValueError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {directory} or below. "
            f"Received: none. {left_out_sentence(left_out)}".rstrip()
        )
    return sorted(directory / file for file in files)


def find_images(directory: str | os.PathLike) -> tuple[list[str], Counter]:
    """Finds the image files below a directory.

    Symbolic links to files and to directories are followed, except a link to a directory that
    contains the link. Hidden files of file managers and notebooks are skipped: names that begin
    with a dot, such as `._a.jpg` and `.ipynb_checkpoints`, and `__MACOSX`.

    Args:
        directory: Directory to search, at any depth.

    Returns:
        The paths below `directory` in the order of the disk, and the number of files that were left
        out for each suffix. Hidden files count as `"hidden"`, whatever their suffix.
    """
    directory = os.fspath(directory)
    files: list[str] = []
    left_out: Counter[str] = Counter()
    # `os.walk` reads a whole folder at once, without a system call for each file.
    for place, below, names in os.walk(directory, followlinks=True):
        below[:] = [name for name in below if not is_hidden(name) and not _is_loop(place, name)]
        prefix = os.path.relpath(place, directory)
        for name in names:
            if is_image(name):
                files.append(os.path.normpath(os.path.join(prefix, name)))
            else:
                suffix = os.path.splitext(name)[1].lower() or "no suffix"
                left_out["hidden" if is_hidden(name) else suffix] += 1
    return files, left_out


def describe_images(directory: str | os.PathLike) -> str:
    """Returns a line with the number of images below a directory, and what was left out."""
    files, left_out = find_images(directory)
    images = "1 image" if len(files) == 1 else f"{len(files)} images"
    return f"{images} in {directory}. {left_out_sentence(left_out)}".rstrip()


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Returns a sentence with the number of left-out files by suffix, or "" if there are none."""
    if not left_out:
        return ""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
    return f"Files left out: {kinds}."


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden, such as `._a.jpg` or `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Returns whether a file name is that of an image that is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def _is_loop(place: str, name: str) -> bool:
    """Returns whether a folder is a link to a folder that contains it."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    target, here = os.path.realpath(path), os.path.realpath(place)
    return os.path.commonpath([target, here]) == target


def image_labels(
    paths: Sequence[Path], index: Mapping[str, int] | None = None
) -> np.ndarray | None:
    """Returns the class indices of files in folders named by WordNet id, or None if one is unknown.

    `index` maps WordNet ids to class indices, by default those of ImageNet.
    """
    index = class_index() if index is None else index
    wnids = [path.parent.name for path in paths]
    if not all(wnid in index for wnid in wnids):
        return None
    return np.array([index[wnid] for wnid in wnids])


def spread(items: Sequence, count: int) -> list:
    """Returns `count` evenly spaced items, or all of them if there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def load_stretched(paths: Iterable[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields decoded images in order, resized to (height, width): uint8 arrays (*size, 3)."""
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        yield from in_order(pool, partial(_load_stretched, size=size), paths, LOOKAHEAD)


def _load_stretched(path: Path, size: tuple[int, int]) -> np.ndarray:
    return stretched(load_image(path), size)


def stretched(image: Any, size: tuple[int, int]) -> np.ndarray:
    """Resizes a whole Pillow image by bilinear sampling with antialiasing.

    Args:
        image: RGB `PIL.Image`.
        size: (height, width) of the result in pixels.

    Returns:
        uint8 array of shape (height, width, 3).
    """
    from PIL import Image

    height, width = size
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def load_crops(
    paths: Iterable[Path], size: tuple[int, int], crop_fraction: float
) -> Iterator[np.ndarray]:
    """Yields decoded crops in order, made by threads: uint8 arrays of shape (size, size, 3)."""
    load = partial(load_crop, size=square_side(size), crop_fraction=crop_fraction)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        yield from in_order(pool, load, paths, LOOKAHEAD)


def load_crop(path: Path, size: int, crop_fraction: float) -> np.ndarray:
    """Decodes an image file and applies the evaluation transform: uint8 (size, size, 3)."""
    return evaluation_crop(load_image(path), size, crop_fraction)


def square_side(size: tuple[int, int]) -> int:
    """Returns the side of a square image size.

    Raises:
        ValueError: If `size` is not square.
    """
    if size[0] != size[1]:
        raise InputValueError(
            f"The evaluation transform makes square images. Received: input size {size}."
        )
    return size[0]


def in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yields the results of work that a pool does, in the order of the items.

    Args:
        pool: The threads or processes.
        work: The function that is called with each item.
        items: The items.
        ahead: Number of results that are made before they are asked for.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
