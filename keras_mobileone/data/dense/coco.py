"""Reads boxes in the JSON format of COCO."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mobileone.data.dense.description import (
    DETECT,
    DenseData,
    DenseImage,
    Problems,
    checked_boxes,
    finished,
)
from keras_mobileone.data.dense.image_sizes import image_sizes
from keras_mobileone.data.dense.pairing import split_named
from keras_mobileone.data.folders import SPLIT_FOLDERS, some
from keras_mobileone.data.images import find_images
from keras_mobileone.errors import InputValueError

FORMAT = "coco"
KEYS = ("images", "annotations", "categories")
WORDS = 3  # words of a file name in which a split is looked for, such as instances_train2017
HEAD = 4096


def read_coco(
    directory: Path, split: str, classes: Sequence[str] | None, problems: Problems
) -> DenseData | None:
    """Reads a split of images with a JSON file of COCO.

    The classes are the categories in the order of their ids. Images without objects are kept.

    Args:
        directory: Directory of the data set; see `open_dense`.
        split: `"train"` or `"val"`.
        classes: Class names in label order. By default, those of the file.
        problems: What to do about missing images and bad boxes.

    Returns:
        The data, or None if there is no such split.

    Raises:
        ValueError: If the file is not COCO's format, if no image that it names exists, or if an
            annotation is bad and such are not skipped.
    """
    path = find_coco(directory).get(split)
    if path is None:
        return None
    content = load_coco(path)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = {category["id"]: str(category["name"]) for category in categories}
    if classes is None:
        classes = list(names.values())
    index = {name: label for label, name in enumerate(classes)}
    labels = {number: index.get(name) for number, name in names.items()}
    objects = defaultdict(list)
    known = {image["id"] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in known:
            problems.report(path, "annotation without an image", f"id {annotation.get('id')}")
        elif labels.get(annotation["category_id"]) is None:
            problems.report(
                path, "class that is not in the list", f"category {annotation['category_id']}"
            )
        else:
            objects[annotation["image_id"]].append(annotation)
    images = _images(directory, path, content["images"], objects, labels, problems)
    name = f"{path} ({split})"
    return finished(name, DETECT, FORMAT, classes, images, problems)


def find_coco(directory: Path) -> dict[str, Path]:
    """Finds the JSON files of COCO below a directory by split.

    The name of the file, or else of its folder, says which split it is, such as
    `annotations/instances_val2017.json` or `valid/_annotations.coco.json`. A single file without
    such a name is training data.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    others = []
    for path in sorted(directory.glob("*.json")) + sorted(directory.glob("*/*.json")):
        if not is_coco(path):
            continue
        words = path.stem.replace("-", "_").split("_")[-WORDS:] + [path.parent.name]
        splits = [split for split in map(split_named, words) if split]
        if splits:
            found[splits[0]].append(path)
        else:
            others.append(path)
    if not found and len(others) == 1:
        return {"train": others[0]}
    return {split: _chosen(paths, split, directory) for split, paths in found.items()}


def _chosen(paths: Sequence[Path], split: str, directory: Path) -> Path:
    """Returns the file of a split: of several, the one of objects, and validation before test."""
    instances = [path for path in paths if path.stem.startswith("instances")] or list(paths)
    for name in SPLIT_FOLDERS[split]:
        named = [path for path in instances if name in f"{path.parent.name}/{path.stem}".lower()]
        if len(named) == 1:
            return named[0]
    raise InputValueError(
        f"Expected one JSON file of COCO for {split} in {directory}. Received: "
        f"{some([str(path.relative_to(directory)) for path in instances])}. Remove the others."
    )


def is_coco(path: Path) -> bool:
    """Returns whether a JSON file has the keys of COCO."""
    try:
        with open(path, encoding="utf-8") as file:
            if not file.read(HEAD).lstrip().startswith("{"):
                return False
            file.seek(0)
            content = json.load(file)
    except (OSError, ValueError):
        return False
    return all(isinstance(content.get(key), list) for key in KEYS)


def load_coco(path: Path) -> dict[str, Any]:
    """Reads a JSON file of COCO and checks that its entries have the fields that are needed.

    Raises:
        ValueError: If the file is not JSON, or if an entry lacks a field.
    """
    needed = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key, fields in needed.items():
            for entry in content[key]:
                for field in fields:
                    _ = entry[field]
    except (ValueError, KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected a JSON file of COCO with {', '.join(KEYS)}. Received: {path} "
            f"({type(error).__name__}: {error}). Export the annotations again."
        ) from error
    return content


def _images(
    directory: Path,
    path: Path,
    entries: Sequence[dict[str, Any]],
    objects: dict[int, list[dict[str, Any]]],
    labels: dict[int, int | None],
    problems: Problems,
) -> list[DenseImage]:
    """Returns the images that exist, with their good boxes."""
    places = _places(directory, path, [entry["file_name"] for entry in entries])
    if entries and not any(places):
        raise InputValueError(
            f"Expected the images that {path} names. Received: {directory}, which has none of the "
            f"{len(entries)}, such as {entries[0]['file_name']}: they are of another data set."
        )
    for entry, place in zip(entries, places, strict=True):
        if place is None:
            problems.report(path, "missing image", entry["file_name"])
    present = [(e, place) for e, place in zip(entries, places, strict=True) if place is not None]
    images = []
    sizes = image_sizes(place for _, place in present)
    for (entry, place), size in zip(present, sizes, strict=True):
        stated = (entry.get("height", 0), entry.get("width", 0))
        if size is None:
            problems.report(place, "image that can't be decoded")
        elif all(stated) and stated != size:
            problems.report(
                path,
                "annotation of an image of another size",
                f"{entry['file_name']}: {stated[1]}×{stated[0]}, image {size[1]}×{size[0]}",
            )
        else:
            found = objects.get(entry["id"], [])
            good = [o for o in found if _is_box(o["bbox"])]
            for _ in range(len(found) - len(good)):
                problems.report(path, "box that is not four numbers", entry["file_name"])
            boxes = [(x, y, x + w, y + h) for x, y, w, h in (o["bbox"] for o in good)]
            numbers = [labels[o["category_id"]] or 0 for o in good]
            crowds = [bool(o.get("iscrowd", 0)) for o in good]
            file = f"{path}, {entry['file_name']}"
            checked = checked_boxes(file, size, boxes, numbers, crowds, problems)
            images.append(DenseImage(place, size, None, *checked))
    return images


def _is_box(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 4
        and all(isinstance(value, (int, float)) for value in values)
    )


def _places(directory: Path, path: Path, names: Sequence[str]) -> list[Path | None]:
    """Finds image files by the names in a JSON file, which are relative to some folder.

    Of files with the same name in several folders, the one in the folder of the split is taken.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in sorted(find_images(directory)[0]):
        by_name[Path(file).name].append(file)
    split = next((s for s in map(split_named, reversed(path.stem.split("_"))) if s), None)

    def place(name: str) -> Path | None:
        for folder in (path.parent, directory):
            if (folder / name).is_file():
                return folder / name
        files = by_name.get(Path(name).name, [])
        ends = [file for file in files if f"/{file}".endswith(f"/{name}")] or files
        of_split = [f for f in ends if split in map(split_named, Path(f).parts[:-1])] or ends
        return directory / of_split[0] if of_split else None

    return [place(name) for name in names]
