"""What a model becomes in a Core ML package: a classifier, a class map, boxes, or plain arrays.

The outputs are those that Apple's own models have, since Vision, the preview of Xcode and existing
apps know them: a class map is called `"semanticPredictions"` as in Apple's DeepLabV3, and the boxes
of a detector are `"coordinates"` and `"confidence"` as in Create ML's detectors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_mobileone.data.dense.drawing import class_colors
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.coreml_package import CONFIDENCE, COORDINATES, RAW
from keras_mobileone.export.network import normalized
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.encoding import decode_boxes
from keras_mobileone.models.detection.loss import BACKGROUND, BOXES_OUTPUT, CLASSES_OUTPUT
from keras_mobileone.models.graph import ends_in_softmax
from keras_mobileone.models.tasks import task_config

Tensor = Any  # a symbolic tensor of Keras
# Feature names in the package.
INPUT = "image"
LABEL, SCORES = "classLabel", "scores"
CLASS_MAP = "semanticPredictions"
# Keys of what Xcode's preview reads (coremltools, "Xcode Model Preview Types").
PREVIEW = "com.apple.coreml.model.preview"
BOX_FORMAT = "rel_center_xywh"


@dataclass(frozen=True)
class PackageForm:
    """A package that returns what the model returns, as one multi-array.

    Attributes:
        model: The fused model.
        labels: Names of the classes, or None.
    """

    model: keras.Model
    labels: Sequence[str] | None

    @property
    def dtype(self) -> str:
        """Dtype of the arrays: int32 if the model returns integers, otherwise float32."""
        floats = keras.backend.is_float_dtype(self.model.outputs[0].dtype)
        return "float32" if floats else "int32"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays that the network computes, in order."""
        return (SCORES,)

    def network_outputs(self, image: Tensor) -> list[Tensor]:
        """Applies the model to a normalized image, a batch of 1, and adds what the form needs."""
        return [self.model(image)]

    def network(self, config: ImageConfig | None) -> keras.Model:
        """Makes the model that is converted.

        Args:
            config: Configuration whose normalization is put in front of the model, or None.
        """
        inputs = keras.Input(batch_shape=(1, *self.model.input_shape[1:]), name=INPUT)
        image = inputs if config is None else normalized(inputs, config)
        return keras.Model(inputs, self.network_outputs(image))

    def outputs(self, network: keras.Model) -> list[TensorInfo]:
        """Describes the outputs of the package by name, shape and dtype."""
        return [TensorInfo(SCORES, (1, *network.outputs[0].shape[1:]), self.dtype, None, None)]

    def texts(self) -> dict[str, str]:
        """Returns what Xcode shows for each output, by name."""
        shape = ", ".join(map(str, (1, *self.model.output_shape[1:])))
        return {SCORES: f"({shape}) outputs of the model"}

    def preview(self) -> dict[str, str]:
        """Returns the metadata that Xcode's preview needs."""
        return {}


class ClassifierForm(PackageForm):
    """A package that returns the best label, and the probability of each label."""

    def network_outputs(self, image: Tensor) -> list[Tensor]:
        x = self.model(image)
        if not ends_in_softmax(self.model):
            x = keras.layers.Softmax(name="probabilities")(x)
        return [x]

    def outputs(self, network: keras.Model) -> list[TensorInfo]:
        return [TensorInfo(LABEL, (), "str", None, None), *super().outputs(network)]

    def texts(self) -> dict[str, str]:
        return {
            LABEL: "label of the most probable class",
            SCORES: f"probability of each of the {len(self.labels or ())} labels",
        }

    def preview(self) -> dict[str, str]:
        return {f"{PREVIEW}.type": "imageClassifier"}


