"""Reads folders of images and masks, and checks every mask."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_mobileone.data.dense.description import (
    SEGMENT,
    DenseData,
    DenseImage,
    Problems,
    finished,
)
from keras_mobileone.data.dense.image_sizes import image_size
from keras_mobileone.data.dense.mask_codes import (
    LABEL_FILES,
    MASK_SUFFIXES,
    BadMask,
    MaskCode,
    find_mask_code,
)
from keras_mobileone.data.dense.pairing import chosen_files, find_pairs
from keras_mobileone.data.images import DECODE_THREADS, LOOKAHEAD, in_order
from keras_mobileone.errors import InputValueError

FORMAT = "masks"
NO_PALETTE = "RGB mask without a palette"


def read_mask_folders(
    directory: Path, split: str, code: MaskCode | None, problems: Problems
) -> DenseData | None:
    """Reads a split of folders of images and masks.

    Args:
        directory: Directory of the data set; see `open_dense`.
        split: `"train"` or `"val"`.
        code: How masks are stored. By default, that of the label file in the directory.
        problems: What to do about bad files.

    Returns:
        The data, or None if there is no such split.

    Raises:
        ValueError: If the classes are unknown, if a mask is bad and such are not skipped, or if
            no mask is good.
    """
    pairs = find_pairs(directory, MASK_SUFFIXES, separate=True)
    keys = pairs.of_split(split)
    if keys is None:
        return None
    code = code or find_mask_code(directory)
    if code is None:
        raise InputValueError(
            f"Expected the class names of the masks in {directory}, one on each line of one of "
            f"{', '.join(LABEL_FILES)}. Received: no such file. Write it, or pass one with "
            "--labels FILE."
        )
    chosen = chosen_files(directory, pairs, keys, problems, missing="missing mask")
    images = _checked(chosen, code, problems)
    name = f"{directory} ({split})"
    return finished(name, SEGMENT, FORMAT, code.classes, images, problems, code)


def _checked(
    pairs: Sequence[tuple[Path, Path]], code: MaskCode, problems: Problems
) -> list[DenseImage]:
    """Decodes every mask and returns the images whose masks are good."""

    def check(pair: tuple[Path, Path]) -> tuple[tuple[int, int] | None, tuple[int, int] | BadMask]:
        try:
            mask: np.ndarray = code.read(pair[1])
        except BadMask as problem:
            return image_size(pair[0]), problem
        return image_size(pair[0]), (mask.shape[0], mask.shape[1])

    images = []
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for (image, mask), (size, found) in zip(
            pairs, in_order(pool, check, pairs, LOOKAHEAD), strict=True
        ):
            if size is None:
                problems.report(image, "image that can't be decoded")
            elif isinstance(found, BadMask):
                # No mask of the data set could be read.
                skip = problems if found.args[0] != NO_PALETTE else Problems()
                skip.report(mask, *found.args)
            elif found != size:
                problems.report(
                    mask,
                    "mask of another size",
                    f"{found[1]}×{found[0]}, image {size[1]}×{size[0]}",
                )
            else:
                images.append(DenseImage(image, size, mask))
    return images
