"""Opens a data set of images with masks or boxes, whose format is recognized by its content."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from keras_mobileone.data.dense.coco import FORMAT as COCO
from keras_mobileone.data.dense.coco import find_coco, read_coco
from keras_mobileone.data.dense.description import DETECT, SEGMENT, DenseData, Problems
from keras_mobileone.data.dense.mask_codes import MASK_SUFFIXES, MaskCode, read_mask_code
from keras_mobileone.data.dense.mask_folders import FORMAT as MASKS
from keras_mobileone.data.dense.mask_folders import read_mask_folders
from keras_mobileone.data.dense.pairing import find_pairs
from keras_mobileone.data.dense.voc import FORMAT as VOC
from keras_mobileone.data.dense.voc import is_voc, read_voc
from keras_mobileone.data.dense.yolo import FORMAT as YOLO
from keras_mobileone.data.dense.yolo import is_yolo, read_yolo
from keras_mobileone.data.labels import read_label_file
from keras_mobileone.errors import InputValueError

FORMATS = {SEGMENT: (MASKS,), DETECT: (COCO, VOC, YOLO)}
TRIED = 8  # files that are opened to recognize a format


def open_dense(
    data: str | os.PathLike,
    task: str,
    split: str,
    *,
    format: str | None = None,
    labels: str | os.PathLike | Sequence[str] | MaskCode | None = None,
    skip_bad: bool = False,
) -> DenseData | None:
    """Opens the training or validation images of a data set with masks or boxes.

    Folders or file names that contain the words of a split (train, val, valid, validation, test),
    or lists such as `train.txt`, separate the splits. A data set without them is training data.
    Nothing is written to the directory.

    The formats are:

    - `"masks"`: a mask for each image, such as `train/a.jpg` and `trainannot/a.png`, or
      `images/train/a.jpg` and `masks/train/a.png`; and `labels.txt`, or a file of colors for RGB
      masks (see `read_mask_code`).
    - `"voc"`: an XML file for each image, beside it or in `Annotations/`.
    - `"coco"`: a JSON file for each split, such as `annotations/instances_train2017.json`.
    - `"yolo"`: a text file for each image, beside it or in `labels/`, and a YAML file or
      `classes.txt` with the names.

    Args:
        data: Directory of the data set.
        task: `"segment"` for masks or `"detect"` for boxes.
        split: `"train"` or `"val"`.
        format: Name of the format. By default, it is recognized by the files.
        labels: Path of a text file of class names, or the names themselves. By default, the names
            are those of the data set.
        skip_bad: Whether to leave out and count bad annotations, instead of raising an error.

    Returns:
        The data, or None if there is no such split.

    Raises:
        FileNotFoundError: If `data` is not a directory, or `labels` not a file.
        ValueError: If the format is not known or does not fit the task, or if an annotation is
            bad and such are not skipped. The message names the file.

    Examples:
        >>> from keras_mobileone.data.dense.shapes import write_shapes
        >>> write_shapes("shapes", images=4)
        >>> data = open_dense("shapes", "segment", "train")
        >>> data.format, data.classes, len(data.images)
        ('masks', ('background', 'circle', 'square'), 4)
    """
    directory = Path(data)
    if task not in FORMATS:
        raise InputValueError(f"`task` must be one of {', '.join(FORMATS)}. Received: {task!r}.")
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of images and annotations. Received: {directory}, which is not "
            "a directory."
        )
    format = format or recognized_format(directory, task)
    if format not in FORMATS[task]:
        raise InputValueError(
            f"Expected one of the formats {', '.join(FORMATS[task])} for the task {task!r}. "
            f"Received: {format!r}."
        )
    problems = Problems(skip_bad)
    if format == MASKS:
        return read_mask_folders(directory, split, _code(labels), problems)
    readers: dict[str, Callable[..., DenseData | None]] = {
        COCO: read_coco,
        VOC: read_voc,
        YOLO: read_yolo,
    }
    return readers[format](directory, split, _names(labels), problems)


def recognized_format(directory: Path, task: str) -> str:
    """Returns the format of a data set for a task, by the content of its files.

    Raises:
        ValueError: If no format is recognized, or if there are annotations in several formats.
    """
    if task == SEGMENT:
        found = [MASKS] if find_pairs(directory, MASK_SUFFIXES, separate=True).annotations else []
    else:
        found = [COCO] if find_coco(directory) else []
        checks = ((VOC, ".xml", is_voc), (YOLO, ".txt", is_yolo))
        for name, suffix, check in checks:
            files = list(find_pairs(directory, (suffix,), separate=False).annotations.values())
            if any(check(directory / file) for file in files[:TRIED]):
                found.append(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputValueError(
            f"Expected annotations in one format in {directory}. Received: {' and '.join(found)}. "
            "Name one with --format."
        )
    kind = "masks (PNG)" if task == SEGMENT else "boxes (COCO JSON, VOC XML or YOLO text)"
    raise InputValueError(
        f"Expected images with {kind} in {directory} for the task {task!r}. Received: none. Pass "
        "the directory that contains the images and their annotations, or another --task."
    )


def _code(labels: str | os.PathLike | Sequence[str] | MaskCode | None) -> MaskCode | None:
    if labels is None or isinstance(labels, MaskCode):
        return labels
    if isinstance(labels, (str, os.PathLike)):
        return read_mask_code(labels)
    return MaskCode(tuple(labels))


def _names(labels: str | os.PathLike | Sequence[str] | MaskCode | None) -> Sequence[str] | None:
    if labels is None:
        return None
    if isinstance(labels, MaskCode):
        return labels.classes
    return read_label_file(labels) if isinstance(labels, (str, os.PathLike)) else list(labels)
