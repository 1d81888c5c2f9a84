"""`train_qat` trains a classifier quantization-aware on class folders and writes its int8 file."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_mobileone.checks import require_same_settings
from keras_mobileone.data.folders import (
    ClassFolders,
    class_folders,
    folder_splits,
    output_folders,
)
from keras_mobileone.data.image_config import ImageConfig, image_config
from keras_mobileone.data.imagenet import labels_of
from keras_mobileone.data.images import load_crops, spread
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.qat import export_qat
from keras_mobileone.files import require_writable
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import ends_in_softmax
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.qat import quantize_aware
from keras_mobileone.quantization.qat_model import packages
from keras_mobileone.reports import Report
from keras_mobileone.training.callbacks import CHECKPOINT
from keras_mobileone.training.checkpoint import read_state, write_state

if TYPE_CHECKING:
    import tf_keras

CALIBRATION_IMAGES = 100
Batches = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class QATReport(Report):
    """Result of `train_qat`.

    Attributes:
        path: The int8 file.
        bytes: Size of the file.
        epochs: Number of epochs of the whole training.
        training_images, validation_images: Number of images in the data.
        history: Loss and accuracy of each epoch of this call, by name.
    """

    path: Path
    bytes: int
    epochs: int
    training_images: int
    validation_images: int
    history: dict[str, list[float]]


@dataclass(frozen=True)
class Settings:
    """Settings that a resumed training must share with the interrupted one."""

    learning_rate: float
    batch_size: int
    limit: int | None


def train_qat(
    model: keras.Model,
    data: str | os.PathLike,
    path: str | os.PathLike,
    *,
    epochs: int,
    learning_rate: float = 1e-5,
    batch_size: int = 32,
    limit: int | None = None,
    checkpoints: str | os.PathLike | None = None,
    resume: bool = False,
    status: Callable[[str], None] | None = None,
) -> QATReport:
    """Trains a classifier with the rounding of its int8 file, and writes that file.

    The model is fused and equalized first. The order of an epoch and its flipped images depend only
    on its number, so that an interrupted and resumed training writes the same file.

    Args:
        model: Classifier of RGB images that returns logits or probabilities. The images are cropped
            and normalized as `image_config(model)` says.
        data: Directory with train/ and optionally val/, each with one folder of photographs for
            each class, or with the class folders themselves. The sorted folders correspond to the
            outputs of the model. For the 1,000 classes of ImageNet, the WordNet ids name the
            classes.
        path: Path of the file to write, which ends in `.tflite`.
        epochs: Number of epochs of the whole training.
        learning_rate: Learning rate of Adam.
        batch_size: Number of images in a step.
        limit: Number of images in an epoch, drawn at random for each epoch. By default, all images.
        checkpoints: Directory for a checkpoint after each epoch. By default, there are no
            checkpoints.
        resume: Whether to continue from the checkpoint in `checkpoints`.
        status: Function called with the title of each step that takes long.

    Returns:
        A `QATReport`.

    Raises:
        ImportError: If the extra `[qat]` is not installed.
        FileNotFoundError: If there is no data, or no checkpoint to resume from.
        FileExistsError: If there is a checkpoint and `resume` is False.
        ValueError: If the classes do not match the outputs of the model, or if the checkpoint does
            not fit.

    Examples:
        ```python
        model = keras.models.load_model("runs/photos/deploy.keras")
        report = keras_mobileone.train_qat(model, "photos/", "photos_int8.tflite", epochs=2)
        ```
    """
    packages()
    path, checkpoint = Path(path), checkpoint_file(checkpoints, resume)
    check_output(path)
    model = fuse(model) if has_blocks(model) else model
    train, val = read_data(data, model)
    if checkpoint is not None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    settings = Settings(learning_rate, batch_size, limit)
    student = make_student(model, train, not resume, status or (lambda title: None))
    compile_student(student, model, learning_rate)
    first = load_checkpoint(checkpoint, student, settings) if checkpoint and resume else 0
    if first > epochs:
        raise InputValueError(f"The checkpoint has {first} epochs done. Received: epochs={epochs}.")
    history = fit(student, train, val, range(first, epochs), checkpoint, settings)
    complete = len(train.folders) == student.output_shape[-1]
    export_qat(student, path, labels=labels_of(train.folders) if complete else None)
    return QATReport(
        path=path,
        bytes=path.stat().st_size,
        epochs=epochs,
        training_images=len(train.paths),
        validation_images=0 if val is None else len(val.paths),
        history=history,
    )


def check_output(path: Path) -> None:
    """Raises an error unless a TFLite file can be written to `path`."""
    if path.suffix != ".tflite":
        raise InputValueError(f"The output must end in .tflite. Received: {path}.")
    require_writable(path)


def checkpoint_file(directory: str | os.PathLike | None, resume: bool) -> Path | None:
    """Returns the path of the checkpoint, which must exist if and only if a training is resumed."""
    if directory is None:
        if resume:
            raise InputValueError("Resuming needs the directory of the checkpoint. Add --run DIR.")
        return None
    path = Path(directory) / CHECKPOINT
    if resume and not path.is_file():
        raise FileNotFoundError(
            f"Expected a checkpoint to resume from. Received: {directory}, which has no "
            f"{CHECKPOINT}. Start without --resume."
        )
    if not resume and path.exists():
        raise FileExistsError(
            f"Expected a directory without a checkpoint. Received: {directory}, which has one. "
            "Add --resume to continue from it, or pass another directory."
        )
    return path


@dataclass(frozen=True)
class LabeledImages:
    """Photographs with their class indices.

    Attributes:
        paths, labels: Path and class index of each image.
        config: How the model takes images.
        folders: Class folders in the order of their indices.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    config: ImageConfig
    folders: Sequence[str]

    def crops(self, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        """Yields decoded and cropped uint8 images."""
        return load_crops(paths, self.config.image_size, self.config.crop_fraction)

    def batches(self, order: np.ndarray, flips: np.ndarray, batch_size: int) -> Batches:
        """Yields batches of normalized images and labels. The images in `flips` are flipped."""
        crops = self.crops([self.paths[i] for i in order])
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            images = np.stack([next(crops) for _ in chosen])
            mirrored = flips[start : start + batch_size]
            images[mirrored] = images[mirrored, :, ::-1]
            yield self.config.normalize(images), self.labels[chosen]

    def in_order(self, settings: Settings) -> Batches:
        """Yields batches of all images in order, without flips."""
        order = np.arange(len(self.paths))
        yield from self.batches(order, np.zeros(len(order), bool), settings.batch_size)

    def epoch(self, epoch: int, settings: Settings) -> Batches:
        """Yields the batches of an epoch, whose order and flips depend only on its number."""
        rng = np.random.default_rng(epoch)
        order = rng.permutation(len(self.paths))[: settings.limit]
        yield from self.batches(order, rng.random(len(order)) < 0.5, settings.batch_size)


def read_data(
    data: str | os.PathLike, model: keras.Model
) -> tuple[LabeledImages, LabeledImages | None]:
    """Returns the training and validation images of a directory, labeled for `model`."""
    outputs, config = model.output_shape, image_config(model)
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise InputValueError(
            f"Expected a classifier with one output. Received: {model.name!r} with {outputs}."
        )
    splits = folder_splits(data)
    folders = class_folders(splits["train"])
    names = output_folders(folders, outputs[-1], splits["train"])

    def read(split: str) -> LabeledImages:
        source = ClassFolders(splits[split], names)
        return LabeledImages(source.paths, source.labels, config, folders)

    return read("train"), read("val") if "val" in splits else None


def make_student(
    model: keras.Model, train: LabeledImages, calibrated: bool, status: Callable[[str], None]
) -> "tf_keras.Model":
    """Returns the model for training, equalized and calibrated unless a checkpoint is loaded."""
    if not calibrated:
        return quantize_aware(model)
    status("Equalizing")
    paths = spread(train.paths, CALIBRATION_IMAGES)
    images = train.config.normalize(np.stack(list(train.crops(paths))))
    return quantize_aware(equalize(model, images).model, images)


def compile_student(student: "tf_keras.Model", model: keras.Model, learning_rate: float) -> None:
    """Compiles with Adam and cross-entropy, from logits unless the model ends in a softmax."""
    _, keras2 = packages()
    optimizer = keras2.optimizers.Adam(learning_rate)
    optimizer.build(student.trainable_variables)
    loss = keras2.losses.SparseCategoricalCrossentropy(from_logits=not ends_in_softmax(model))
    student.compile(optimizer, loss, metrics=["accuracy"])


def fit(
    student: "tf_keras.Model",
    train: LabeledImages,
    val: LabeledImages | None,
    epochs: range,
    checkpoint: Path | None,
    settings: Settings,
) -> dict[str, list[float]]:
    """Trains for `epochs`, writes a checkpoint after each epoch, and returns the metrics."""
    import tensorflow as tf

    _, keras2 = packages()
    signature = (
        tf.TensorSpec((None, *student.input_shape[1:]), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )

    def dataset(generator: Callable[[], Batches]) -> Any:
        return tf.data.Dataset.from_generator(generator, output_signature=signature).prefetch(2)

    def training() -> Batches:
        for epoch in epochs:
            yield from train.epoch(epoch, settings)

    def save(epoch: int, logs: dict[str, float] | None = None) -> None:
        if checkpoint is not None:
            save_checkpoint(checkpoint, student, epoch + 1, settings)

    images = min(len(train.paths), settings.limit or len(train.paths))
    history = student.fit(
        dataset(training),
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        steps_per_epoch=-(-images // settings.batch_size),
        validation_data=None if val is None else dataset(partial(val.in_order, settings)),
        callbacks=[keras2.callbacks.LambdaCallback(on_epoch_end=save)],
    )
    return {name: [float(value) for value in values] for name, values in history.history.items()}


def state_variables(student: "tf_keras.Model") -> list[Any]:
    """Returns the variables that a step changes: weights, ranges and the optimizer's state."""
    return [*student.weights, *student.optimizer.variables]


def save_checkpoint(path: Path, student: "tf_keras.Model", epochs: int, settings: Settings) -> None:
    """Writes the state of a training after a number of epochs."""
    arrays = [variable.numpy() for variable in state_variables(student)]
    write_state(path, arrays, {"epochs": epochs, "settings": vars(settings)})


def load_checkpoint(path: Path, student: "tf_keras.Model", settings: Settings) -> int:
    """Restores what `save_checkpoint` wrote and returns the number of epochs done."""
    arrays, state = read_state(path)
    require_same_settings(state.get("settings", {}), vars(settings), path)
    variables = state_variables(student)
    if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
        raise InputValueError(
            f"Expected a checkpoint of {student.name!r}. Received: {path}, whose variables have "
            "other shapes."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return state["epochs"]
