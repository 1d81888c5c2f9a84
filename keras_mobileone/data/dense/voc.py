"""Reads boxes in the XML format of PASCAL VOC."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from keras_mobileone.data.dense.description import (
    DETECT,
    DenseData,
    DenseImage,
    Problems,
    checked_boxes,
    finished,
)
from keras_mobileone.data.dense.image_sizes import image_sizes
from keras_mobileone.data.dense.pairing import chosen_files, find_pairs

FORMAT = "voc"
SUFFIXES = (".xml",)


@dataclass(frozen=True)
class VocObject:
    """An object of an XML file: its class name, its box as stated, and whether it is difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc(
    directory: Path, split: str, classes: Sequence[str] | None, problems: Problems
) -> DenseData | None:
    """Reads a split of images with VOC XML files.

    The pixels of VOC are counted from 1, and the last one belongs to the box: the box (1, 1, 10,
    10) becomes (0, 0, 10, 10).

    Args:
        directory: Directory of the data set; see `open_dense`.
        split: `"train"` or `"val"`.
        classes: Class names in label order. By default, the sorted names of the split's objects.
        problems: What to do about bad files and boxes.

    Returns:
        The data, or None if there is no such split.

    Raises:
        ValueError: If an annotation is bad and such are not skipped, or if none is good.
    """
    pairs = find_pairs(directory, SUFFIXES, separate=False)
    keys = pairs.of_split(split)
    if keys is None:
        return None
    chosen = chosen_files(directory, pairs, keys, problems, missing="missing annotation")
    parsed = [_parsed(xml, problems) for _, xml in chosen]
    if classes is None:
        classes = sorted({o.name for found in parsed if found for o in found[1]})
    sizes = image_sizes(image for image, _ in chosen)
    images = []
    for (image, xml), found, size in zip(chosen, parsed, sizes, strict=True):
        if size is None:
            problems.report(image, "image that can't be decoded")
        elif found is not None:
            stated, objects = found
            if stated is not None and stated != size:
                problems.report(
                    xml,
                    "annotation of an image of another size",
                    f"{stated[1]}×{stated[0]}, image {size[1]}×{size[0]}",
                )
            else:
                images.append(_image(image, xml, size, objects, classes, problems))
    name = f"{directory} ({split})"
    return finished(name, DETECT, FORMAT, classes, images, problems)


def is_voc(path: Path) -> bool:
    """Returns whether an XML file is an annotation of VOC, by its first element."""
    try:
        for _, element in ElementTree.iterparse(path, events=("start",)):
            return element.tag == "annotation"
    except (ElementTree.ParseError, OSError):
        pass
    return False


def _parsed(
    path: Path, problems: Problems
) -> tuple[tuple[int, int] | None, list[VocObject]] | None:
    """Returns the stated (height, width), if any, and the objects; None if the file is bad."""
    try:
        root = ElementTree.parse(path).getroot()
        height, width = (int(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
        objects = []
        for element in root.iter("object"):
            box = [float(element.findtext(f"bndbox/{corner}") or "") for corner in CORNERS]
            objects.append(
                VocObject(
                    (element.findtext("name") or "").strip(),
                    (box[0], box[1], box[2], box[3]),
                    (element.findtext("difficult") or "0").strip() == "1",
                )
            )
    except (ElementTree.ParseError, ValueError) as error:
        problems.report(path, "XML that is not an annotation of VOC", str(error))
        return None
    return (height, width) if height and width else None, objects


CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _image(
    path: Path,
    xml: Path,
    size: tuple[int, int],
    objects: Sequence[VocObject],
    classes: Sequence[str],
    problems: Problems,
) -> DenseImage:
    index = {name: label for label, name in enumerate(classes)}
    boxes, labels, ignored = [], [], []
    for item in objects:
        x1, y1, x2, y2 = item.box
        if item.name not in index:
            problems.report(xml, "class that is not in the list", repr(item.name))
            continue
        # A box without area is recognized by the numbers in the file, which are inclusive.
        first = 1 if x2 > x1 and y2 > y1 else 0
        boxes.append((x1 - first, y1 - first, x2, y2))
        labels.append(index[item.name])
        ignored.append(item.difficult)
    return DenseImage(path, size, None, *checked_boxes(xml, size, boxes, labels, ignored, problems))
