"""Writes class folders as TFRecords, and checks every image."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from keras_mobileone.data import imagenet
from keras_mobileone.data.examples import BadImage, example_bytes
from keras_mobileone.data.folders import ClassFolders, folder_splits
from keras_mobileone.data.records import DATASET_FILE, UNFINISHED_FILE
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write, require_writable

BAD_FILE = "bad-images.txt"
NAMED = 10  # bad images listed in a message
PROGRESS_SECONDS = 0.2
LEFTOVER = re.compile(r"\.(train-\d+|validation-\d+|dataset|prepare|bad-images)-.+")


@dataclass(frozen=True)
class PreparedSplit:
    """Result of `write_tfrecords` for one split.

    Attributes:
        images: Number of images.
        shards: Number of files.
        bad: Images that were left out, with the reason by the path below the directory of the
            images.
    """

    images: int
    shards: int
    bad: dict[str, str]


@dataclass(frozen=True)
class Prepared:
    """Result of `write_tfrecords`.

    Attributes:
        directory: Directory of the files.
        classes: Class names in label order.
        splits: Results by the name of the split: "train", and "validation" if there is one.
    """

    directory: Path
    classes: tuple[str, ...]
    splits: dict[str, PreparedSplit]


@dataclass(frozen=True)
class Shard:
    """A file to write, with its name and its images."""

    file: str
    split: str
    source: ClassFolders
    chosen: Sequence[int]


@dataclass(frozen=True)
class Written:
    """A finished shard, with its number of images, its size, and the images left out."""

    images: int
    bytes: int
    bad: dict[str, str]


def write_tfrecords(
    directory: str | os.PathLike,
    output: str | os.PathLike,
    shards: int,
    val_shards: int | None = None,
    *,
    skip_bad: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Writes class folders as TFRecords in the layout of TensorFlow's scripts for ImageNet.

    Every image is decoded once as a check, and its bytes are stored without change. An image that
    TensorFlow and Pillow decode to different pixels, such as an animated WebP, counts as bad. The
    images are distributed over the shards in an order that depends only on their names. If a run is
    interrupted, the next run with the same arguments keeps the finished shards.

    Args:
        directory: Directory with train/ and optionally val/ (see `folder_splits`), each with one
            folder of images for each class, or with the class folders themselves.
        output: Directory to write to. It is created if it does not exist.
        shards: Number of files for the training images.
        val_shards: Number of files for the validation images. By default, it is proportional to the
            number of images.
        skip_bad: Whether to leave out bad images. By default, they raise an error at the end.
        threads: Number of shards written at the same time. By default, one for each core. Pillow
            decodes without Python's global interpreter lock, so threads use all cores.
        progress: Function called with (images done, total images).

    Returns:
        A `Prepared` object that describes the files. `output` contains train-00000-of-…,
        validation-00000-of-… and `dataset.json`, and `bad-images.txt` if there are bad images.

    Raises:
        FileNotFoundError: If `directory` or the parent of `output` does not exist.
        ValueError: If `directory` does not contain class folders, if images are bad and `skip_bad`
            is False, if there are more shards than images, if `output` contains other files, or if
            one of the two directories contains the other.
        OSError: If `output` can't be written.

    Examples:
        >>> prepared = write_tfrecords("photos", "photos-records", shards=1)
        >>> prepared.classes
        ('dog', 'tench')
    """
    directory, output = Path(directory), Path(output)
    require_apart(directory, output)
    plan, classes = plan_shards(directory, shards, val_shards)
    journal = Journal(output, plan)
    kept = journal.kept(plan, skip_bad)
    missing = [shard for shard in plan if shard.file not in kept]
    if missing:
        (output / DATASET_FILE).unlink(missing_ok=True)
    threads = threads or os.cpu_count() or 1
    Writer(directory, output, journal).write(missing, kept, threads, progress)
    return finish(output, plan, classes, journal.done, skip_bad)


def require_apart(directory: Path, output: Path) -> None:
    """Raises `ValueError` if one of the directories contains the other."""
    a, b = directory.resolve(), output.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise InputValueError(
            f"Expected an output directory apart from the images. Received: {output}, with images "
            f"in {directory}."
        )


