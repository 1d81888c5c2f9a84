"""Reads images from sharded TFRecord files."""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mobileone.data.folders import some
from keras_mobileone.data.imagenet import class_index
from keras_mobileone.data.shuffling import check_share, pass_range, permutation, shuffle_in_buffer
from keras_mobileone.errors import InputValueError

if TYPE_CHECKING:
    import tensorflow as tf

DATASET_FILE = "dataset.json"
UNFINISHED_FILE = "prepare.json"
SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val")}
SHARD_PATTERN = re.compile(r"(train|validation|val)-(\d+)-of-(\d+)(\.tfrecords?)?")

READ_AT_ONCE = 16  # shards whose records are mixed before the shuffle buffer
READ_BYTES = 1 << 20
# A pass is shuffled in parts of this many buffers, so that a stream that begins in the middle of a
# pass reads at most one part before its first image.
PART_BUFFERS = 10


@dataclass(frozen=True)
class RecordKeys:
    """Names of the features of a `tf.train.Example`.

    Attributes:
        encoded, label: Names of the features with the bytes of the image and its label.
        filename: Name of the feature with the name of the file, or None.
        first_label: The label of the first class.
    """

    encoded: str = "image/encoded"
    label: str = "image/class/label"
    filename: str | None = "image/filename"
    first_label: int = 1


