"""One description of a data set of images with masks or boxes, whatever the format of its files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_mobileone.data.dense.mask_codes import MaskCode
from keras_mobileone.errors import InputValueError

SEGMENT, DETECT = "segment", "detect"
# Annotation tools round, and count pixels from 0 or from 1. Boxes that leave the image by no more
# than this number of pixels are clipped.
BORDER = 1.5
NAMED_PROBLEMS = 3  # problems whose files a message names


@dataclass(frozen=True)
class DenseImage:
    """An image file and its annotation.

    Attributes:
        path: The image file.
        size: (height, width) of the upright image in pixels.
        mask: File of the mask, for segmentation.
        boxes: float32 array of shape (n, 4), (x1, y1, x2, y2) in pixels ("xyxy"), where x2 and y2
            are exclusive.
        labels: int64 array of shape (n,) with the classes of the boxes.
        ignored: bool array of shape (n,). A model may find these objects or not: crowds of COCO
            and difficult objects of VOC.
    """

    path: Path
    size: tuple[int, int]
    mask: Path | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


@dataclass(frozen=True)
class DenseData:
    """The images of one split with masks or boxes.

    Attributes:
        name: Directory and split, as shown in messages.
        task: `"segment"` or `"detect"`.
        format: Name of the format; see `open_dense`.
        classes: Class names in label order.
        images: The images, sorted by path.
        code: How the masks are stored, for segmentation.
        left_out: Number of annotations that were left out, by what is wrong with them.
        problems: A sentence for each annotation that was left out, which begins with the file.
    """

    name: str
    task: str
    format: str
    classes: tuple[str, ...]
    images: tuple[DenseImage, ...]
    code: MaskCode | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    problems: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns a line with the number of images, classes and objects, and what was left out."""
        objects = sum(len(image.labels) for image in self.images)
        counted = f" with {objects} boxes" if self.task == DETECT else ""
        line = f"{len(self.images)} images{counted} of {len(self.classes)} classes in {self.name}."
        if not self.left_out:
            return line
        counts = ", ".join(f"{count} × {kind}" for kind, count in sorted(self.left_out.items()))
        named = "; ".join(self.problems[:NAMED_PROBLEMS])
        more = "; …" if len(self.problems) > NAMED_PROBLEMS else ""
        return f"{line} Left out: {counts} ({named}{more})."


@dataclass
class Problems:
    """Collects bad annotations, or raises an error for the first one.

    Attributes:
        skip: Whether bad annotations are left out.
        left_out: Number of bad annotations of each kind.
        sentences: A sentence for each, which begins with the file.
    """

    skip: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)

    def report(self, file: object, kind: str, details: str = "") -> None:
        """Counts a bad annotation of `file`, or raises `ValueError` unless such are skipped."""
        if not self.skip:
            received = f"{file}: {kind}" + (f" ({details})" if details else "")
            raise InputValueError(
                f"Expected whole annotations. Received: {received}. Correct the file, or leave "
                "such annotations out with --skip-bad."
            )
        self.left_out[kind] += 1
        self.sentences.append(f"{file}: {kind}")


def checked_boxes(
    file: object,
    size: tuple[int, int],
    boxes: list[tuple[float, float, float, float]],
    labels: list[int],
    ignored: list[bool],
    problems: Problems,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the good boxes of an image, clipped to it; see `DenseImage`.

    Args:
        file: The annotation file, for messages.
        size: (height, width) of the image.
        boxes: "xyxy" boxes in pixels.
        labels: Class of each box.
        ignored: Whether to ignore each box.
        problems: What to do about boxes that are not finite, have no area or lie outside.
    """
    height, width = size
    kept = []
    for index, box in enumerate(boxes):
        x1, y1, x2, y2 = box
        shown = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(box).all():
            problems.report(file, "box that is not finite", shown)
        elif x2 < x1 or y2 < y1:
            problems.report(file, "inverted box", shown)
        elif x2 == x1 or y2 == y1:
            problems.report(file, "box without area", shown)
        elif _leaves(box, width, height):
            problems.report(file, "box outside of the image", f"{shown}, image {width}×{height}")
        else:
            kept.append(index)
    limits = np.array([width, height, width, height], np.float32)
    array = np.array(boxes, np.float32).reshape(-1, 4)[kept]
    return (
        np.clip(array, 0, limits),
        np.array(labels, np.int64)[kept],
        np.array(ignored, bool)[kept],
    )


def _leaves(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Returns whether a box leaves the image by more than `BORDER`, or has no pixel in it."""
    x1, y1, x2, y2 = box
    beyond = min(x1, y1, width - x2, height - y2) < -BORDER
    return beyond or min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0)


def finished(
    name: str,
    task: str,
    format: str,
    classes: Sequence[str],
    images: Sequence[DenseImage],
    problems: Problems,
    code: MaskCode | None = None,
) -> DenseData:
    """Returns the description of a split; see `DenseData`.

    Raises:
        ValueError: If every annotation is bad.
    """
    if not images:
        first = f" The first: {problems.sentences[0]}." if problems.sentences else ""
        raise InputValueError(
            f"Expected annotated images in {name}. Received: none that can be used.{first} Pass "
            "the directory that contains the images and their annotations."
        )
    ordered = tuple(sorted(images, key=lambda image: image.path))
    return DenseData(
        name,
        task,
        format,
        tuple(classes),
        ordered,
        code,
        problems.left_out,
        tuple(problems.sentences),
    )
