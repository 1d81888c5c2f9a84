"""How the pixels of a mask stand for classes, by index or by color, and reading of mask files."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_mobileone.data.folders import some
from keras_mobileone.data.labels import read_label_file
from keras_mobileone.errors import InputValueError

IGNORE = 255  # label of pixels without a class, as in PASCAL VOC and Cityscapes
MOST_CLASSES = IGNORE
VOID_NAMES = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "__ignore__")
MASK_SUFFIXES = (".png", ".bmp")
# Label files in the directory of a data set. Those with colors come first.
LABEL_FILES = (
    *("labelmap.txt", "label_colors.txt", "class_dict.csv", "palette.txt"),
    *("labels.txt", "classes.txt"),
)
# A name and three numbers from 0 to 255 in either order: "64 128 64 Animal", "Animal,64,128,64",
# or CVAT's "Animal:64,128,64::".
COLOR = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
COLOR_FIRST = re.compile(rf"{COLOR}[\s,;]+(\S.*)")
NAME_FIRST = re.compile(rf"(\S.*?)\s*[\s,;:]\s*{COLOR}(?:\s*:.*)?")


class BadMask(Exception):
    """A mask can't be used. The first argument is the kind of the problem, the second details."""


@dataclass(frozen=True)
class MaskCode:
    """The meaning of the values or colors of masks.

    Attributes:
        names: Names by index, including those of pixels without a class (`VOID_NAMES`).
        colors: RGB color of each name, or None for masks that hold indices.

    Examples:
        >>> code = MaskCode(("sky", "road", "void"))
        >>> code.classes
        ('sky', 'road')
        >>> code.of_indices(np.array([[0, 1, 2, 255]], np.uint8))
        array([[  0,   1, 255, 255]], dtype=uint8)
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MOST_CLASSES:
            raise InputValueError(
                f"Expected 1 to {MOST_CLASSES} classes of masks. Received: {len(self.classes)}."
            )
        if self.colors is not None and len(set(self.colors)) < len(self.colors):
            raise InputValueError(
                "Expected a color of its own for each class of the masks. Received: the same "
                f"color twice, among {some([str(color) for color in self.colors])}."
            )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(name for name in self.names if name.lower() not in VOID_NAMES)

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each index: int16 array of shape (256,), with −1 for indices beyond the last."""
        table = np.full(256, -1, np.int16)
        table[IGNORE] = IGNORE
        label = 0
        for index, name in enumerate(self.names):
            void = name.lower() in VOID_NAMES
            table[index] = IGNORE if void else label
            label += not void
        return table

    @cached_property
    def color_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted colors as 65536 · red + 256 · green + blue, and their indices."""
        packed = np.array([(r << 16) + (g << 8) + b for r, g, b in self.colors or ()], np.int64)
        order = np.argsort(packed)
        return packed[order], order

    def of_indices(self, indices: np.ndarray) -> np.ndarray:
        """Returns the uint8 labels of indices, with `IGNORE` for pixels without a class.

        Raises:
            BadMask: If an index is beyond the last class.
        """
        labels = self.labels[indices]
        if labels.min(initial=0) < 0:
            wrong = int(indices[labels < 0].min())
            raise BadMask(
                "mask with a class beyond the last",
                f"value {wrong}, where the classes are 0 to {len(self.names) - 1}; name a value "
                "without a class 'void' in the list of classes",
            )
        return labels.astype(np.uint8)

    def of_colors(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the uint8 labels of RGB colors (height, width, 3).

        Raises:
            BadMask: If a color is not in the palette.
        """
        table, indices = self.color_table
        packed = (pixels.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)
        places = np.minimum(np.searchsorted(table, packed), len(table) - 1)
        unknown = table[places] != packed
        if unknown.any():
            color = tuple(int(value) for value in pixels[unknown][0])
            raise BadMask("mask with a color that is not in the palette", f"RGB {color}")
        return self.of_indices(indices[places])

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Reads the labels of a mask file.

        With colors, a mask may be an RGB or a palette image. Without them, the gray values or the
        indices of a palette image are the indices of the classes.

        Returns:
            uint8 array of shape (height, width), with `IGNORE` for pixels without a class.

        Raises:
            BadMask: If the file can't be decoded, if it is an RGB image without known colors, or
                if it has an unknown color or an index beyond the last class.
        """
        from PIL import Image

        try:
            with Image.open(path) as image:
                image.load()
                return self.of_image(image)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadMask("mask that can't be decoded", str(error).split(" /")[0]) from error

    def of_image(self, image: Any) -> np.ndarray:
        """Returns the labels of a Pillow image; see `read`."""
        if image.mode in ("RGB", "RGBA") or (image.mode == "P" and self.colors is not None):
            if self.colors is None:
                raise BadMask(
                    "RGB mask without a palette",
                    "name the colors in label_colors.txt, a line `R G B name` for each class",
                )
            return self.of_colors(np.asarray(image.convert("RGB")))
        if image.mode not in ("L", "P", "1"):
            raise BadMask("mask of an unsuitable kind", f"mode {image.mode}; save 8 bits per pixel")
        return self.of_indices(np.asarray(image).astype(np.uint8))


def read_mask_code(path: str | os.PathLike) -> MaskCode:
    """Reads a text file of class names, with or without their colors.

    Each line is a name, or a name and its color in one of the spellings `64 128 64 sky`,
    `sky,64,128,64` and `sky:64,128,64::`. Lines that begin with # and the header `name,r,g,b` are
    ignored. Names in `VOID_NAMES` mark pixels without a class.

    Raises:
        FileNotFoundError: If `path` is not a file.
        ValueError: If only some of the lines have colors, or if a color is used twice.
    """
    lines = [line.strip() for line in read_label_file(path)]
    lines = [line for line in lines if not line.startswith("#")]
    if lines and re.fullmatch(r"name\s*,\s*r\s*,\s*g\s*,\s*b", lines[0].lower()):
        lines = lines[1:]
    colored = [_name_and_color(line) for line in lines]
    if any(color is None for _, color in colored) and any(color for _, color in colored):
        line = next(name for name, color in colored if color is None)
        raise InputValueError(
            f"Expected a color on each line of {path}, or on none. Received: line {line!r} without "
            "a color."
        )
    colors = tuple(color for _, color in colored if color is not None)
    return MaskCode(tuple(name for name, _ in colored), colors or None)


def find_mask_code(directory: Path) -> MaskCode | None:
    """Reads the file of class names in the directory of a data set, or returns None without one."""
    for name in LABEL_FILES:
        if (directory / name).is_file():
            return read_mask_code(directory / name)
    return None


def _name_and_color(line: str) -> tuple[str, tuple[int, int, int] | None]:
    """Returns the name and the color on a line, whose values must be bytes."""
    if match := COLOR_FIRST.fullmatch(line):
        *numbers, name = match.groups()
    elif match := NAME_FIRST.fullmatch(line):
        name, *numbers = match.groups()
    else:
        return line.strip(), None
    red, green, blue = (int(number) for number in numbers)
    if max(red, green, blue) > 255:
        raise InputValueError(f"Expected colors from 0 to 255. Received: line {line!r}.")
    return name.strip(), (red, green, blue)
