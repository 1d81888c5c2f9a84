"""Writes metrics and pictures of predictions to TensorBoard after each epoch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.errors import MissingPackageError
from keras_mobileone.training.recipe import CLASSIFY, Recipe
from keras_mobileone.training.task import Task
from keras_mobileone.training.trainer import Trainer

PICTURES = 4  # validation images that are drawn after each epoch
FOLDER = "pictures"  # beside Keras' folders `train` and `validation`


class PredictionPictures(keras.callbacks.Callback):
    """Draws what the model sees in some images after each epoch, for TensorBoard.

    Args:
        directory: Directory of TensorBoard's logs.
        draw: Function that takes the trainer and returns uint8 pictures (height, width, 3).
    """

    def __init__(self, directory: Path, draw: Callable[[Any], Sequence[np.ndarray]]) -> None:
        super().__init__()
        self.directory, self.draw = directory / FOLDER, draw

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        import tensorflow as tf

        writer = tf.summary.create_file_writer(str(self.directory))
        with writer.as_default():
            for number, picture in enumerate(self.draw(self.model)):
                tf.summary.image(f"prediction {number}", picture[None], step=epoch)
        writer.close()


def tensorboard_callbacks(
    directory: Path, task: Task, recipe: Recipe, source: Any
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that write to TensorBoard's logs, once in each epoch.

    They are Keras' callback, and for segmentation and detection one that draws predictions.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "TensorBoard logs need the package tensorboard: pip install "
            "'keras-mobileone[tensorboard]'."
        ) from error
    callbacks: list[keras.callbacks.Callback] = [
        keras.callbacks.TensorBoard(directory, write_graph=False)
    ]

    def draw(trainer: Trainer) -> list[Any]:
        return task.pictures(trainer.predict_on_batch, source, recipe, PICTURES)

    if task.name != CLASSIFY:
        callbacks.append(PredictionPictures(directory, draw))
    return callbacks
