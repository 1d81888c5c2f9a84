"""Writes a small data set of drawn circles and squares, for examples and tests."""

import os
from pathlib import Path

import numpy as np

NAMES = ("background", "circle", "square")
SPLITS = ("train", "val")
LEAST_VISIBLE = 3  # pixels of a covered shape that has a box
COLORS = ((40, 60, 50), (220, 70, 60), (70, 110, 230))


def draw_shapes(
    rng: np.random.Generator, height: int, width: int, shapes: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws circles and squares on a noisy background. Later shapes cover earlier ones.

    Args:
        rng: Source of the random numbers.
        height, width: Size of the picture in pixels.
        shapes: Number of shapes that are drawn.

    Returns:
        uint8 image (height, width, 3); uint8 mask (height, width) of indices in `NAMES`; float32
        "xyxy" boxes (n, 4) of the visible pixels of each shape that is not covered; int64 labels
        (n,), 0 for circles and 1 for squares.
    """
    rows, columns = np.mgrid[:height, :width]
    owner = np.zeros((height, width), np.int64)
    kinds = rng.integers(1, len(NAMES), shapes)
    for number, kind in enumerate(kinds, 1):
        radius = rng.integers(min(height, width) // 8, min(height, width) // 4)
        y, x = rng.integers(radius, height - radius), rng.integers(radius, width - radius)
        far = np.hypot if kind == 1 else lambda a, b: np.maximum(abs(a), abs(b))
        owner[far(rows - y, columns - x) <= radius] = number
    mask = np.concatenate([[0], kinds])[owner].astype(np.uint8)
    noise = rng.normal(0, 12, (height, width, 3))
    image = np.clip(np.array(COLORS)[mask] + noise, 0, 255).astype(np.uint8)
    boxes, labels = [], []
    for number, kind in enumerate(kinds, 1):
        ys, xs = np.nonzero(owner == number)
        if len(ys) and min(np.ptp(ys), np.ptp(xs)) >= LEAST_VISIBLE:
            boxes.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
            labels.append(kind - 1)
    return image, mask, np.array(boxes, np.float32), np.array(labels, np.int64)


def write_shapes(
    directory: str | os.PathLike,
    images: int = 8,
    height: int = 96,
    width: int = 128,
    seed: int = 0,
) -> None:
    """Writes a data set of shapes with masks and VOC's XML files, in `train/` and `val/`.

    Args:
        directory: The directory, which is created.
        images: Number of images of each split.
        height, width: Size of the images in pixels.
        seed: Seed of the drawings.

    Examples:
        >>> write_shapes("shapes", images=2)
        >>> sorted(path.name for path in Path("shapes").iterdir())
        ['Annotations', 'images', 'labels.txt', 'masks']
    """
    from PIL import Image

    root = Path(directory)
    rng = np.random.default_rng(seed)
    for split in SPLITS:
        for folder in ("images", "masks", "Annotations"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            image, mask, boxes, labels = draw_shapes(rng, height, width)
            name = f"{split}{number:03d}"
            Image.fromarray(image).save(root / "images" / split / f"{name}.jpg", quality=95)
            Image.fromarray(mask).save(root / "masks" / split / f"{name}.png")
            text = voc_xml(f"{name}.jpg", (height, width), boxes, [NAMES[1 + k] for k in labels])
            path = root / "Annotations" / split / f"{name}.xml"
            path.write_text(text, encoding="utf-8")
    (root / "labels.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")


def voc_xml(name: str, size: tuple[int, int], boxes: np.ndarray, names: list[str]) -> str:
    """Returns VOC's XML for whole-numbered "xyxy" boxes (n, 4), with pixels counted from 1."""
    objects = [
        f"<object><name>{label}</name><bndbox><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin>"
        f"<xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in zip(boxes, names, strict=True)
    ]
    height, width = size
    return (
        f"<annotation><filename>{name}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>\n"
    )
