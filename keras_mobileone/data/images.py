"""Reading photographs from disk: class folders, and the transform used for evaluation."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_mobileone.data.exif import ORIENTATION_TAG
from keras_mobileone.data.imagenet import class_index
from keras_mobileone.errors import InputValueError

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
LOOKAHEAD = 64  # images decoded before they are asked for


def load_image(path: str | os.PathLike) -> Any:
    """Reads a photograph as an RGB `PIL.Image`, whatever its mode on disk (gray, CMYK, palette).

    The pixels are the same ones as in training: gray is repeated, alpha is dropped, of 16 bits the
    upper eight are kept, and of an animation the first frame is taken. A JPEG is turned upright as
    its Exif orientation says, as photographs of phones need it; other kinds of files are left as
    they are stored.

    Args:
        path: The image file.

    Returns:
        RGB `PIL.Image`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image or is cut short; names it.
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
    """Converts an opened `PIL.Image` to upright RGB, see `load_image`."""
    from PIL import Image

    # Exif alone: Pillow's `exif_transpose` also takes orientations from XMP, and turns other
    # formats than JPEG, none of which TensorFlow's decoders in training know about.
    orientation = 1
    if image.format in JPEG_FORMATS:
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ORIENTATION_TAG, 1)
    if image.mode.startswith("I"):
        # Pillow's `convert` clips 16 bits at 255.
        levels = np.asarray(image)
        image = Image.fromarray((np.clip(levels, 0, 2**16 - 1) >> 8).astype(np.uint8))
    rgb = image.convert("RGB")
    turn = TURNS.get(orientation)
    return rgb if turn is None else rgb.transpose(Image.Transpose[turn])


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


def evaluation_crop(image: Any, size: int = 224, crop_fraction: float = 0.875) -> np.ndarray:
    """ImageNet's evaluation transform.

    `keras_mobileone.data.decoding.evaluation_crop` is the same transform as TensorFlow ops, which
    the batches of validation are made with.

    Resizes the short side to size / crop_fraction, bilinear with Pillow's antialiasing, and cuts
    out the center.

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
    """Lists every image file below `directory`, sorted.

    Symbolic links are followed. Hidden files and folders are left out, see `find_images`.

    Args:
        directory: Where to look.

    Returns:
        Paths that begin with `directory`.

    Raises:
        FileNotFoundError: If the directory does not exist.
        ValueError: If it holds no image.
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
    """Finds the image files below a directory: the one reader of directories.

    Symbolic links to files and to directories are followed, except a link to a directory that
    contains the link. What file managers and notebooks leave behind is skipped: names that begin
    with a dot, such as `._a.jpg` and `.ipynb_checkpoints`, and `__MACOSX`.

    Args:
        directory: Where to look, at any depth.

    Returns:
        The paths below `directory` in the order of the disk, and how many files were left out by
        suffix, where `"hidden"` counts the hidden files beside images.
    """
    directory = os.fspath(directory)
    files: list[str] = []
    left_out: Counter[str] = Counter()
    # `os.walk` reads a folder in one go and asks nothing about the single file.
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
    """Returns a line that says how many images are below a directory, and what was left out."""
    files, left_out = find_images(directory)
    images = "1 image" if len(files) == 1 else f"{len(files)} images"
    return f"{images} in {directory}. {left_out_sentence(left_out)}".rstrip()


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Says how many files were left out and of which suffixes; empty if there are none."""
    if not left_out:
        return ""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
    return f"Files left out: {kinds}."


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not meant to be seen, such as `._a.jpg` or `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Whether a file name is that of an image, and not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def _is_loop(place: str, name: str) -> bool:
    """Whether a folder is a link to one that contains it."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    target, here = os.path.realpath(path), os.path.realpath(place)
    return os.path.commonpath([target, here]) == target


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
        waiting: deque = deque()
        for path in paths:
            waiting.append(pool.submit(_load_crop, path, size[0], crop_fraction))
            if len(waiting) > LOOKAHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load_crop(path: Path, size: int, crop_fraction: float) -> Any:
    return evaluation_crop(load_image(path), size, crop_fraction)