def plan_shards(directory: Path, shards: int, val_shards: int | None) -> tuple[list, tuple]:
    """Returns the files to write and the names of the classes."""
    roots = folder_splits(directory)
    train = ClassFolders(roots["train"])
    plan = split_shards("train", train, shards)
    if "val" in roots:
        val = ClassFolders(roots["val"], train.classes)
        default = min(max(1, round(shards * val.images / train.images)), val.images)
        plan += split_shards("validation", val, val_shards or default)
    elif val_shards:
        raise InputValueError(
            f"Validation shards need a folder val/ next to train/. Received: {val_shards} for "
            f"{directory}, which has no such folder."
        )
    return plan, train.classes


def split_shards(split: str, source: ClassFolders, count: int) -> list[Shard]:
    """Returns the files of a split, with their images in a mixed order."""
    if not 1 <= count <= source.images:
        raise InputValueError(
            f"Expected from 1 to {source.images} {split} shards, one image in each at least. "
            f"Received: {count}."
        )
    # Sorting by a hash of the name gives the same order in every version of every library, which a
    # random generator does not guarantee.
    keys = [hashlib.blake2b(os.fsencode(f), digest_size=8).digest() for f in source.files]
    order = sorted(range(source.images), key=keys.__getitem__)
    cuts = [source.images * i // count for i in range(count + 1)]
    return [
        Shard(f"{split}-{i:05}-of-{count:05}", split, source, order[cuts[i] : cuts[i + 1]])
        for i in range(count)
    ]


def fingerprint(plan: list[Shard]) -> str:
    """Returns a digest that is equal for two runs that write the same files.

    Labels are not included because they follow from the folders.
    """
    digest = hashlib.sha256()
    for shard in plan:
        digest.update(shard.file.encode())
        for i in shard.chosen:
            digest.update(b"\0" + os.fsencode(shard.source.files[i]))
    return digest.hexdigest()


class Journal:
    """Record of the finished shards in `prepare.json`, for resuming an interrupted run.

    It creates the directory if necessary, and removes the temporary files of a killed run.

    Args:
        output: Directory of the shards.
        plan: Shards to write.

    Raises:
        FileNotFoundError: If the parent of `output` does not exist.
        ValueError: If `output` contains other files, or shards that do not belong to `plan`.
    """

    def __init__(self, output: Path, plan: list[Shard]) -> None:
        self.path = output / UNFINISHED_FILE
        self.fingerprint = fingerprint(plan)
        self.done: dict[str, Written] = {}
        self._lock = threading.Lock()
        if not output.exists():
            require_writable(output)
            output.mkdir()
        require_writable(self.path)
        names = os.listdir(output)
        leftovers = [name for name in names if LEFTOVER.fullmatch(name)]
        if self.path.exists():
            self._read()
        elif len(names) > len(leftovers):
            other = sorted(set(names) - set(leftovers))[0]
            raise InputValueError(
                "Expected a new or empty directory, or one of an interrupted run. Received: "
                f"{output} with {other}."
            )
        for name in leftovers:
            (output / name).unlink()
        self._save()

    def kept(self, plan: list[Shard], skip_bad: bool) -> set[str]:
        """Returns the finished shards, without those that have bad images unless `skip_bad`.

        All other shards are removed from the record, so that they are written again.
        """
        sizes = {s.file: _size(self.path.parent / s.file) for s in plan}
        self.done = {
            file: written
            for file, written in self.done.items()
            if sizes.get(file) == written.bytes and (skip_bad or not written.bad)
        }
        return set(self.done)

    def add(self, shard: Shard, written: Written) -> None:
        """Records a finished shard. Any thread may call this method."""
        with self._lock:
            self.done[shard.file] = written
            self._save()

    def _save(self) -> None:
        content = {
            "fingerprint": self.fingerprint,
            "shards": {file: asdict(written) for file, written in sorted(self.done.items())},
        }
        _write_json(self.path, content)

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            before = content["fingerprint"]
            self.done = {file: Written(**row) for file, row in content["shards"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputValueError(
                f"Expected the record of an interrupted run. Received: {self.path}, which is "
                "damaged. Empty the directory, or pass another one."
            ) from error
        if before != self.fingerprint:
            raise InputValueError(
                "Expected the same images and numbers of shards as in the interrupted run in "
                f"{self.path.parent}. Received: others. Empty the directory, or pass another one."
            )


class Writer:
    """Writes shards in threads."""

    def __init__(self, directory: Path, output: Path, journal: Journal) -> None:
        self.directory = directory
        self.output = output
        self.journal = journal
        self.names = dict(imagenet.classes())
        self.stop = threading.Event()
        self.counts: dict[str, int] = {}

    def write(
        self,
        plan: list[Shard],
        kept: set[str],
        threads: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Writes the shards of `plan`, and stops early on an error or an interruption."""
        done = sum(w.images + len(w.bad) for f, w in self.journal.done.items() if f in kept)
        total = done + sum(len(shard.chosen) for shard in plan)
        with ThreadPoolExecutor(threads) as pool:
            pending = {pool.submit(self._write_shard, shard) for shard in plan}
            try:
                while pending:
                    finished, pending = wait(pending, PROGRESS_SECONDS, FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    if progress is not None:
                        progress(done + sum(self.counts.values()), total)
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _write_shard(self, shard: Shard) -> None:
        import tensorflow as tf

        images, bad = 0, {}
        path = self.output / shard.file
        try:
            with atomic_write(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
                for count, i in enumerate(shard.chosen, 1):
                    if self.stop.is_set():
                        raise InterruptedError(f"Writing {shard.file} was interrupted.")
                    try:
                        writer.write(self._example(shard.source, i))
                        images += 1
                    except BadImage as error:
                        file = shard.source.root / shard.source.files[i]
                        bad[str(file.relative_to(self.directory))] = str(error)
                    self.counts[shard.file] = count
        except tf.errors.OpError as error:
            raise OSError(
                f"Can't write {path}: {error.message}. Free disk space and run the command again."
            ) from error
        self.journal.add(shard, Written(images, path.stat().st_size, bad))

    def _example(self, source: ClassFolders, i: int) -> bytes:
        file, label = source.files[i], int(source.labels[i])
        synset = source.classes[label]
        encoded = (source.root / file).read_bytes()
        return example_bytes(encoded, os.fsencode(file), label, synset, self.names.get(synset))


def finish(
    output: Path, plan: list[Shard], classes: tuple, done: dict[str, Written], skip_bad: bool
) -> Prepared:
    """Writes the list of bad images and `dataset.json`.

    Raises:
        ValueError: If there are bad images that may not be left out, or if a split has only bad
            images.
    """
    splits, content = {}, {}
    for name in dict.fromkeys(shard.split for shard in plan):
        rows = [(shard.file, done[shard.file]) for shard in plan if shard.split == name]
        bad = {file: reason for _, written in rows for file, reason in written.bad.items()}
        splits[name] = PreparedSplit(sum(w.images for _, w in rows), len(rows), bad)
        content[name] = {
            "images": splits[name].images,
            "bad": sorted(bad),
            "shards": [{"file": f, "images": w.images, "bytes": w.bytes} for f, w in rows],
        }
    report_bad(output, splits, skip_bad)
    _write_json(output / DATASET_FILE, {"classes": classes, "splits": content})
    return Prepared(output, classes, splits)


def report_bad(output: Path, splits: dict[str, PreparedSplit], skip_bad: bool) -> None:
    """Writes or removes `bad-images.txt`. Raises an error if bad images may not be left out."""
    bad = {file: reason for split in splits.values() for file, reason in split.bad.items()}
    if not bad:
        (output / BAD_FILE).unlink(missing_ok=True)
        return
    lines = [f"{file}: {reason}" for file, reason in sorted(bad.items())]
    with atomic_write(output / BAD_FILE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    if skip_bad and all(split.images for split in splits.values()):
        return
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    raise InputValueError(
        f"Expected whole images. Received: {len(bad)} that can't be decoded: "
        f"{', '.join(sorted(bad)[:NAMED])}{more}; see {output / BAD_FILE}. Replace them and run "
        "again, or leave them out with skip_bad=True (--skip-bad)."
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
