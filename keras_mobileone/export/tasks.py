"""The form in which segmentation models and detectors become files: outputs and metadata."""

import keras
from keras import layers

from keras_mobileone.errors import InputValueError
from keras_mobileone.litert.metadata import CLASSIFIER
from keras_mobileone.litert.postprocess import LOCATION, SCORE, PostProcess, with_postprocess
from keras_mobileone.litert.task_metadata import (
    DetectorMetadata,
    SegmenterMetadata,
    TaskMetadata,
)
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.decoding import IOU_THRESHOLD, SCORE_THRESHOLD
from keras_mobileone.models.detection.loss import BACKGROUND, BOXES_OUTPUT, CLASSES_OUTPUT
from keras_mobileone.models.detection.network import detection_config, image_size
from keras_mobileone.models.graph import inputs_and_outputs
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import task_config

FILE_DETECTIONS = 100  # rows of a file that suppresses boxes itself


class FileForm:
    """What a model becomes in a file.

    Args:
        model: Functional model, train-time or fused.
        nms: For a detector, whether the file suppresses overlapping boxes itself.

    Attributes:
        model: The model whose outputs the converter, quantization and the comparison see. For a
            detector these are the offsets `"location"` and the probabilities `"score"`.
        metadata: The descriptions of the final outputs.
    """

    def __init__(self, model: keras.Model, nms: bool) -> None:
        self.model, self._settings = model, None
        self.metadata: TaskMetadata = CLASSIFIER
        task = task_config(model)
        if not nms:
            require_detector(model)
        if isinstance(task, SegmentationConfig):
            self.metadata = SegmenterMetadata(task.to_dict())
        elif isinstance(task, DetectionConfig):
            settings = postprocess_settings(model)
            self.model = detector_outputs(model, background=nms)
            self.metadata = DetectorMetadata(settings, nms, task.to_dict())
            self._settings = settings if nms else None

    def finish(self, content: bytes) -> bytes:
        """Adds what the converter does not make to the content of a file."""
        return content if self._settings is None else with_postprocess(content, self._settings)


def require_detector(model: keras.Model) -> None:
    """Raises ValueError if a model without boxes is exported with nms=False."""
    if not isinstance(task_config(model), DetectionConfig):
        raise InputValueError(
            f"nms=False is for detectors. Received: {model.name!r}, which is not one. Leave it out."
        )


def task_name(model: keras.Model) -> str | None:
    """Returns "segment" or "detect", or None for a model without a configuration of a task."""
    task = task_config(model)
    return None if task is None else task.task


def postprocess_settings(model: keras.Model) -> PostProcess:
    """Returns the settings with which a file decodes the outputs of a detector."""
    config, size = detection_config(model), image_size(model)
    return PostProcess(
        anchors=config.anchors(size) / [*size, *size],
        variances=config.variances,
        classes=config.classes,
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=IOU_THRESHOLD,
        max_detections=FILE_DETECTIONS,
    )


def detector_outputs(model: keras.Model, background: bool) -> keras.Model:
    """Returns a detector with probabilities instead of logits.

    Args:
        model: The detector.
        background: Whether the probability of the background is the first of each anchor.

    Returns:
        A model that shares the layers of `model`, with the outputs `"location"` and `"score"`.
    """
    inputs, outputs = inputs_and_outputs(model)
    scores = layers.Softmax(name="probabilities", dtype="float32")(outputs[CLASSES_OUTPUT])
    if not background:
        scores = scores[:, :, BACKGROUND + 1 :]
    outputs = {
        LOCATION: layers.Identity(name=LOCATION)(outputs[BOXES_OUTPUT]),
        SCORE: layers.Identity(name=SCORE)(scores),
    }
    return copy_attachment(model, keras.Model(inputs, outputs, name=model.name))
