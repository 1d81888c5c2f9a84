"""One way to run a Keras model and a TFLite file: pixels in, scores out."""

import os
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.errors import InputValueError
from keras_mobileone.litert.flatbuffer import read_tflite
from keras_mobileone.litert.metadata import read_labels
from keras_mobileone.litert.runner import PIXEL_INPUT, LiteRTRunner
from keras_mobileone.weights.loading import load_keras


class Predictor(Protocol):
    """A classifier of RGB pixels.

    Attributes:
        name: For reports.
        image_size: (height, width) it takes.
        classes: Number of scores; None if the output is none of (batch, classes).
    """

    name: str
    image_size: tuple[int, int]
    classes: int | None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Scores of a batch.

        Args:
            pixels: uint8 (batch, height, width, 3), RGB.

        Returns:
            float32 (batch, classes): the output of the model, logits or probabilities.
        """
        ...


def load_predictor(source: "keras.Model | str | os.PathLike", threads: int = 1) -> Predictor:
    """A predictor from a Keras model, a `.keras` file or a `.tflite` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind, or its input is no RGB image.
    """
    if isinstance(source, keras.Model):
        return KerasPredictor(source)
    suffix = Path(source).suffix
    if suffix == ".tflite":
        return LiteRTPredictor(source, threads)
    if suffix == ".keras":
        return KerasPredictor(load_keras(source))
    raise InputValueError(f"Expected a .keras or .tflite file. Received: {source}.")


def as_predictor(source, threads: int = 1) -> Predictor:
    """`source` itself if it is a predictor, else `load_predictor` of it."""
    if isinstance(source, (keras.Model, str, os.PathLike)):
        return load_predictor(source, threads)
    return source


class KerasPredictor:
    """Runs a Keras model that takes normalized images."""

    def __init__(self, model: keras.Model):
        shape = model.input_shape
        if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
            raise InputValueError(
                f"Expected a model with one input of RGB images. Received: {model.name!r} with "
                f"input shape {shape}."
            )
        self.name = model.name
        self.model = model
        self.image_size = tuple(size or 224 for size in shape[1:3])
        outputs = model.output_shape
        self.classes = outputs[1] if isinstance(outputs, tuple) and len(outputs) == 2 else None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.model.predict_on_batch(preprocess_input(pixels))


class LiteRTPredictor:
    """Runs a TFLite file with ai-edge-litert, one image at a time.

    An input named `"pixels"` gets values 0 … 255, every other normalized ones.

    Attributes:
        labels: Names of the classes that the file brings, or None.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        self._runner = LiteRTRunner(read_tflite(path), threads)
        inputs = self._runner.inputs
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[0] != 1 or shape[3] != 3:
            raise InputValueError(
                "Expected a TFLite file with one input of shape (1, height, width, 3). "
                f"Received: {path} with {', '.join(str(i.shape) for i in inputs)}."
            )
        self.name = Path(path).name
        self.labels = read_labels(path)
        self.image_size = shape[1:3]
        outputs = self._runner.outputs[0]
        self.classes = outputs.shape[1] if len(outputs.shape) == 2 else None
        self._output_name = outputs.name
        self._takes_pixels = inputs[0].name == PIXEL_INPUT

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        images = pixels if self._takes_pixels else preprocess_input(pixels)
        return np.concatenate([self._runner(image[None])[self._output_name] for image in images])
