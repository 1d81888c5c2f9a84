"""One way to run a Keras model and a TFLite file: pixels in, scores out."""

import os
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from keras_mobileone.data.image_config import ImageConfig, image_config
from keras_mobileone.errors import InputValueError
from keras_mobileone.litert.flatbuffer import read_tflite
from keras_mobileone.litert.metadata import read_file_config
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.weights.loading import load_keras


class Predictor(Protocol):
    """A classifier of RGB pixels.

    Attributes:
        name: For reports.
        image_config: How it takes images.
        classes: Number of scores; None if the output is none of (batch, classes).
    """

    name: str
    image_config: ImageConfig
    classes: int | None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Scores of a batch.

        Args:
            pixels: uint8 (batch, height, width, 3), RGB.

        Returns:
            float32 (batch, classes): the output of the model, logits or probabilities.
        """
        ...


def load_predictor(
    source: "keras.Model | str | os.PathLike",
    threads: int = 1,
    image_config: ImageConfig | None = None,
) -> Predictor:
    """A predictor from a Keras model, a `.keras` file or a `.tflite` file.

    Args:
        source: The model or file.
        threads: CPU threads for a TFLite file.
        image_config: How it takes images, where it does not tell itself: see
            `keras_mobileone.image_config`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, or its input is no RGB image.
    """
    if isinstance(source, keras.Model):
        return KerasPredictor(source, image_config)
    suffix = Path(source).suffix
    if suffix == ".tflite":
        return LiteRTPredictor(source, threads, image_config)
    if suffix == ".keras":
        return KerasPredictor(load_keras(source), image_config)
    raise InputValueError(f"Expected a .keras or .tflite file. Received: {source}.")


def as_predictor(source, threads: int = 1) -> Predictor:
    """`source` itself if it is a predictor, else `load_predictor` of it."""
    if isinstance(source, (keras.Model, str, os.PathLike)):
        return load_predictor(source, threads)
    return source


class KerasPredictor:
    """Runs a Keras model."""

    def __init__(self, model: keras.Model, config: ImageConfig | None = None):
        shape = model.input_shape
        if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
            raise InputValueError(
                f"Expected a model with one input of RGB images. Received: {model.name!r} with "
                f"input shape {shape}."
            )
        self.name = model.name
        self.model = model
        self.image_config = config or image_config(model)
        outputs = model.output_shape
        self.classes = outputs[1] if isinstance(outputs, tuple) and len(outputs) == 2 else None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.model.predict_on_batch(self.image_config.normalize(pixels))


class LiteRTPredictor:
    """Runs a TFLite file with ai-edge-litert, one image at a time, as its metadata say."""

    def __init__(
        self, path: str | os.PathLike, threads: int = 1, config: ImageConfig | None = None
    ):
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
        self.image_config = config or read_file_config(content)
        if self.image_config is None:
            raise InputValueError(
                "Expected a TFLite file whose metadata tell how it takes images. "
                f"Received: {path}, which has none. Pass image_config=, or export the model "
                "again with keras_mobileone.export_tflite."
            )
        outputs = self._runner.outputs[0]
        self.classes = outputs.shape[1] if len(outputs.shape) == 2 else None
        self._output_name = outputs.name

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        images = self.image_config.normalize(pixels)
        return np.concatenate([self._runner(image[None])[self._output_name] for image in images])
