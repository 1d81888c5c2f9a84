"""Runs Keras models and TFLite files through one interface: pixels in, scores out."""

import os
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_mobileone.data.image_config import ImageConfig, image_config, image_shape
from keras_mobileone.errors import InputValueError
from keras_mobileone.litert.flatbuffer import read_tflite
from keras_mobileone.litert.metadata import read_file_config, read_file_task
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import TaskConfig, task_config
from keras_mobileone.weights.loading import load_keras


class Predictor(Protocol):
    """A classifier that takes RGB pixels.

    Attributes:
        name: Name of the model or file, for reports.
        image_config: How the model takes images.
        classes: Number of scores; None if the output does not have shape (batch, classes).
        task: What a segmentation model or a detector computes; None for a classifier.
    """

    name: str
    image_config: ImageConfig
    classes: int | None
    task: TaskConfig | None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the scores of a batch.

        Args:
            pixels: uint8 (batch, height, width, 3), RGB.

        Returns:
            float32 (batch, classes): the outputs of the model, logits or probabilities.
        """
        ...

    def outputs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Computes all outputs for a batch, by name.

        Args:
            pixels: uint8 (batch, height, width, 3), RGB.

        Returns:
            Arrays whose first axis is the batch. A single output of a Keras model has the name
            "output".
        """
        ...


def load_predictor(
    source: "keras.Model | str | os.PathLike",
    threads: int = 1,
    image_config: ImageConfig | None = None,
) -> Predictor:
    """Makes a predictor of a Keras model, a `.keras` file or a `.tflite` file.

    Args:
        source: The model, or the path of the file.
        threads: Number of CPU threads for a TFLite file.
        image_config: How the model takes images. None: according to its graph or its metadata, see
            `keras_mobileone.image_config`. It is required for TFLite files without metadata.

    Returns:
        A `Predictor`: a function from uint8 pixels (batch, height, width, 3) to scores.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged or has a different format, if the input is not one RGB
            image, or if it is not known how the model takes images.

    Examples:
        >>> model = km.MobileOneS0(weights="imagenette", classes=10, deploy=True)
        >>> predictor = km.load_predictor(model)
        >>> photograph = km.evaluation_crop(km.load_image("photos/tench/0.jpg"), 224)
        >>> predictor(photograph[None]).shape
        (1, 10)
    """
    if isinstance(source, keras.Model):
        return KerasPredictor(source, image_config)
    suffix = Path(source).suffix
    if suffix == ".tflite":
        return LiteRTPredictor(source, threads, image_config)
    if suffix == ".keras":
        return KerasPredictor(load_keras(source), image_config)
    raise InputValueError(f"Expected a .keras or .tflite file. Received: {source}.")


def as_predictor(
    source: "keras.Model | Predictor | str | os.PathLike",
    threads: int = 1,
    image_config: ImageConfig | None = None,
) -> Predictor:
    """Returns `source` if it is a predictor, otherwise the result of `load_predictor`."""
    if isinstance(source, (keras.Model, str, os.PathLike)):
        return load_predictor(source, threads, image_config)
    if image_config is not None:
        raise InputValueError(
            "`image_config` needs a model or the path of a file. Received: a predictor, which "
            "already has a configuration. Pass image_config to load_predictor instead."
        )
    return source


def segmentation_of(outputs: Any, size: tuple[int | None, ...]) -> SegmentationConfig | None:
    """Recognizes a segmentation model without metadata by logits for each pixel of its input.

    Args:
        outputs: Shape of the only output; anything else for several outputs.
        size: (height, width) of the input.
    """
    if not isinstance(outputs, tuple) or len(outputs) != 4 or outputs[1:3] != tuple(size):
        return None
    return SegmentationConfig(outputs[3]) if outputs[3] and None not in size else None


class KerasPredictor:
    """Runs a Keras model.

    Args:
        model: The model.
        config: How the model takes images. None: the result of `image_config`.
    """

    def __init__(self, model: keras.Model, config: ImageConfig | None = None) -> None:
        if image_shape(model)[2] != 3:
            raise InputValueError(
                f"Expected a model of RGB images. Received: {model.name!r} with input shape "
                f"{model.input_shape}. Pass a model whose images have 3 channels."
            )
        self.name = model.name
        self.model = model
        self.image_config = config or image_config(model)
        outputs = model.output_shape
        self.classes = outputs[1] if isinstance(outputs, tuple) and len(outputs) == 2 else None
        self.task = task_config(model) or segmentation_of(outputs, image_shape(model)[:2])

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.model.predict_on_batch(self.image_config.normalize(pixels))

    def outputs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        found = self(pixels)
        return found if isinstance(found, dict) else {"output": found}


class LiteRTPredictor:
    """Runs a TFLite file with ai-edge-litert, one image at a time.

    Args:
        path: Path of the file.
        threads: Number of CPU threads.
        config: How the file takes images. None: according to its metadata.
    """

    def __init__(
        self, path: str | os.PathLike, threads: int = 1, config: ImageConfig | None = None
    ) -> None:
        content = read_tflite(path)
        self._runner = LiteRTRunner(content, threads)
        inputs = self._runner.inputs
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[0] != 1 or shape[3] != 3:
            raise InputValueError(
                "Expected a TFLite file with one input of shape (1, height, width, 3). "
                f"Received: {path} with {', '.join(str(i.shape) for i in inputs)}."
            )
        self.name = Path(path).name
        config = config or read_file_config(content)
        if config is None:
            raise InputValueError(
                "Expected a TFLite file whose metadata describe how it takes images. "
                f"Received: {path}, which has no such metadata. Pass image_config=ImageConfig(…), "
                "or export the model again with keras_mobileone.export_tflite."
            )
        self.image_config = config
        outputs = self._runner.outputs[0]
        self.classes = outputs.shape[1] if len(outputs.shape) == 2 else None
        self._output_name = outputs.name
        self.task = read_file_task(content) or segmentation_of(
            outputs.shape if len(self._runner.outputs) == 1 else None, shape[1:3]
        )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.outputs(pixels)[self._output_name]

    def outputs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        images = self.image_config.normalize(pixels)
        found = [self._runner(image[None]) for image in images]
        return {name: np.concatenate([row[name] for row in found]) for name in found[0]}
