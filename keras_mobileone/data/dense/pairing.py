"""Finds the annotation file of each image, and the split that they belong to, by their paths.

`train/a.jpg` belongs to `trainannot/a.png`, `images/train/a.jpg` to `masks/train/a.png` or
`labels/train/a.txt`, and `JPEGImages/a.jpg` to `Annotations/a.xml`: words for the role of a file
are removed from its path, and what remains is the same for an image and its annotation.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_mobileone.data.dense.description import Problems
from keras_mobileone.data.folders import SPLIT_FOLDERS, some
from keras_mobileone.data.images import IMAGE_SUFFIXES, is_hidden
from keras_mobileone.data.labels import read_label_file
from keras_mobileone.errors import InputValueError

IMAGE_WORDS = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos")
MASK_WORDS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot"),
    *("segmentationclass", "segmentations", "segmentation", "ground_truth", "gt"),
)
# As the end of a folder (`trainannot`, `train_masks`) or of a name (`0001_mask.png`, CamVid's
# `0001_L.png`).
FOLDER_END = re.compile(rf"[_-]?({'|'.join(sorted(MASK_WORDS, key=len, reverse=True))})$")
STEM_END = re.compile(r"[_-](mask|masks|label|labels|annot|gt|seg|l|leftimg8bit|image|img)$")
YEAR = re.compile(r"(19|20)\d\d$")  # `train2017`
OTHER = ("SegmentationObject", "ImageSets")  # folders that hold neither
# Text files that are no annotations: list files, label files, notes.
DESCRIPTIONS = ("labelmap", "label_colors", "palette", "labels", "classes", "notes", "license")
LIST_FOLDERS = (".", "ImageSets/Main", "ImageSets/Segmentation", "ImageSets", "splits")


@dataclass
class Pairs:
    """The files of a data set below its directory.

    Attributes:
        images: Image files by key.
        annotations: Annotation files by key.
        lists: Names in the list files, such as `train.txt`, by split.
    """

    images: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def splits(self) -> set[str]:
        """Returns the splits that the paths or the list files name."""
        return set(self.lists) or {s for s in map(split_of, self.annotations.values()) if s}

    def of_split(self, split: str) -> list[str] | None:
        """Returns the sorted keys of a split, or None if the data set does not have it.

        A data set without any split is training data.
        """
        keys = sorted(set(self.images) | set(self.annotations))
        if self.lists:
            names = self.lists.get(split)
            if names is None:
                return None
            by_name = {os.path.basename(key): key for key in keys}
            return sorted(by_name.get(key_of(name), name) for name in names)
        if not self.splits():
            return keys if split == "train" else None
        files = {key: self.images.get(key, self.annotations.get(key, "")) for key in keys}
        found = [key for key in keys if split_of(files[key]) == split]
        return found or None


def find_pairs(directory: Path, suffixes: Sequence[str], separate: bool) -> Pairs:
    """Pairs the images below a directory with annotation files.

    Args:
        directory: Directory of the data set.
        suffixes: Suffixes of annotation files.
        separate: Whether annotations are images, which only the words in their paths distinguish.

    Raises:
        ValueError: If two annotations have the same key.
    """
    pairs, doubtful = Pairs(lists=split_lists(directory)), []
    for place, below, names in os.walk(directory, followlinks=True):
        below[:] = sorted(name for name in below if not is_hidden(name) and name not in OTHER)
        for name in sorted(names):
            path = os.path.normpath(os.path.join(os.path.relpath(place, directory), name))
            suffix = os.path.splitext(name)[1].lower()
            if is_hidden(name) or _is_description(path):
                continue
            if suffix in suffixes and (not separate or has_mask_word(path)):
                _add(pairs.annotations, path, "annotation for each image", directory)
            elif suffix in IMAGE_SUFFIXES and not has_mask_word(path):
                _add(pairs.images, path, "image for each annotation", directory)
            elif suffix in IMAGE_SUFFIXES:
                doubtful.append(path)
    if not pairs.images and not separate:  # otherwise these are masks beside boxes
        for path in doubtful:
            _add(pairs.images, path, "image for each annotation", directory)
    return pairs


def _add(files: dict[str, str], path: str, expected: str, directory: Path) -> None:
    key = key_of(path)
    if key in files:
        raise InputValueError(
            f"Expected one {expected} in {directory}. Received: {files[key]} and {path}. Remove "
            "one of them."
        )
    files[key] = path


def key_of(path: str) -> str:
    """Returns a path without suffix and without words for the role of the file, in lower case.

    Examples:
        >>> key_of("images/train/a.jpg"), key_of("trainannot/a_mask.png")
        ('train/a', 'train/a')
    """
    *folders, name = Path(path).parts
    stem = name[: -len(Path(name).suffix)] if _is_suffix(Path(name).suffix) else name
    kept = []
    for folder in map(str.lower, folders):
        if folder not in IMAGE_WORDS + MASK_WORDS:
            kept.append(FOLDER_END.sub("", folder) or folder)
    return "/".join([*kept, STEM_END.sub("", stem.lower())])


def has_mask_word(path: str) -> bool:
    """Returns whether a word in a path says that the file is a mask or another annotation."""
    *folders, name = Path(path.lower()).parts
    stem = Path(name).stem
    if any(folder in MASK_WORDS or FOLDER_END.search(folder) for folder in folders):
        return True
    if any(folder in IMAGE_WORDS for folder in folders):
        return False
    match = STEM_END.search(stem)
    return match is not None and match[1] not in (*IMAGE_WORDS, "leftimg8bit")


def split_of(path: str) -> str | None:
    """Returns the split that a folder in a path names: "train", "val" or None."""
    for part in reversed(Path(key_of(path)).parts[:-1]):
        split = split_named(part)
        if split:
            return split
    return None


def split_named(word: str) -> str | None:
    """Returns the split that a word such as `valid` or `train2017` means, or None."""
    word = YEAR.sub("", word.lower()).rstrip("_-")
    return next((split for split, names in SPLIT_FOLDERS.items() if word in names), None)


def split_lists(directory: Path) -> dict[str, list[str]]:
    """Reads list files such as `train.txt`, which name the images of a split, one on each line."""
    for folder in LIST_FOLDERS:
        place = directory / folder
        files = sorted(place.glob("*.txt")) if place.is_dir() else []
        named: dict[str, Path] = {}
        for path in files:
            split = split_named(path.stem)
            # Of validation and test images, the names of `SPLIT_FOLDERS` prefer the former.
            if split and (split not in named or _rank(split, path) < _rank(split, named[split])):
                named[split] = path
        if named:
            return {split: _listed(path) for split, path in named.items()}
    return {}


def _listed(path: Path) -> list[str]:
    """Returns the names on the lines of a list file, without directories and suffixes."""
    lines = [line.split()[0] for line in read_label_file(path)]
    return [os.path.basename(line) for line in lines]


def _rank(split: str, path: Path) -> int:
    return SPLIT_FOLDERS[split].index(YEAR.sub("", path.stem.lower()).rstrip("_-"))


def _is_description(path: str) -> bool:
    """Returns whether a text file describes a data set rather than an image."""
    if not path.lower().endswith(".txt"):
        return False
    stem = Path(path.lower()).stem
    return stem in DESCRIPTIONS or stem.startswith("readme") or split_named(stem) is not None


def _is_suffix(suffix: str) -> bool:
    return suffix.lower() in (*IMAGE_SUFFIXES, ".xml", ".txt", ".json", ".tif", ".tiff")


def files_of(
    directory: Path, pairs: Pairs, keys: Sequence[str], problems: Problems
) -> list[tuple[Path, Path | None]]:
    """Returns the image file and the annotation file, if there is one, for each key.

    Args:
        directory: Directory of the data set.
        pairs: Its files.
        keys: Keys of a split.
        problems: What to do about annotations without an image.

    Raises:
        ValueError: If no image has an annotation.
    """
    if not any(key in pairs.images and key in pairs.annotations for key in keys):
        images = some([pairs.images[k] for k in keys if k in pairs.images], 2) or "no image"
        others = some([pairs.annotations[k] for k in keys if k in pairs.annotations], 2)
        raise InputValueError(
            f"Expected annotations of the images in {directory}. Received: {images}; "
            f"{others or 'no annotation'}. Their names do not match: they are of another data set."
        )
    files: list[tuple[Path, Path | None]] = []
    for key in keys:
        image, annotation = pairs.images.get(key), pairs.annotations.get(key)
        if image is None:
            problems.report(directory / (annotation or key), "missing image")
        else:
            files.append(
                (directory / image, None if annotation is None else directory / annotation)
            )
    return files


def chosen_files(
    directory: Path, pairs: Pairs, keys: Sequence[str], problems: Problems, missing: str
) -> list[tuple[Path, Path]]:
    """Returns the files of `files_of`, where an image without annotation is a problem."""
    files = []
    for image, annotation in files_of(directory, pairs, keys, problems):
        if annotation is None:
            problems.report(image, missing)
        else:
            files.append((image, annotation))
    return files
