"""Runs segmentation models and detectors, of Keras or TFLite, through one interface each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_mobileone.data.labels import check_labels
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.detection import Detections
from keras_mobileone.evaluation.predictor import Predictor, as_predictor
from keras_mobileone.litert.postprocess import LOCATION, RESULTS, SCORE
from keras_mobileone.models.detection.decoding import (
    SCORE_THRESHOLD,
    decode_outputs,
    decode_probabilities,
)
from keras_mobileone.models.detection.loss import BOXES_OUTPUT, CLASSES_OUTPUT

KINDS = {"classify": "a classifier", "segment": "a segmentation model", "detect": "a detector"}
Source: TypeAlias = Predictor | keras.Model | str | os.PathLike


def task_of(predictor: Predictor) -> str | None:
    """Returns "segment", "detect" or "classify", or None for a model that does none of them."""
    if predictor.task is not None:
        return predictor.task.task
    return None if predictor.classes is None else "classify"


def require_task_of(predictor: Predictor, task: str) -> None:
    """Raises ValueError if a model is not made for `task`."""
    found = task_of(predictor)
    if found != task:
        received = KINDS.get(found or "", "a model without a known task")
        raise InputValueError(
            f"Expected {KINDS[task]} for the task {task!r}. Received: {predictor.name}, which is "
            f"{received}. Pass another model, or another task."
        )


class DensePredictor:
    """What `Segmenter` and `Detector` have in common.

    Attributes:
        name: Name of the model or file, for reports.
        image_config: How the model takes images.
        labels: Names of the classes, or None if they are not known.
        classes: Number of classes.
        size: (height, width) of the input in pixels.
    """

    task: str

    def __init__(self, predictor: Predictor, labels: Sequence[str] | None = None) -> None:
        require_task_of(predictor, self.task)
        self.predictor = predictor
        task: Any = predictor.task  # of this kind, as was just checked
        self.config = task
        self.name = predictor.name
        self.image_config = predictor.image_config
        self.size = predictor.image_config.image_size
        self.classes: int = self.config.classes
        check_labels(labels, self.classes, self.name)
        known = labels or predictor.image_config.labels
        self.labels = None if known is None else tuple(known)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, or their indices if there are no names."""
        return self.labels or tuple(map(str, range(self.classes)))


class Segmenter(DensePredictor):
    """A segmentation model that takes RGB pixels."""

    task = "segment"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the logits of each pixel.

        Args:
            pixels: uint8 (batch, height, width, 3), RGB, in the size of the input.

        Returns:
            float32 (batch, height, width, classes).
        """
        (logits,) = self.predictor.outputs(pixels).values()
        return np.asarray(logits, np.float32)


class Detector(DensePredictor):
    """A detector that takes RGB pixels.

    The outputs may be those of Keras' model, or those of a TFLite file with or without
    non-maximum suppression.
    """

    task = "detect"

    def __call__(
        self, pixels: np.ndarray, score_threshold: float = SCORE_THRESHOLD
    ) -> list[Detections]:
        """Finds the objects in a batch of images.

        Args:
            pixels: uint8 (batch, height, width, 3), RGB, in the size of the input.
            score_threshold: Smallest score of a detection. A file that suppresses boxes itself has
                a threshold of its own too.

        Returns:
            The objects of each image, the best first, with boxes in pixels of the input.
        """
        outputs = self.predictor.outputs(pixels)
        if set(outputs) == set(RESULTS):
            found = [self._of_file(outputs, row) for row in range(len(pixels))]
        else:
            found = self._decoded(outputs, score_threshold)
        return [_above(detections, score_threshold) for detections in found]

    def _of_file(self, outputs: Mapping[str, np.ndarray], row: int) -> Detections:
        """Reads the results of `TFLite_Detection_PostProcess` for an image."""
        location, category, score, number = (outputs[name][row] for name in RESULTS)
        count = int(number)
        height, width = self.size
        y1, x1, y2, x2 = np.clip(location[:count], 0, 1).T
        boxes = np.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1)
        return Detections(boxes, category[:count].astype(np.int64), score[:count])

    def _decoded(
        self, outputs: Mapping[str, np.ndarray], score_threshold: float
    ) -> list[Detections]:
        """Decodes offsets from the anchors, and suppresses overlapping boxes."""
        config = replace(self.config, bounding_box_format="xyxy")
        settings: dict[str, Any] = {"score_threshold": score_threshold}
        if set(outputs) == {LOCATION, SCORE}:
            decoded = decode_probabilities(
                outputs[LOCATION], outputs[SCORE], config, self.size, **settings
            )
        elif {BOXES_OUTPUT, CLASSES_OUTPUT} <= set(outputs):
            decoded = decode_outputs(outputs, config, self.size, **settings)
        else:
            raise InputValueError(
                f"Expected the outputs of a detector of this package. Received: {self.name} with "
                f"{', '.join(outputs)}. Export the model again with keras_mobileone.export_tflite."
            )
        arrays = {name: keras.ops.convert_to_numpy(value) for name, value in decoded.items()}
        counts = arrays["num_detections"]
        return [
            Detections(
                arrays["boxes"][row, :count],
                arrays["labels"][row, :count],
                arrays["confidence"][row, :count],
            )
            for row, count in enumerate(map(int, counts))
        ]


def _above(found: Detections, score_threshold: float) -> Detections:
    kept = found.scores >= score_threshold
    return Detections(found.boxes[kept], found.labels[kept], found.scores[kept])


def load_segmenter(
    source: Source | Segmenter, threads: int = 1, labels: Sequence[str] | None = None
) -> Segmenter:
    """Makes a function from pixels to logits of a segmentation model.

    Args:
        source: Keras model, path of a `.keras` or `.tflite` file, or `Predictor`.
        threads: Number of CPU threads for a TFLite file.
        labels: Names of the classes. By default, those that the model or the file carries.

    Returns:
        A `Segmenter`, which takes uint8 pixels (batch, height, width, 3) in the size of the input.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, if the model is not made for segmentation, or if the
            number of labels is not that of the classes.

    Examples:
        >>> model = km.MobileOneDeepLabV3("s0", 3, (64, 64, 3), weights=None, deploy=True)
        >>> segmenter = km.load_segmenter(model, labels=("sky", "road", "car"))
        >>> segmenter(np.zeros((1, 64, 64, 3), np.uint8)).shape
        (1, 64, 64, 3)
    """
    if isinstance(source, Segmenter):
        return source
    return Segmenter(as_predictor(source, threads), labels)


def load_detector(
    source: Source | Detector, threads: int = 1, labels: Sequence[str] | None = None
) -> Detector:
    """Makes a function from pixels to objects of a detector.

    Args:
        source: Keras model, path of a `.keras` or `.tflite` file, or `Predictor`.
        threads: Number of CPU threads for a TFLite file.
        labels: Names of the classes. By default, those that the model or the file carries.

    Returns:
        A `Detector`, which takes uint8 pixels (batch, height, width, 3) in the size of the input.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, if the model is not a detector of this package, or if
            the number of labels is not that of the classes.

    Examples:
        >>> model = km.MobileOneSSDLite("s0", 2, (96, 96, 3), weights=None, deploy=True)
        >>> detector = km.load_detector(model, labels=("cat", "dog"))
        >>> (found,) = detector(np.zeros((1, 96, 96, 3), np.uint8), score_threshold=0.99)
        >>> found.boxes.shape
        (0, 4)
    """
    if isinstance(source, Detector):
        return source
    return Detector(as_predictor(source, threads), labels)
