"""The test sets of ImageNet's robustness benchmarks, as they are distributed."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_mobileone.data.folders import ClassFolders, class_folders, some
from keras_mobileone.data.imagenet import NUM_CLASSES, classes
from keras_mobileone.data.images import evaluation_crop, list_images, load_crops, to_rgb
from keras_mobileone.data.records import Records
from keras_mobileone.data.sources import TFDS_PREFIX, open_tfds
from keras_mobileone.errors import InputValueError

REAL_LABELS = "real.json"
REAL_IMAGES = 50_000
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class RobustnessSet:
    """A test set for models of ImageNet's 1,000 classes.

    Attributes:
        name: Name for `evaluate` and the command line.
        title: Name in the literature.
        layout: `"wnid"`: one folder for each class, named by WordNet id. `"number"`: one folder
            for each class, named by the index of the class. `"real"`: the validation images of
            ImageNet, with a JSON file of label sets.
        subset: Whether only 200 of the 1,000 classes are scored.
        source: Repository on GitHub that tells where to get the set.
    """

    name: str
    title: str
    layout: str
    subset: bool
    source: str


_SETS: tuple[tuple[str, str, str, bool, str], ...] = (
    ("imagenet-a", "ImageNet-A", "wnid", True, "hendrycks/natural-adv-examples"),
    ("imagenet-r", "ImageNet-R", "wnid", True, "hendrycks/imagenet-r"),
    ("imagenet-sketch", "ImageNet-Sketch", "wnid", False, "HaohanWang/ImageNet-Sketch"),
    ("imagenet-v2", "ImageNet-V2", "number", False, "modestyachts/ImageNetV2"),
    ("imagenet-real", "ImageNet-ReaL", "real", False, "google-research/reassessed-imagenet"),
)
ROBUSTNESS_SETS = {fields[0]: RobustnessSet(*fields) for fields in _SETS}


class ScoredImages(Protocol):
    """Images of a test set with the labels that count as right.

    Attributes:
        images: Number of images.
        outputs: Indices of the outputs that are scored, in ascending order.
        left_out: Number of images without a label, which are not scored.
    """

    images: int
    outputs: tuple[int, ...]
    left_out: int

    def examples(
        self, chosen: Sequence[int], size: int, crop_fraction: float
    ) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
        """Yields the crop of each chosen image, uint8 (size, size, 3), and its right labels."""
        ...


class ImageFiles:
    """Image files of a test set.

    Args:
        paths: The image files.
        labels: For each image the indices of its classes among ImageNet's 1,000.
        outputs, left_out: As in `ScoredImages`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[tuple[int, ...]],
        outputs: tuple[int, ...],
        left_out: int = 0,
    ) -> None:
        self.paths, self.labels, self.outputs = list(paths), list(labels), outputs
        self.images, self.left_out = len(self.paths), left_out

    def examples(
        self, chosen: Sequence[int], size: int, crop_fraction: float
    ) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
        """See `ScoredImages`."""
        crops = load_crops([self.paths[index] for index in chosen], (size, size), crop_fraction)
        for index, crop in zip(chosen, crops, strict=True):
            yield crop, self.labels[index]


class StoredImages:
    """Images of a test set that tensorflow-datasets has prepared.

    Args:
        title: Name of the test set in the literature.
        source: Its records, labeled by ImageNet's 1,000 classes.
        outputs: As in `ScoredImages`.
    """

    def __init__(self, title: str, source: Records, outputs: tuple[int, ...]) -> None:
        self.title, self.source, self.outputs = title, source, outputs
        self.images, self.left_out = source.images, 0

    def examples(
        self, chosen: Sequence[int], size: int, crop_fraction: float
    ) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
        """See `ScoredImages`. The records between the chosen ones are read and not decoded."""
        from PIL import Image

        wanted = set(chosen)
        for index, example in enumerate(self.source.stream().as_numpy_iterator()):
            if index not in wanted:
                continue
            label = int(example["label"])
            if label not in self.outputs:
                raise InputValueError(
                    f"Expected images of the classes of {self.title}. Received: "
                    f"{self.source.name} with {classes()[label][0]}."
                )
            with Image.open(BytesIO(example["encoded"])) as image:
                yield evaluation_crop(to_rgb(image), size, crop_fraction), (label,)


