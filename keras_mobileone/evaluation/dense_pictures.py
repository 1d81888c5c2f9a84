"""`segment` and `detect`: what a model sees in a photograph, as numbers and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_mobileone.data.dense.drawing import draw_boxes, draw_mask
from keras_mobileone.data.images import stretched
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.dense_accuracy import rescaled
from keras_mobileone.evaluation.dense_predictor import (
    Detector,
    Segmenter,
    Source,
    load_detector,
    load_segmenter,
)
from keras_mobileone.evaluation.detection import Detections
from keras_mobileone.reports import Report

# Long sides of pictures in pixels: small photographs are enlarged, so that names can be read.
LEAST_SIDE, LARGEST_SIDE = 640, 1280
SHOWN_SCORE = 0.3  # smallest score of objects that are shown


@dataclass(frozen=True)
class SegmentedPhotograph(Report):
    """Result of `segment`.

    Attributes:
        size: (height, width) of the photograph in pixels.
        shares: Fraction of the pixels of each class that occurs, the largest first.
        names: Names of all classes.
        logits: float32 (height, width, classes) in the size of the model's input.
    """

    size: tuple[int, int]
    shares: dict[str, float]
    names: tuple[str, ...] = field(repr=False)
    logits: np.ndarray = field(repr=False)

    def mask(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the class of each pixel.

        Args:
            size: (height, width) of the result, by default those of the photograph. The logits are
                resized bilinearly, which gives smooth borders.

        Returns:
            uint8 array of shape `size`, or int64 for more than 255 classes.
        """
        from PIL import Image

        height, width = size or self.size
        present = np.unique(self.logits.argmax(-1))
        best = np.full((height, width), -np.inf, np.float32)
        mask = np.zeros((height, width), np.uint8 if len(self.names) < 256 else np.int64)
        for label in present:  # one at a time, because photographs are large
            plane = Image.fromarray(np.ascontiguousarray(self.logits[..., label], np.float32))
            resized = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
            higher = resized > best
            best[higher], mask[higher] = resized[higher], label
        return mask

    def draw(self, photograph: Any) -> np.ndarray:
        """Draws the mask over the photograph, with the names of the classes below it.

        Args:
            photograph: RGB `PIL.Image`.

        Returns:
            uint8 array (height, width, 3), whose long side is from 640 to 1280 pixels.
        """
        picture = shown(photograph)
        return draw_mask(picture, self.mask(picture.shape[:2]), self.names)


@dataclass(frozen=True)
class DetectedObject:
    """An object in a photograph.

    Attributes:
        label: Name of the class.
        score: Probability of the class.
        box: (x1, y1, x2, y2) in pixels of the photograph.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectedPhotograph(Report):
    """Result of `detect`.

    Attributes:
        size: (height, width) of the photograph in pixels.
        objects: The objects, the best first.
        names: Names of all classes.
        detections: The objects as arrays.
    """

    size: tuple[int, int]
    objects: list[DetectedObject]
    names: tuple[str, ...] = field(repr=False)
    detections: Detections = field(repr=False)

    def draw(self, photograph: Any) -> np.ndarray:
        """Draws the boxes onto the photograph, each with its class and its score in percent.

        Args:
            photograph: RGB `PIL.Image`.

        Returns:
            uint8 array (height, width, 3), whose long side is from 640 to 1280 pixels.
        """
        picture = shown(photograph)
        height, width = picture.shape[:2]
        found = rescaled(self.detections, self.size, (height, width))
        return draw_boxes(picture, found.boxes, found.labels, self.names, found.scores)


@dataclass(frozen=True)
class Predictions(Report):
    """What a model found in some photographs.

    Attributes:
        model: Name of the model or file.
        task: `"segment"` or `"detect"`.
        photographs: For each photograph its path, the path of its picture, its size, and the
            attributes of a `SegmentedPhotograph` or a `DetectedPhotograph`.
    """

    model: str
    task: str
    photographs: list[dict[str, Any]]


def segment(
    model: Source | Segmenter, photograph: Any, *, labels: Sequence[str] | None = None
) -> SegmentedPhotograph:
    """Finds the class of each pixel of a photograph.

    Args:
        model: Keras model, path of a `.keras` or `.tflite` file, or `Segmenter`, which is faster
            for several photographs.
        photograph: RGB `PIL.Image`, such as the result of `load_image`, of any size.
        labels: Names of the classes. By default, those that the model or the file carries.

    Returns:
        A `SegmentedPhotograph`: the share of each class, `mask()` and `draw(photograph)`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the model is not made for segmentation.

    Examples:
        >>> model = km.MobileOneDeepLabV3("s0", 3, (64, 64, 3), weights=None, deploy=True)
        >>> photograph = km.load_image("photos/tench/0.jpg")
        >>> found = km.segment(model, photograph, labels=("sky", "road", "car"))
        >>> round(sum(found.shares.values()), 6), found.mask().shape == found.size
        (1.0, True)
    """
    segmenter = load_segmenter(model, labels=labels)
    logits = segmenter(stretched(photograph, segmenter.size)[None])[0]
    counts = np.bincount(logits.argmax(-1).ravel(), minlength=segmenter.classes)
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    shares = {segmenter.names[label]: float(counts[label] / counts.sum()) for label in order}
    width, height = photograph.size
    return SegmentedPhotograph((height, width), shares, segmenter.names, logits)


def detect(
    model: Source | Detector,
    photograph: Any,
    *,
    score_threshold: float = SHOWN_SCORE,
    labels: Sequence[str] | None = None,
) -> DetectedPhotograph:
    """Finds the objects in a photograph.

    Args:
        model: Keras model, path of a `.keras` or `.tflite` file, or `Detector`, which is faster
            for several photographs.
        photograph: RGB `PIL.Image`, such as the result of `load_image`, of any size.
        score_threshold: Smallest score of an object, in [0, 1].
        labels: Names of the classes. By default, those that the model or the file carries.

    Returns:
        A `DetectedPhotograph`: the objects with boxes in pixels of the photograph, and
        `draw(photograph)`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the model is not a detector, or if the threshold is out of range.

    Examples:
        >>> model = km.MobileOneSSDLite("s0", 2, (96, 96, 3), weights=None, deploy=True)
        >>> photograph = km.load_image("photos/tench/0.jpg")
        >>> found = km.detect(model, photograph, score_threshold=0.99)
        >>> found.objects, found.size == photograph.size[::-1]
        ([], True)
    """
    if not 0 <= score_threshold <= 1:
        raise InputValueError(
            f"`score_threshold` must lie in [0, 1]. Received: score_threshold={score_threshold}."
        )
    detector = load_detector(model, labels=labels)
    width, height = photograph.size
    (found,) = detector(stretched(photograph, detector.size)[None], score_threshold)
    found = rescaled(found, detector.size, (height, width))
    rows = zip(found.boxes.tolist(), found.labels, found.scores, strict=True)
    objects = [
        DetectedObject(detector.names[int(label)], float(score), tuple(box))
        for box, label, score in rows
    ]
    return DetectedPhotograph((height, width), objects, detector.names, found)


def shown(photograph: Any) -> np.ndarray:
    """Returns a photograph in the size of pictures: uint8 (height, width, 3)."""
    side = max(photograph.size)
    scale = min(max(side, LEAST_SIDE), LARGEST_SIDE) / side
    height, width = (max(1, round(scale * length)) for length in photograph.size[::-1])
    return stretched(photograph, (height, width))
