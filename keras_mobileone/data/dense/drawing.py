"""Draws masks and boxes onto pictures."""

import colorsys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from keras_mobileone.data.dense.mask_codes import IGNORE

# Colors that remain distinct next to each other and over photographs. Further classes get hues at
# steps of the golden angle.
BASE_COLORS = (
    *((230, 57, 70), (29, 120, 220), (255, 183, 3), (42, 157, 97), (155, 93, 229)),
    *((251, 133, 0), (0, 187, 212), (241, 91, 181), (139, 195, 74), (121, 85, 72)),
    *((63, 81, 181), (255, 235, 59), (0, 121, 107), (216, 27, 96), (144, 164, 174)),
)
GOLDEN = 0.618033988749895
OPACITY = 0.5
VOID_DARKENING = 0.45
SMALL = 480  # long side up to which lines and text have their smallest size
TEXT_SIZE = 11
LEGEND_GAP = 4


@cache
def class_colors(classes: int) -> np.ndarray:
    """Returns a color for each class: uint8 (classes, 3).

    Examples:
        >>> class_colors(20).shape
        (20, 3)
    """
    colors = list(BASE_COLORS[:classes])
    for number in range(len(colors), classes):
        bright = 0.95 if number % 2 else 0.7
        color = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.75, bright)
        colors.append((round(255 * color[0]), round(255 * color[1]), round(255 * color[2])))
    return np.array(colors, np.uint8)


def draw_mask(image: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws the classes of a mask over an image, with an outline and a legend below it.

    Pixels without a class are darkened.

    Args:
        image: uint8 array of shape (height, width, 3).
        mask: Integer array of shape (height, width), with `IGNORE` where there is no class.
        classes: Class names in label order.

    Returns:
        uint8 array of shape (height + h, width, 3), where h is the height of the legend.

    Examples:
        >>> image, mask = np.full((60, 80, 3), 90, np.uint8), np.zeros((60, 80), np.uint8)
        >>> mask[20:40, 30:60] = 1
        >>> draw_mask(image, mask, ("grass", "dog")).shape[1]
        80
    """
    colors = class_colors(len(classes))
    known = (mask >= 0) & (mask < len(classes))
    painted = colors[np.where(known, mask, 0)]
    mixed = (1 - OPACITY) * image + OPACITY * painted
    mixed = np.where(known[..., None], mixed, VOID_DARKENING * image)
    edges = np.zeros(mask.shape, bool)
    edges[1:] |= mask[1:] != mask[:-1]
    edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    mixed = np.where(edges[..., None], 0.35 * mixed + 0.65 * 255, mixed)
    drawn = np.clip(np.round(mixed), 0, 255).astype(np.uint8)
    present = [int(label) for label in np.unique(mask) if label != IGNORE and label < len(classes)]
    legend = draw_legend([(classes[k], colors[k]) for k in present], image.shape[1])
    return np.concatenate([drawn, legend])


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Draws boxes onto an image, each with its class and its score in percent.

    Args:
        image: uint8 array of shape (height, width, 3).
        boxes: "xyxy" array of shape (n, 4), in pixels.
        labels: Integer array of shape (n,). Boxes whose label is negative are padding.
        classes: Class names in label order.
        scores: Array of shape (n,) with values in [0, 1], or None. Better boxes are drawn later.

    Returns:
        uint8 array of shape (height, width, 3).

    Examples:
        >>> image = np.full((60, 80, 3), 90, np.uint8)
        >>> boxes, labels = np.array([[10, 20, 50, 40]]), np.array([0])
        >>> draw_boxes(image, boxes, labels, ("dog",), np.array([0.9])).shape
        (60, 80, 3)
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(image, np.uint8))
    canvas = ImageDraw.Draw(picture)
    scale = max(1, round(max(image.shape[:2]) / SMALL))
    colors = class_colors(len(classes))
    order = range(len(labels)) if scores is None else np.argsort(scores, kind="stable")
    for index in order:
        label = int(labels[index])
        if label < 0:
            continue
        color = tuple(int(value) for value in colors[label])
        corners = [float(value) for value in boxes[index]]
        canvas.rectangle(corners, outline=color, width=2 * scale)
        text = classes[label] + (f" {100 * scores[index]:.0f}" if scores is not None else "")
        _draw_tag(canvas, text, corners, color, TEXT_SIZE * scale, picture.size)
    return np.asarray(picture)


def draw_legend(entries: Sequence[tuple[str, Any]], width: int) -> np.ndarray:
    """Draws the names and colors of classes in rows: uint8 (height, width, 3)."""
    from PIL import Image, ImageDraw

    scale = max(1, round(width / SMALL))
    font, side = _font(TEXT_SIZE * scale), TEXT_SIZE * scale
    gap = LEGEND_GAP * scale
    x, y, places = gap, gap, []
    for name, color in entries:
        length = side + gap + round(font.getlength(name)) + 2 * gap
        if x > gap and x + length > width:
            x, y = gap, y + side + gap
        places.append((x, y, name, color))
        x += length
    picture = Image.new("RGB", (width, y + side + gap), (255, 255, 255))
    canvas = ImageDraw.Draw(picture)
    for x, y, name, color in places:
        canvas.rectangle((x, y, x + side - 1, y + side - 1), fill=tuple(int(v) for v in color))
        canvas.text((x + side + gap, y + side / 2), name, (0, 0, 0), font, anchor="lm")
    return np.asarray(picture)


def _draw_tag(
    canvas: Any, text: str, corners: Sequence[float], color: Any, size: int, limits: tuple[int, int]
) -> None:
    """Draws a text on a colored ground above a box, or inside it at the top of the picture."""
    font = _font(size)
    width, height = round(font.getlength(text)) + size // 2, size + size // 3
    left = min(max(0, corners[0]), max(0, limits[0] - width))
    top = corners[1] - height if corners[1] >= height else corners[1]
    canvas.rectangle((left, top, left + width, top + height), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 150
    ink = (0, 0, 0) if bright else (255, 255, 255)
    canvas.text((left + size // 4, top + height / 2), text, ink, font, anchor="lm")


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
