"""Reads boxes in the text format of YOLO."""

import re
from collections.abc import Sequence
from pathlib import Path

from keras_mobileone.data.dense.description import (
    DETECT,
    DenseData,
    DenseImage,
    Problems,
    checked_boxes,
    finished,
)
from keras_mobileone.data.dense.image_sizes import image_sizes
from keras_mobileone.data.dense.pairing import files_of, find_pairs
from keras_mobileone.data.labels import read_label_file
from keras_mobileone.errors import InputValueError

FORMAT = "yolo"
SUFFIXES = (".txt",)
NAME_FILES = ("classes.txt", "labels.txt", "obj.names")
INLINE = re.compile(r"\s*names\s*:\s*\[(.*)\]\s*")
ENTRY = re.compile(r"\s*(?:-|\d+\s*:)\s*(.+?)\s*")


def read_yolo(
    directory: Path, split: str, classes: Sequence[str] | None, problems: Problems
) -> DenseData | None:
    """Reads a split of images with YOLO's text files.

    Each line is `class x y width height`: an index and the center and size of the box as fractions
    of the image. An image without a file has no objects.

    Args:
        directory: Directory of the data set; see `open_dense`.
        split: `"train"` or `"val"`.
        classes: Class names in label order. By default, those of the YAML file with `names`, or of
            `classes.txt`, `labels.txt` or `obj.names`.
        problems: What to do about bad files and boxes.

    Returns:
        The data, or None if there is no such split.

    Raises:
        ValueError: If the class names are unknown, or if an annotation is bad and such are not
            skipped.
    """
    pairs = find_pairs(directory, SUFFIXES, separate=False)
    keys = pairs.of_split(split)
    if keys is None:
        return None
    if classes is None:
        classes = yolo_names(directory)
    chosen = files_of(directory, pairs, keys, problems)
    images = []
    sizes = image_sizes(image for image, _ in chosen)
    for (image, text), size in zip(chosen, sizes, strict=True):
        if size is None:
            problems.report(image, "image that can't be decoded")
        elif text is None:
            images.append(DenseImage(image, size))
        else:
            boxes, labels = _parsed(text, size, len(classes), problems)
            checked = checked_boxes(text, size, boxes, labels, [False] * len(boxes), problems)
            images.append(DenseImage(image, size, None, *checked))
    name = f"{directory} ({split})"
    return finished(name, DETECT, FORMAT, classes, images, problems)


def yolo_names(directory: Path) -> list[str]:
    """Reads the class names of a YOLO data set.

    Raises:
        ValueError: If there is no file of names.
    """
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        names = _yaml_names(path)
        if names:
            return names
    for name in NAME_FILES:
        for folder in (directory, directory / "labels"):
            if (folder / name).is_file():
                return read_label_file(folder / name)
    raise InputValueError(
        f"Expected the class names of YOLO's annotations in {directory}: a YAML file with `names`, "
        f"or one of {', '.join(NAME_FILES)}. Received: no such file. Write it, or pass one with "
        "--labels FILE."
    )


def is_yolo(path: Path) -> bool:
    """Returns whether each line of a text file is an index and four numbers."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [[float(word) for word in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError):
        return False
    return bool(rows) and all(len(row) == 5 and row[0] == int(row[0]) for row in rows)


def _yaml_names(path: Path) -> list[str]:
    """Returns the `names` of a YAML file, a list in one line or a list or dictionary below it."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [re.sub(r"\s+#.*", "", line) for line in lines]
    for number, line in enumerate(lines):
        if match := INLINE.fullmatch(line):
            return [word.strip().strip("'\"") for word in match[1].split(",") if word.strip()]
        if line.split("#")[0].rstrip() == "names:":
            names = []
            for following in lines[number + 1 :]:
                entry = ENTRY.fullmatch(following)
                if entry is None:
                    break
                names.append(entry[1].strip("'\""))
            return names
    return []


def _parsed(
    path: Path, size: tuple[int, int], classes: int, problems: Problems
) -> tuple[list[tuple[float, float, float, float]], list[int]]:
    """Returns the boxes in pixels and the labels of a text file, without unusable lines."""
    height, width = size
    boxes, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, (x, y, w, h) = int(words[0]), (float(word) for word in words[1:])
        except ValueError:
            problems.report(path, "line that is not an index and four numbers", f"line {number}")
            continue
        if not 0 <= label < classes:
            problems.report(
                path, "class beyond the last", f"line {number}: {label}, classes 0 to {classes - 1}"
            )
            continue
        boxes.append(
            ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        )
        labels.append(label)
    return boxes, labels