@dataclass(frozen=True)
class SegmenterForm(PackageForm):
    """A package that returns the class of each pixel, int32 (height, width).

    An app needs the classes, not the logits, and a class map is as much smaller as there are
    classes. `export_coreml(..., classifier=False)` gives the logits.

    Attributes:
        classes: Number of classes.
    """

    classes: int

    dtype = "int32"

    @property
    def names(self) -> tuple[str, ...]:
        return (CLASS_MAP,)

    def network_outputs(self, image: Tensor) -> list[Tensor]:
        return [keras.layers.Lambda(_class_map, name=CLASS_MAP)(self.model(image))]

    def outputs(self, network: keras.Model) -> list[TensorInfo]:
        return [TensorInfo(CLASS_MAP, tuple(self.model.output_shape[1:3]), "int32", None, None)]

    def texts(self) -> dict[str, str]:
        height, width = self.model.output_shape[1:3]
        return {CLASS_MAP: f"({height}, {width}) index of the class of each pixel"}

    def preview(self) -> dict[str, str]:
        colors = ["#" + bytes(color.tolist()).hex() for color in class_colors(self.classes)]
        names = self.labels or [str(index) for index in range(self.classes)]
        # JSON beyond ASCII is escaped, so that any reader understands it.
        parameters = json.dumps({"labels": list(names), "colors": colors})
        return {f"{PREVIEW}.type": "imageSegmenter", f"{PREVIEW}.params": parameters}


@dataclass(frozen=True)
class DetectorForm(PackageForm):
    """A package that returns boxes and the probabilities of their classes, without the background.

    The anchors are part of the network, which returns decoded boxes: center x, center y, width and
    height, divided by the size of the image, with the origin in the upper left corner.

    Attributes:
        config: The head of the detector, with its anchors.
        nms: Whether the package suppresses overlapping boxes itself.
    """

    config: DetectionConfig
    nms: bool

    @property
    def names(self) -> tuple[str, ...]:
        prefix = RAW if self.nms else ""
        return prefix + CONFIDENCE, prefix + COORDINATES

    def network_outputs(self, image: Tensor) -> list[Tensor]:
        outputs = self.model(image)
        scores = keras.layers.Softmax(name="probabilities")(outputs[CLASSES_OUTPUT])
        scores = scores[:, :, BACKGROUND + 1 :]
        boxes = keras.layers.Lambda(self._decoded, name=COORDINATES)(outputs[BOXES_OUTPUT])
        return [keras.ops.reshape(tensor, tensor.shape[1:]) for tensor in (scores, boxes)]

    def outputs(self, network: keras.Model) -> list[TensorInfo]:
        rows = -1 if self.nms else network.outputs[0].shape[0]
        return [
            TensorInfo(CONFIDENCE, (rows, self.config.classes), "float32", None, None),
            TensorInfo(COORDINATES, (rows, 4), "float32", None, None),
        ]

    def texts(self) -> dict[str, str]:
        rows = "boxes" if self.nms else self._anchors().shape[0]
        return {
            CONFIDENCE: f"({rows}, {self.config.classes}) probability of each class",
            COORDINATES: f"({rows}, 4) center x, center y, width and height of each box, divided "
            "by the size of the image",
        }

    @property
    def class_names(self) -> list[str]:
        """Labels of the classes, or their indices."""
        return list(self.labels or map(str, range(self.config.classes)))

    def _anchors(self) -> Any:
        return self.config.anchors(self.model.input_shape[1:3])

    def _decoded(self, offsets: Tensor) -> Tensor:
        size = self.model.input_shape[1:3]
        return decode_boxes(offsets, self._anchors(), self.config.variances, BOX_FORMAT, size)


def _class_map(logits: Tensor) -> Tensor:
    """Returns the best class of each pixel, without the axis of the batch."""
    return keras.ops.reshape(keras.ops.argmax(logits, -1), logits.shape[1:3])


def package_form(
    model: keras.Model,
    deploy: keras.Model,
    labels: Sequence[str] | None,
    classifier: bool | None,
    nms: bool,
) -> PackageForm:
    """Chooses the form of the package.

    Args:
        model: The exported model, which carries the configuration of its task.
        deploy: The fused model.
        labels: Names of the classes, or None.
        classifier, nms: As in `export_coreml`.
    """
    task = task_config(model)
    if isinstance(task, DetectionConfig):
        if classifier is False:
            raise InputValueError(
                "A detector has two outputs. Received: classifier=False (--scores). Pass nms=False "
                "(--raw-boxes) for the boxes of all anchors."
            )
        return DetectorForm(deploy, labels, task, nms)
    if task is not None and classifier is None:
        return SegmenterForm(deploy, labels, task.classes)
    return PackageForm(deploy, None) if labels is None else ClassifierForm(deploy, labels)
