"""The results of a training run: the finished model, fused, evaluated and exported."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import keras

from keras_mobileone.choices import INTEGER
from keras_mobileone.data.image_config import image_config, set_image_config
from keras_mobileone.data.imagenet import labels_of
from keras_mobileone.data.pipeline import BadImages
from keras_mobileone.data.sources import Source
from keras_mobileone.export.tflite import export_tflite
from keras_mobileone.files import atomic_write
from keras_mobileone.models.fusing import fuse
from keras_mobileone.models.tasks import task_config
from keras_mobileone.quantization.calibration import CALIBRATION_IMAGES
from keras_mobileone.reports import Report
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.recipe import Recipe
from keras_mobileone.training.task import Task
from keras_mobileone.training.trainer import Trainer

TRAINED = "model.keras"
DEPLOY = "deploy.keras"


@dataclass(frozen=True)
class TrainingReport(Report):
    """Result of `keras_mobileone.train`.

    Attributes:
        directory: Directory of the run. It holds `model.keras` (train-time) and `deploy.keras`,
            which both return logits, `classes.txt`, `log.csv`, `recipe.json`, `report.json` and
            `checkpoint.safetensors`.
        recipe: The recipe.
        classes: Number of classes.
        training_images, validation_images: Number of images in the data.
        steps: Number of steps of the whole training.
        history: A row of metrics for each epoch.
        top1: Number of validation images whose label is the best class, for the train-time and the
            deploy model. None without validation images, and for other tasks.
        agreement: Number of validation images for which both models give the same best class; for
            segmentation, the fraction of pixels. None for detection.
        averaged: Whether the finished model has the averaged weights.
        exports: TFLite files by precision.
        skipped: Files that could not be decoded and were left out.
        seconds: Seconds of training, including validation, over all resumptions.
        conditions: Devices and versions of the run.
        scores: Metrics of validation of the train-time and the deploy model, for segmentation
            (`miou`) and detection (`map`, `map50`, …).
    """

    directory: str
    recipe: Recipe
    classes: int
    training_images: int
    validation_images: int
    steps: int
    history: list[dict]
    top1: dict[str, int] | None
    agreement: float | None
    averaged: bool
    exports: dict[str, str]
    skipped: list[str]
    seconds: float
    conditions: dict[str, str]
    scores: dict[str, dict[str, float]] | None = None


def save_models(
    recipe: Recipe, trainer: Trainer, directory: Path, classes: Sequence[str]
) -> dict[str, keras.Model]:
    """Writes the finished model, train-time and fused, both in float32 and with logits.

    The models have the averaged weights if the recipe has averages. Segmentation models and
    detectors carry the names of their classes.
    """
    model = trainer.task.build(recipe, trainer.classes, recipe.input_size, dtype="float32")
    variables = trainer.averages or trainer.network.weights
    model.set_weights([keras.ops.convert_to_numpy(variable) for variable in variables])
    if task_config(model) is not None:
        set_image_config(model, replace(image_config(model), labels=tuple(labels_of(classes))))
    models = {TRAINED: model, DEPLOY: fuse(model)}
    for name, finished in models.items():
        with atomic_write(directory / name) as temporary:
            finished.save(temporary)
    return models


def export_files(
    model: keras.Model,
    recipe: Recipe,
    source: Source,
    precisions: Sequence[str],
    directory: Path,
    bad: BadImages,
    task: Task,
) -> dict[str, str]:
    """Writes TFLite files of the fused model. Training images calibrate int8.

    Returns:
        The names of the files by precision.
    """
    files = {}
    for precision in precisions:
        path = directory / f"model_{precision}.tflite"
        calibration = (
            task.calibration_images(source, recipe, CALIBRATION_IMAGES, bad)
            if precision in INTEGER
            else None
        )
        export_tflite(model, path, precision, calibration, labels=labels_of(source.classes))
        files[precision] = path.name
    return files


def conditions(recipe: Recipe, devices: Devices) -> dict[str, str]:
    """Returns the devices and versions of a run."""
    return {
        "backend": keras.backend.backend(),
        "devices": f"{devices.replicas} on {devices.workers} machines",
        "cores": str(os.cpu_count()),
        "dtype": recipe.dtype,
        "keras": keras.__version__,
        keras.backend.backend(): version(keras.backend.backend()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
