"""What MediaPipe's ImageSegmenter and ObjectDetector read from the metadata of a TFLite file.

The schemas are `image_segmenter_metadata_schema.fbs` and `object_detector_metadata_schema.fbs`,
which the package mediapipe ships beside `metadata_schema.fbs`. See `litert.metadata` for how tables
are written.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from keras_mobileone.litert.flatbuffer import Byte, Float, Table, TensorInfo, encode
from keras_mobileone.litert.postprocess import LOCATION, RESULTS, SCORE, PostProcess

IDENTIFIER = b"V001"
PARSER_VERSION = "1.5.0"  # the first version of the schema with custom metadata
LABELS_FILE = "labels.txt"
# Codes of the schemas' enumerations and unions.
TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS = Byte(2), Byte(3)  # AssociatedFileType
FEATURE, BOUNDING_BOX = Byte(1), Byte(3)  # ContentProperties
BOUNDARIES = Byte(1)  # BoundingBoxType
SOFTMAX = Byte(2)  # Activation
# Positions of left, top, right and bottom in the rows of boxes.
BOX_INDEX = (1, 0, 3, 2)


class CustomMetadata(NamedTuple):
    """An entry of the custom metadata: its name, and the content of its own flatbuffer."""

    name: str
    data: bytes


class TaskMetadata(Protocol):
    """The part of the metadata that depends on the task of a file.

    Attributes:
        config: What the file computes, as the `to_dict` of a `SegmentationConfig` or a
            `DetectionConfig`; None for a classifier.
    """

    config: dict[str, Any] | None

    def output(self, tensor: TensorInfo, labels: Sequence[str] | None) -> Table:
        """Describes an output of the file."""
        ...

    def custom(self) -> CustomMetadata | None:
        """Returns the custom metadata of the task, or None."""
        ...


def label_file(kind: Byte) -> list[Table]:
    """Refers to the file of labels, which name the values or the last axis of a tensor."""
    return [{0: LABELS_FILE, 1: "names of the classes", 2: kind}]


class ClassifierMetadata:
    """The metadata of a classifier, or of any other model without a task."""

    config: dict[str, Any] | None = None

    def output(self, tensor: TensorInfo, labels: Sequence[str] | None) -> Table:
        """Describes the scores of the classes."""
        fields: Table = {0: tensor.name, 1: "outputs of the model", 3: {0: FEATURE, 1: {}}}
        if labels is None:
            return fields
        description = "names of the classes in the order of the scores"
        file = {0: LABELS_FILE, 1: description, 2: TENSOR_AXIS_LABELS}
        return fields | {1: "score of each class", 6: [file]}

    def custom(self) -> None:
        """Returns None."""


class SegmenterMetadata:
    """The metadata of a file that returns the logits of each pixel.

    Args:
        config: The configuration of the model, as plain data.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = config

    def output(self, tensor: TensorInfo, labels: Sequence[str] | None) -> Table:
        """Describes the logits."""
        fields: Table = {0: tensor.name, 1: "logits of each pixel", 3: {0: FEATURE, 1: {}}}
        return fields if labels is None else fields | {6: label_file(TENSOR_AXIS_LABELS)}

    def custom(self) -> CustomMetadata:
        """Says that a softmax turns the logits into probabilities."""
        options: Table = {0: SOFTMAX, 1: "1.0.0"}
        return CustomMetadata("SEGMENTER_METADATA", encode(options, IDENTIFIER))


class DetectorMetadata:
    """The metadata of a detector.

    Args:
        settings: The anchors, and the settings of the suppression.
        nms: Whether the file suppresses overlapping boxes itself. Otherwise MediaPipe decodes the
            offsets and suppresses, for which it needs the anchors.
        config: The configuration of the model, as plain data.
    """

    def __init__(
        self, settings: PostProcess, nms: bool, config: dict[str, Any] | None = None
    ) -> None:
        self._settings, self._nms, self.config = settings, nms, config

    def output(self, tensor: TensorInfo, labels: Sequence[str] | None) -> Table:
        """Describes boxes, classes, scores or the number of detections."""
        content: Table = {0: FEATURE, 1: {}}
        if tensor.name == LOCATION:
            index = np.array(BOX_INDEX, np.uint32)
            content = {0: BOUNDING_BOX, 1: {0: index, 1: BOUNDARIES}}
        fields: Table = {0: tensor.name, 1: "detections of objects", 3: content}
        named, kind = (
            (RESULTS[1], TENSOR_VALUE_LABELS) if self._nms else (SCORE, TENSOR_AXIS_LABELS)
        )
        if labels is None or tensor.name != named:
            return fields
        return fields | {6: label_file(kind)}

    def custom(self) -> CustomMetadata | None:
        """Returns the anchors of a file that does not suppress boxes itself."""
        if self._nms:
            return None
        anchors, settings = self._settings.anchors, self._settings
        y, x, height, width = (Float(1 / variance) for variance in settings.variances)
        fixed = [{0: Float(b), 1: Float(a), 2: Float(d), 3: Float(c)} for a, b, c, d in anchors]
        decoding: Table = {0: settings.classes, 1: len(anchors), 2: 4, 5: 2}
        decoding |= {6: x, 7: y, 8: width, 9: height, 10: Byte(1)}
        options: Table = {0: "1.0.0", 1: {0: {0: fixed}}, 2: decoding}
        return CustomMetadata("DETECTOR_METADATA", encode(options, IDENTIFIER))