def open_robustness_set(
    name: str, directory: str | os.PathLike, real_labels: str | os.PathLike | None = None
) -> ScoredImages:
    """Finds the images and labels of a test set.

    Args:
        name: A key of `ROBUSTNESS_SETS`.
        directory: Directory of the set, in the layout in which it is distributed. For
            `"imagenet-real"` it is that of ImageNet's validation images, with or without class
            folders. `"tfds:NAME"` names a data set that tensorflow-datasets has prepared, for the
            sets with one label for each image.
        real_labels: The file `real.json` of `"imagenet-real"`. None: it lies in `directory` or
            beside it.

    Returns:
        The images, sorted by class and name.

    Raises:
        FileNotFoundError: If `directory` or `real.json` does not exist.
        ValueError: If `name` is unknown, or if the folders are not those of the set.

    Examples:
        ```python
        images = open_robustness_set("imagenet-a", "imagenet-a/")
        print(images.images, len(images.outputs))  # 7500 200
        ```
    """
    if name not in ROBUSTNESS_SETS:
        raise InputValueError(
            f"`benchmark` must be one of {', '.join(ROBUSTNESS_SETS)}. Received: {name!r}."
        )
    known = ROBUSTNESS_SETS[name]
    stored = str(directory).startswith(TFDS_PREFIX)
    if known.layout == "real":
        if stored:
            raise InputValueError(
                f"{known.title} is read from files. Received: {directory}. Pass the directory of "
                "ImageNet's validation images."
            )
        return _real(directory, real_labels)
    outputs = subset(name) if known.subset else tuple(range(NUM_CLASSES))
    if stored:
        return open_stored(known.title, str(directory), outputs)
    names = [str(index) if known.layout == "number" else classes()[index][0] for index in outputs]
    _require_folders(known, names, class_folders(directory), Path(directory))
    folders = ClassFolders(directory, names)
    return ImageFiles(
        folders.paths, [(outputs[label],) for label in folders.labels.tolist()], outputs
    )


def open_stored(title: str, address: str, outputs: tuple[int, ...]) -> StoredImages:
    """Opens a test set that tensorflow-datasets has prepared.

    Args:
        title: Name of the test set in the literature.
        address: `"tfds:NAME"`.
        outputs: As in `ScoredImages`.

    Raises:
        ImportError: If tensorflow-datasets is not installed.
        ValueError: If the data set is not prepared, or has no images to test with.
    """
    wnids = [wnid for wnid, _ in classes()]
    source = open_tfds(address.removeprefix(TFDS_PREFIX), "val", wnids)
    if source is None:
        raise InputValueError(
            f"Expected a split 'test' or 'validation'. Received: {address} without one."
        )
    return StoredImages(title, source, outputs)


@cache
def subset(name: str) -> tuple[int, ...]:
    """Returns the indices of the 200 classes of ImageNet-A or ImageNet-R among the 1,000."""
    table = resources.files("keras_mobileone") / "assets" / "imagenet_subsets.json"
    return tuple(json.loads(table.read_text(encoding="utf-8"))[name])


def _require_folders(
    known: RobustnessSet, expected: Sequence[str], found: Sequence[str], directory: Path
) -> None:
    """Raises ValueError unless the class folders are exactly those of a test set."""
    foreign = sorted(set(found) - set(expected))
    missing = [name for name in expected if name not in set(found)]
    if not foreign and not missing:
        return
    kind = {"wnid": "named by WordNet id", "number": "0 … 999"}[known.layout]
    faults = [
        f"{len(names)} {what}: {some(names)}"
        for names, what in ((foreign, "other folders"), (missing, "folders missing"))
        if names
    ]
    raise InputValueError(
        f"Expected the {len(expected)} class folders of {known.title}, {kind}. Received: "
        f"{directory} with {'; '.join(faults)}. Name the directory that holds the class folders "
        "of this set, or another --benchmark."
    )


def _real(directory: str | os.PathLike, real_labels: str | os.PathLike | None) -> ImageFiles:
    """Returns ImageNet's validation images with ReaL's label sets; those without are left out."""
    directory = Path(directory)
    label_sets = _read_real(directory, real_labels)
    found: list[Path] = []
    labels: list[tuple[int, ...]] = []
    paths = sorted(list_images(directory), key=lambda path: path.name)
    for path in paths:
        match = VALIDATION_NAME.match(path.name)
        if match is None or not 1 <= int(match[1]) <= REAL_IMAGES:
            raise InputValueError(
                "Expected ImageNet's validation images, named ILSVRC2012_val_00000001.JPEG to "
                f"ILSVRC2012_val_00050000.JPEG. Received: {path}."
            )
        label_set = label_sets[int(match[1]) - 1]
        if label_set:
            found.append(path)
            labels.append(tuple(label_set))
    return ImageFiles(found, labels, tuple(range(NUM_CLASSES)), len(paths) - len(found))


def _read_real(directory: Path, real_labels: str | os.PathLike | None) -> list[list[int]]:
    """Reads ReaL's list of label sets, one for each of the 50,000 validation images."""
    places = [directory / REAL_LABELS, directory.parent / REAL_LABELS]
    path = next((place for place in places if place.is_file()), None)
    path = path if real_labels is None else Path(real_labels)
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"Expected the file {REAL_LABELS} of ImageNet-ReaL. Received: "
            f"{path or f'none in {directory} or beside it'}. Download it from "
            f"github.com/{ROBUSTNESS_SETS['imagenet-real'].source}."
        )
    expected = f"Expected {REAL_IMAGES} lists of class indices, 0 … {NUM_CLASSES - 1}."
    try:
        label_sets = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputValueError(f"{expected} Received: {path}, which is not JSON.") from error
    fits = isinstance(label_sets, list) and len(label_sets) == REAL_IMAGES
    if not fits or not all(
        isinstance(labels, list)
        and all(isinstance(label, int) and 0 <= label < NUM_CLASSES for label in labels)
        for labels in label_sets
    ):
        raise InputValueError(f"{expected} Received: {path} with something else.")
    return label_sets
