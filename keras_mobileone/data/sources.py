"""Opens the training and validation images of a dataset: class folders, TFRecords or TFDS."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from keras_mobileone.data.folders import ClassFolders, class_folders, folder_splits
from keras_mobileone.data.images import left_out_sentence
from keras_mobileone.data.records import (
    RecordKeys,
    Records,
    is_record_directory,
    open_records,
)
from keras_mobileone.errors import InputValueError, MissingPackageError

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "val")
TFDS_PREFIX = "tfds:"
TFDS_SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}


class Source(Protocol):
    """Labeled images, still encoded, in an order that can be resumed.

    Attributes:
        classes: Class names in label order.
        images: Number of images in one pass.
        name: Name of the source in messages.
    """

    classes: tuple[str, ...]
    images: int
    name: str

    def stream(
        self, start: int = 0, seed: int | None = None, worker: int = 0, workers: int = 1
    ) -> "tf.data.Dataset":
        """Returns the images from a position on.

        With a seed, the stream is an infinite sequence of passes, each of which contains every
        image once. Position p belongs to pass p // images, whose order depends only on the seed and
        the number of the pass. Without a seed there is one pass, in stored order.

        Args:
            start: Position of the first image, over all workers.
            seed: Seed of the order, or None for the stored order.
            worker, workers: Selects the positions p with p % workers == worker.

        Returns:
            Dataset of {"position": int64, "name": string, "encoded": string, "label": int64}.

        Raises:
            ValueError: If the arguments do not describe a share of a stream.
        """
        ...


def open_source(
    data: str | os.PathLike, split: str, classes: Sequence[str] | None = None
) -> Source | None:
    """Opens the training or validation images of a dataset.

    Args:
        data: A directory with train/ and optionally val/, or other usual names, each with one
            folder of images for each class; a directory of class folders, for training only; a
            directory of TFRecords, written by `keras-mobileone write-tfrecords` or by TensorFlow's
            scripts for ImageNet; or `"tfds:NAME"`, a dataset that tensorflow-datasets has prepared
            on this machine.
        split: `"train"` or `"val"`.
        classes: Class names in label order. By default, the names of the folders in sorted order,
            or the classes of the records in the order of their labels.

    Returns:
        A `Source`, or None if the validation images are requested and there are none.

    Raises:
        FileNotFoundError: If the directory does not exist, or if one of its files is missing.
        ValueError: If the data has another structure. The message says what was found instead.
        ImportError: If tensorflow-datasets is needed and not installed.

    Examples:
        >>> train = open_source("photos", "train")
        >>> train.classes
        ('dog', 'tench')
        >>> open_source("photos", "val", train.classes) is None
        True
    """
    if split not in SPLITS:
        raise InputValueError(f"`split` must be 'train' or 'val'. Received: split={split!r}.")
    if isinstance(data, str) and data.startswith(TFDS_PREFIX):
        return open_tfds(data.removeprefix(TFDS_PREFIX), split, classes)
    directory = Path(data)
    if directory.is_dir() and is_record_directory(directory):
        return open_records(directory, split, classes)
    splits = folder_splits(directory)
    if split not in splits:
        return None
    if split == "val" and classes is None:
        classes = class_folders(splits["train"])
    return ClassFolders(splits[split], classes)


def describe(source: Source) -> str:
    """Returns a line with the number of images and classes of a source, and the left-out files."""
    line = f"{source.images} images of {len(source.classes)} classes in {source.name}."
    if isinstance(source, ClassFolders):
        line = f"{line} {left_out_sentence(source.left_out)}".rstrip()
    return line


def open_tfds(name: str, split: str, classes: Sequence[str] | None = None) -> Records | None:
    """Opens a split of a dataset that tensorflow-datasets has prepared, without any download.

    Args:
        name: Name for `tfds.builder`, such as `"imagenet2012"` or `"imagenette/320px-v2"`. The
            dataset is looked up in `TFDS_DATA_DIR`, or in ~/tensorflow_datasets.
        split: `"train"` or `"val"`.
        classes: Class names in label order. By default, those of the dataset.

    Raises:
        ImportError: If tensorflow-datasets is not installed.
        ValueError: If the dataset is not prepared, not in TFRecords, or not of labeled images.
    """
    builder = _tfds_builder(name)
    info = builder.info
    if not info.splits:
        raise InputValueError(
            f"Expected a dataset that tensorflow-datasets has prepared. Received: {name!r}, which "
            f"is not in {builder.data_dir}. Prepare it with `tfds build {name}`, or set "
            "TFDS_DATA_DIR to where it is."
        )
    if info.file_format.value != "tfrecord":
        raise InputValueError(
            f"Expected TFRecords. Received: {name!r} in {builder.data_dir}, stored as "
            f"{info.file_format.value}. Prepare it with --file_format=tfrecord."
        )
    keys, stored = _tfds_keys(name, info.features)
    found = [info.splits[key] for key in TFDS_SPLITS[split] if key in info.splits]
    if not found:
        if split == "train":
            raise InputValueError(
                f"Expected a split named 'train'. Received: {name!r} with {', '.join(info.splits)}."
            )
        return None
    files = [os.fspath(path) for path in found[0].filepaths]
    return Records(
        files, found[0].shard_lengths, stored, classes, name=f"tfds:{name} ({split})", keys=keys
    )


def _tfds_builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingPackageError(
            f"'tfds:{name}' needs tensorflow-datasets. Install it with "
            "`pip install keras-mobileone[tfds]`."
        ) from error
    try:
        return tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise InputValueError(
            f"Expected a dataset that tensorflow-datasets knows or has prepared in TFDS_DATA_DIR. "
            f"Received: {name!r}."
        ) from error


def _tfds_keys(name: str, features: Any) -> tuple[RecordKeys, list[str]]:
    """Returns the names of the record features and of the classes of a dataset."""
    import tensorflow_datasets as tfds

    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], kinds[key]) for key in kinds):
        raise InputValueError(
            "Expected a dataset with an 'image' and a class 'label'. Received: "
            f"{name!r} with {', '.join(features)}."
        )
    filename = "file_name" if "file_name" in features else None
    return RecordKeys("image", "label", filename, 0), features["label"].names
