"""The corruptions of ImageNet-C, made from ordinary images in several processes.

They are those of imagecorruptions-imaug, the maintained form of the benchmark authors' code. The
random numbers of an image follow from the seed, the corruption, the severity and the place of the
image, so that the result depends neither on the order nor on the number of processes.
"""

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from keras_mobileone.data.images import LOOKAHEAD, in_order, load_crop
from keras_mobileone.errors import MissingPackageError

# In the order of the paper, Hendrycks and Dietterich 2019, arXiv 1903.12261.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SEVERITIES = (1, 2, 3, 4, 5)
SEEDED = ("impulse_noise", "glass_blur")  # their functions take a seed
CHUNK = 8  # images that a process takes at a time


def require_imagecorruptions() -> Any:
    """Imports imagecorruptions.

    Raises:
        ImportError: Without the extra `[robustness]`.
    """
    try:
        import imagecorruptions
    except ImportError as error:
        raise MissingPackageError(
            "Corrupting images needs imagecorruptions-imaug. Install it with "
            "`pip install keras-mobileone[robustness]`."
        ) from error
    return imagecorruptions


def corrupt_image(image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """Applies a corruption of ImageNet-C to an image.

    Args:
        image: uint8 (height, width, 3), RGB, at least 32 pixels wide and high.
        corruption: One of `CORRUPTIONS`.
        severity: 1 … 5.
        seed: Seed of the random numbers.

    Returns:
        uint8 of the same shape. The same arguments give the same pixels.

    Raises:
        ImportError: Without the extra `[robustness]`.
    """
    library = require_imagecorruptions()
    # Some corruptions draw from a generator of their own, the others from NumPy's global state.
    own = {"seed": seed} if corruption in SEEDED else {}
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        return library.corrupt(image, severity, corruption, **own)
    finally:
        np.random.set_state(state)


def image_seed(seed: int, corruption: str, severity: int, index: int) -> int:
    """Returns the seed of one image of one pass."""
    return zlib.crc32(f"{seed} {corruption} {severity} {index}".encode())


def corrupted_crops(
    paths: Sequence[Path],
    size: int,
    crop_fraction: float,
    corruption: str,
    severity: int,
    seed: int,
    pool: ProcessPoolExecutor,
) -> Iterator[np.ndarray]:
    """Decodes, crops and corrupts images in the processes of a pool, in order.

    Args:
        paths: The image files.
        size: Side of the crops in pixels.
        crop_fraction: Side of the crop divided by the short side of the resized image.
        corruption, severity, seed: As in `corrupt_image`.
        pool: What `corruption_pool` returned.

    Yields:
        uint8 (size, size, 3).
    """
    work = partial(_corrupt_chunk, size, crop_fraction, corruption, severity, seed)
    chunks = (
        [(index, paths[index]) for index in range(start, min(start + CHUNK, len(paths)))]
        for start in range(0, len(paths), CHUNK)
    )
    for crops in in_order(pool, work, chunks, LOOKAHEAD // CHUNK):
        yield from crops


def _corrupt_chunk(
    size: int,
    crop_fraction: float,
    corruption: str,
    severity: int,
    seed: int,
    chunk: Sequence[tuple[int, Path]],
) -> list[np.ndarray]:
    return [
        corrupt_image(
            load_crop(path, size, crop_fraction),
            corruption,
            severity,
            image_seed(seed, corruption, severity, index),
        )
        for index, path in chunk
    ]


def corruption_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Returns a pool of processes for `corrupted_crops`, one for each core by default.

    The processes are started afresh, since a copy of a process that runs TensorFlow hangs.
    """
    require_imagecorruptions()
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
