"""Converts the outputs of a detector to boxes, classes and scores."""

from collections.abc import Mapping
from typing import Any

from keras import ops
from keras.utils import bounding_boxes

from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.encoding import decode_boxes, image_shape
from keras_mobileone.models.detection.loss import (
    BACKGROUND,
    BOXES_LABEL,
    BOXES_OUTPUT,
    CLASSES_LABEL,
    CLASSES_OUTPUT,
    PADDING,
)
from keras_mobileone.models.detection.nms import suppress

Tensor = Any  # a tensor of Keras' backend, or an array

# The settings of mmdetection's SSDLite for its evaluation.
SCORE_THRESHOLD = 0.02
IOU_THRESHOLD = 0.45
MAX_DETECTIONS = 200
# Number of the best pairs of anchor and class that enter the suppression.
CANDIDATES = 1000


def decode_outputs(
    predictions: Mapping[str, Tensor],
    config: DetectionConfig,
    image_size: tuple[int, int],
    *,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    candidates: int = CANDIDATES,
) -> dict[str, Tensor]:
    """Converts the outputs of a detector to detections, with non-maximum suppression by class.

    As in TFLite's `TFLite_Detection_PostProcess`, the suppression sees whole boxes, which are then
    clipped to the image.

    Args:
        predictions: Outputs of the model, see `detection_loss`.
        config: Configuration of the detector.
        image_size: (height, width) of the images in pixels.
        score_threshold: Smallest probability of a class.
        iou_threshold: Largest overlap of two detections of a class.
        max_detections: Number of rows of the result.
        candidates: Number of the best pairs of anchor and class that are considered.

    Returns:
        A dictionary, best detection first:

        - `"boxes"`: float32 (batch, max_detections, 4) in the configuration's format, clipped to
          the image;
        - `"labels"`: int32 (batch, max_detections), the classes from 0;
        - `"confidence"`: float32 (batch, max_detections), the probabilities of the classes;
        - `"num_detections"`: int32 (batch,).

        The rows behind the last detection are −1.
    """
    probabilities = ops.softmax(ops.cast(predictions[CLASSES_OUTPUT], "float32"), axis=2)
    return decode_probabilities(
        predictions[BOXES_OUTPUT],
        probabilities[:, :, BACKGROUND + 1 :],
        config,
        image_size,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        candidates=candidates,
    )


def decode_probabilities(
    offsets: Tensor,
    scores: Tensor,
    config: DetectionConfig,
    image_size: tuple[int, int],
    *,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    candidates: int = CANDIDATES,
) -> dict[str, Tensor]:
    """Converts offsets and probabilities to detections; see `decode_outputs`.

    Args:
        offsets: float32 (batch, anchors, 4), the offsets from the anchors.
        scores: float32 (batch, anchors, classes), the probabilities of the classes without the
            background.
        config, image_size, score_threshold, iou_threshold, max_detections, candidates: See
            `decode_outputs`.
    """
    anchors, classes = scores.shape[1:]
    boxes = decode_boxes(offsets, config.anchors(image_size), config.variances, "xyxy", image_size)
    flat = ops.reshape(scores, (-1, anchors * classes))
    scores, indices = ops.top_k(flat, min(candidates, anchors * classes))
    labels = ops.cast(indices % classes, "int32")
    boxes = ops.take_along_axis(boxes, ops.expand_dims(indices // classes, 2), axis=1)
    kept = ops.logical_and(suppress(boxes, labels, iou_threshold), scores >= score_threshold)
    return _best(boxes, labels, scores, kept, max_detections, config, image_size)


def _best(
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    kept: Tensor,
    max_detections: int,
    config: DetectionConfig,
    image_size: tuple[int, int],
) -> dict[str, Tensor]:
    """Moves the kept rows to the front, and fills or cuts the rows to `max_detections`."""
    count = min(max_detections, scores.shape[1])
    scores, order = ops.top_k(ops.where(kept, scores, float(PADDING)), count)
    labels = ops.take_along_axis(labels, order, axis=1)
    boxes = ops.take_along_axis(boxes, ops.expand_dims(order, 2), axis=1)
    found = scores >= 0
    height, width, _ = image_shape(image_size)
    boxes = ops.clip(boxes, 0.0, ops.convert_to_tensor([width, height, width, height], "float32"))
    boxes = bounding_boxes.convert_format(
        boxes, "xyxy", config.bounding_box_format, *image_shape(image_size)[:2]
    )
    boxes = ops.where(ops.expand_dims(found, 2), boxes, float(PADDING))
    rows = [(0, 0), (0, max_detections - count)]
    return {
        BOXES_LABEL: ops.pad(boxes, [*rows, (0, 0)], constant_values=float(PADDING)),
        CLASSES_LABEL: ops.pad(ops.where(found, labels, PADDING), rows, constant_values=PADDING),
        "confidence": ops.pad(scores, rows, constant_values=float(PADDING)),
        "num_detections": ops.sum(ops.cast(found, "int32"), axis=1),
    }
