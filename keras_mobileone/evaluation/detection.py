"""COCO's mean average precision of detections, computed by faster-coco-eval."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mobileone.data.dense.description import DenseImage
from keras_mobileone.errors import InputValueError, MissingPackageError

MOST_DETECTIONS = 100  # of an image, as in COCO's main metric
SMALL, MEDIUM = 32**2, 96**2  # areas in pixels of the image; COCO's bounds


@dataclass(frozen=True)
class Detections:
    """The objects that a model found in an image.

    Attributes:
        boxes: "xyxy" array of shape (n, 4), in pixels of the image.
        labels: Integer array of shape (n,).
        scores: Array of shape (n,) with values in [0, 1].
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class DetectionScores:
    """COCO's average precisions, in [0, 1]. A value is None without objects of its kind.

    Attributes:
        map: Mean over the classes and the IoU thresholds 0.50, 0.55, …, 0.95.
        map50, map75: Mean over the classes at the IoU threshold 0.50 or 0.75.
        map_small, map_medium, map_large: `map` of objects of less than 32², of 32² to 96², and of
            more than 96² pixels.
        by_class: Average precision of each class at the thresholds of `map`.
        by_class50: Average precision of each class at the IoU threshold 0.50.
    """

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    by_class: dict[str, float | None]
    by_class50: dict[str, float | None]


def require_coco_eval() -> Any:
    """Imports faster-coco-eval, or raises ImportError that names the extra to install."""
    try:
        import faster_coco_eval
    except ImportError as error:
        raise MissingPackageError(
            "COCO's average precision needs faster-coco-eval. Install it with "
            "`pip install keras-mobileone[detect]`."
        ) from error
    return faster_coco_eval


def coco_scores(
    images: Sequence[DenseImage], detections: Sequence[Detections], classes: Sequence[str]
) -> DetectionScores:
    """Computes COCO's average precisions.

    Objects to ignore are treated as COCO's crowds: finding them is neither right nor wrong.

    Args:
        images: The images with their boxes.
        detections: What was found in each of them.
        classes: Class names in label order.

    Raises:
        ImportError: If faster-coco-eval is not installed.
        ValueError: If there is not one entry of `detections` for each image.

    Examples:
        ```python
        scores = coco_scores(data.images, detections, data.classes)
        print(scores.map, scores.map50)
        ```
    """
    package = require_coco_eval()
    if len(images) != len(detections):
        raise InputValueError(
            f"Expected detections for each of {len(images)} images. Received: {len(detections)}."
        )
    results = _results(detections)
    if not results or not any(len(image.labels) for image in images):
        return _nothing_found(images, classes)
    with redirect_stdout(io.StringIO()):
        truth = package.COCO(_annotations(images, classes))
        evaluation = package.COCOeval_faster(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # Axes: IoU thresholds, recalls, classes, areas (all, small, medium, large), most detections.
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    thresholds = np.round(evaluation.params.iouThrs, 2).tolist()

    def mean(values: np.ndarray) -> float | None:
        valid = values[values > -1]
        return float(valid.mean()) if valid.size else None

    half, strict = thresholds.index(0.5), thresholds.index(0.75)
    return DetectionScores(
        mean(precision[..., 0]),
        mean(precision[half, ..., 0]),
        mean(precision[strict, ..., 0]),
        mean(precision[..., 1]),
        mean(precision[..., 2]),
        mean(precision[..., 3]),
        by_class={name: mean(precision[:, :, k, 0]) for k, name in enumerate(classes)},
        by_class50={name: mean(precision[half, :, k, 0]) for k, name in enumerate(classes)},
    )


def _annotations(images: Sequence[DenseImage], classes: Sequence[str]) -> dict[str, Any]:
    """Returns the images and their boxes in the format of COCO."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for (x1, y1, x2, y2), label, ignored in zip(
            image.boxes.astype(float).tolist(), image.labels, image.ignored, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(ignored),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": number, "height": image.size[0], "width": image.size[1]}
            for number, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
    }


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Returns the best detections of each image in the format of COCO."""
    results = []
    for number, found in enumerate(detections, 1):
        best = np.argsort(-np.asarray(found.scores), kind="stable")[:MOST_DETECTIONS]
        for index in best:
            x1, y1, x2, y2 = (float(value) for value in found.boxes[index])
            results.append(
                {
                    "image_id": number,
                    "category_id": int(found.labels[index]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(found.scores[index]),
                }
            )
    return results


def _nothing_found(images: Sequence[DenseImage], classes: Sequence[str]) -> DetectionScores:
    """Returns the scores without any detection: 0 where there are objects, else None."""
    areas, labels = [], []
    for image in images:
        boxes, counted = image.boxes, ~image.ignored
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        areas += area[counted].tolist()
        labels += image.labels[counted].tolist()

    def zero(present: bool) -> float | None:
        return 0.0 if present else None

    def of_size(low: float, high: float) -> float | None:
        return zero(any(low <= area <= high for area in areas))

    overall = zero(bool(labels))
    by_class = {name: zero(k in labels) for k, name in enumerate(classes)}
    return DetectionScores(
        overall,
        overall,
        overall,
        of_size(0, SMALL),
        of_size(SMALL, MEDIUM),
        of_size(MEDIUM, float("inf")),
        by_class,
        dict(by_class),
    )


def detections_of(
    decoded: Mapping[str, np.ndarray], size: tuple[int, int], images: Sequence[DenseImage]
) -> list[Detections]:
    """Converts decoded outputs of stretched images to boxes in pixels of the images.

    Args:
        decoded: Result of `decode_outputs` for a batch, with "xyxy" boxes in pixels of the input.
            Rows for which there is no image are padding of the batch.
        size: (height, width) of the input.
        images: The images of the batch.
    """
    results = []
    for row, image in enumerate(images):
        count = int(decoded["num_detections"][row])
        scale = np.array([image.size[1] / size[1], image.size[0] / size[0]] * 2)
        results.append(
            Detections(
                decoded["boxes"][row, :count] * scale,
                decoded["labels"][row, :count],
                decoded["confidence"][row, :count],
            )
        )
    return results