class Records:
    """Source of images in TFRecord files, as TensorFlow's scripts for ImageNet write them.

    In each epoch the order of the files is shuffled, records of several files are interleaved, and
    a shuffle buffer mixes them.

    Args:
        files: The shards.
        lengths: Number of records in each shard.
        stored: Names of the classes in the order of the labels in the files.
        classes: Names of the classes in the order of the labels to return. By default, `stored`.
        name: Name of the source in messages.
        keys: Names of the features in the records.
        buffer: Length of the shuffle buffer in encoded images. 10,000 images of ImageNet take 1.1
            GB.

    Attributes:
        classes: Class names in label order.
        images: Number of images.
        name: Name of the source in messages.

    Raises:
        ValueError: If there is no record, or if a stored class is not in `classes`.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        lengths: Sequence[int],
        stored: Sequence[str],
        classes: Sequence[str] | None = None,
        *,
        name: str = "TFRecords",
        keys: RecordKeys | None = None,
        buffer: int = 10_000,
    ) -> None:
        self.files = [os.fspath(file) for file in files]
        self.lengths = np.array(lengths, np.int64)
        self.stored = tuple(stored)
        self.classes = tuple(stored if classes is None else classes)
        self.images = int(self.lengths.sum())
        self.name = name
        self.keys = keys or RecordKeys()
        self.buffer = min(buffer, max(self.images, 1))
        unknown = sorted(set(self.stored) - set(self.classes))
        if unknown:
            raise InputValueError(
                f"Expected images of the classes {some(self.classes)}. Received: {name} with "
                f"{some(unknown)}."
            )
        if not self.images:
            raise InputValueError(f"Expected images in {name}. Received: no record.")

    def stream(
        self, start: int = 0, seed: int | None = None, worker: int = 0, workers: int = 1
    ) -> "tf.data.Dataset":
        """Returns the images from a position on; see `Source.stream`.

        Images before `start` and of other workers are not decoded.
        """
        import tensorflow as tf

        check_share(start, worker, workers)
        with tf.device("CPU"):
            files = tf.constant([os.fsencode(file) for file in self.files])

        def read_shard(shard: Any) -> Any:
            records = tf.data.TFRecordDataset(files[shard], buffer_size=READ_BYTES)
            return records.enumerate().map(lambda number, record: (shard, number, record))

        def read_part(number: Any, part: Any, first: Any, shards: Any) -> Any:
            records = tf.data.Dataset.from_tensor_slices(shards).interleave(
                read_shard,
                cycle_length=READ_AT_ONCE,
                block_length=1,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            if seed is not None:
                draw = tf.random.stateless_uniform(
                    [], [seed, number], minval=None, maxval=None, dtype=tf.int64, alg="philox"
                )
                records = shuffle_in_buffer(records, self.buffer, draw + part)
            return records.enumerate(first)

        def wanted(position: Any, _: Any) -> Any:
            return position >= start and position % workers == worker

        passes = tf.data.Dataset.range(*pass_range(self.images, start, seed))
        parts = passes.flat_map(lambda number: self._parts(number, start, seed))
        return (
            parts.flat_map(read_part)
            .filter(wanted)
            .map(self._parser(files), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        )

    def _parts(self, number: Any, start: Any, seed: Any) -> Any:
        """Returns the shards of one pass in parts, each of which is shuffled separately.

        Returns:
            Dataset of (pass, part, position of its first image, indices of its shards), without
            the parts that end before `start`.
        """
        import tensorflow as tf

        count = len(self.files)
        size = 1 if seed is None else self._shards_of_part()
        order = tf.range(count, dtype=tf.int64)
        if seed is not None:
            order = permutation(count, seed, number)
        ends = number * self.images + tf.cumsum(tf.gather(self.lengths, order))

        def part(index: Any) -> Any:
            shards = order[index * size : (index + 1) * size]
            first = ends[index * size] - tf.gather(self.lengths, shards[0])
            return number, index, first, shards, ends[index * size + tf.size(shards, tf.int64) - 1]

        parts = tf.data.Dataset.range(-(-count // size)).map(part)
        return parts.filter(lambda *row: row[-1] > start).map(lambda *row: row[:-1])

    def _shards_of_part(self) -> int:
        return max(1, round(PART_BUFFERS * self.buffer * len(self.files) / self.images))

    def _parser(self, files: Any) -> Any:
        """Returns a function from a position and (shard, number, record) to a stream element."""
        import tensorflow as tf

        keys = self.keys
        features = {
            keys.encoded: tf.io.FixedLenFeature([], tf.string),
            keys.label: tf.io.FixedLenFeature([], tf.int64),
        }
        if keys.filename:
            features[keys.filename] = tf.io.FixedLenFeature([], tf.string, "")
        index = {name: label for label, name in enumerate(self.classes)}
        labels = np.array([index[name] for name in self.stored], np.int64)

        def parse(position: Any, row: Any) -> Any:
            shard, number, record = row
            example = tf.io.parse_single_example(record, features)
            place = tf.strings.join([files[shard], "#", tf.strings.as_string(number)])
            stored = self._checked(example[keys.label], place)
            name = example[keys.filename] if keys.filename else ""
            return {
                "position": position,
                "name": tf.where(tf.strings.length(name) > 0, name, place),
                "encoded": example[keys.encoded],
                "label": tf.gather(labels, stored - keys.first_label),
            }

        return parse

    def _checked(self, label: Any, place: Any) -> Any:
        """Returns the label, or fails with a clear message in the graph if it is out of range."""
        import tensorflow as tf

        first = self.keys.first_label
        last = first + len(self.stored) - 1
        message = tf.strings.join(
            [
                f"Expected labels from {first} to {last}. Received: label ",
                tf.strings.as_string(label),
                " in ",
                place,
                ".",
            ]
        )
        known = tf.debugging.Assert((label >= first) & (label <= last), [message])
        with tf.control_dependencies([known]):
            return tf.identity(label)


def shard_directory(directory: Path, split: str) -> Path | None:
    """Returns the directory of the TFRecords of a split: `directory` or a folder in it, or None."""
    for place in (directory, *(directory / name for name in SPLIT_NAMES[split])):
        if place.is_dir() and _shards(place, split):
            return place
    return None


def is_record_directory(directory: Path) -> bool:
    """Returns whether `directory` has TFRecords, complete or not, rather than class folders."""
    marked = any((directory / name).exists() for name in (DATASET_FILE, UNFINISHED_FILE))
    return marked or any(shard_directory(directory, split) for split in SPLIT_NAMES)


def open_records(
    directory: Path, split: str, classes: Sequence[str] | None = None
) -> Records | None:
    """Opens a split of a directory of TFRecords. Returns None if there is no such split.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a shard is truncated or not a TFRecord file, if the records are not labeled
            images, if `write_tfrecords` has not finished, or if there is no training split.
    """
    if (directory / DATASET_FILE).exists():
        return open_prepared(directory, split, classes)
    if (directory / UNFINISHED_FILE).exists():
        raise InputValueError(
            f"Expected a finished dataset. Received: {directory} without {DATASET_FILE}, which "
            "write-tfrecords has not finished. Run it again to continue where it stopped."
        )
    place = shard_directory(directory, split)
    if place is None:
        if split == "train":
            raise InputValueError(
                f"Expected TFRecords named train-00000-of-… in {directory}. Received: none."
            )
        return None
    files = complete_shards(place, split)
    with ThreadPoolExecutor() as pool:
        lengths = list(pool.map(count_records, files))
    check_first_record(files[0])
    return Records(files, lengths, tuple(class_index()), classes, name=f"{place} ({split})")


def open_prepared(directory: Path, split: str, classes: Sequence[str] | None) -> Records | None:
    """Opens a split that `write_tfrecords` wrote; None if `dataset.json` does not name it."""
    path = directory / DATASET_FILE
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
        stored = tuple(dataset["classes"])
        found = dataset["splits"].get(SPLIT_NAMES[split][0])
        if found is None:
            return None
        shards = [(s["file"], s["images"], s["bytes"]) for s in found["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputValueError(
            f"Expected {path} as write-tfrecords writes it. Received: a damaged one. "
            "Prepare the data again."
        ) from error
    for name, _, size in shards:
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"Expected every shard that {path} names. Received: no {name}. Copy it too, or "
                "prepare the data again."
            )
        if (directory / name).stat().st_size != size:
            raise InputValueError(
                f"Expected {name} of {size} bytes, as {path} says. Received: "
                f"{(directory / name).stat().st_size}. Copy it again."
            )
    files, lengths = [directory / name for name, _, _ in shards], [n for _, n, _ in shards]
    return Records(files, lengths, stored, classes, name=f"{directory} ({split})")


def _shards(directory: Path, split: str) -> dict[str, re.Match]:
    """Returns the files of a directory that are named like shards of a split."""
    matches = {name: SHARD_PATTERN.fullmatch(name) for name in os.listdir(directory)}
    return {n: m for n, m in sorted(matches.items()) if m and m[1] in SPLIT_NAMES[split]}


def complete_shards(directory: Path, split: str) -> list[Path]:
    """Returns the shards of a split in order.

    Raises:
        FileNotFoundError: If shards are missing. The message lists them.
        ValueError: If the file names state different numbers of shards.
    """
    shards = _shards(directory, split)
    totals = {(match[1], int(match[3])) for match in shards.values()}
    if len(totals) > 1:
        listed = " and ".join(sorted(f"{name}-…-of-{total}" for name, total in totals))
        raise InputValueError(
            f"Expected one set of {split} shards in {directory}. Received: {listed}."
        )
    ((_, total),) = totals
    missing = sorted(set(range(total)) - {int(match[2]) for match in shards.values()})
    if missing:
        raise FileNotFoundError(
            f"Expected {total} {split} shards in {directory}. Received: {len(shards)}, without "
            f"{some([str(number) for number in missing], 10)}."
        )
    return [directory / name for name in shards]


def count_records(path: str | os.PathLike) -> int:
    """Counts the records of a TFRecord file by reading only the lengths in their headers.

    A record consists of its length (8 bytes, little endian), a checksum (4 bytes), the data, and
    another checksum (4 bytes).

    Raises:
        ValueError: If the file is truncated or not a TFRecord file.
    """
    size, offset, count = os.stat(path).st_size, 0, 0
    with open(path, "rb", buffering=0) as file:
        while offset < size:
            file.seek(offset)
            offset += int.from_bytes(file.read(8), "little") + 16
            count += offset <= size
    if not count:
        raise InputValueError(
            f"Expected an uncompressed TFRecord file. Received: {path}, which is of "
            "another format, or empty."
        )
    if offset != size:
        raise InputValueError(
            f"Expected a whole TFRecord file. Received: {path}, which is cut short after {count} "
            f"records. Copy or write it again."
        )
    return count


def check_first_record(path: str | os.PathLike) -> None:
    """Raises `ValueError` unless a file begins with an image labeled as in ImageNet."""
    import tensorflow as tf

    keys = RecordKeys()
    try:
        record = next(tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator())
        features = tf.train.Example.FromString(record).features.feature
    except Exception as error:
        raise InputValueError(
            f"Expected TFRecords of `tf.train.Example`. Received: {path}, whose first record is "
            "damaged or has a different type."
        ) from error
    for key in (keys.encoded, keys.label):
        if key not in features:
            raise InputValueError(
                f"Expected records with {keys.encoded!r} and {keys.label!r}. Received: {path} "
                f"with {some(sorted(features))}. Write them with `keras-mobileone write-tfrecords`."
            )
    synsets = features["image/class/synset"].bytes_list.value
    labels = features[keys.label].int64_list.value
    if synsets and class_index().get(synsets[0].decode()) != labels[0] - keys.first_label:
        raise InputValueError(
            "Expected labels that count from 1 in the order of ImageNet's 1,000 WordNet ids. "
            f"Received: label {labels[0]} for {synsets[0].decode()} in {path}."
        )
