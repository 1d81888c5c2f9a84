"""What the training loop asks of a task, and the task of classifying whole images.

There is one loop, `keras_mobileone.training.train`, one `Trainer` and one form of checkpoint. A
task supplies what depends on the kind of the model: the data, the network, the loss, the metrics,
and the comparison of the finished models. Resuming, averages, distillation and several devices do
not depend on it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.data.pipeline import (
    Augmentation,
    BadImages,
    evaluation_batches,
    sample_crops,
    training_batches,
)
from keras_mobileone.data.sources import Source, describe, open_source
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.network import build
from keras_mobileone.training.recipe import CLASSIFY, Phase, Recipe

Tensor = Any  # a tensor of Keras' backend, or a structure of tensors
COMPARED_BATCH = 32  # images in a batch when finished models are compared


class Task(ABC):
    """A kind of model that `Trainer` trains.

    Attributes:
        name: Name of the task, as in `Recipe.task`.
        least_classes: Smallest number of classes that makes sense.
    """

    name: ClassVar[str]
    least_classes: ClassVar[int] = 2

    # Data.

    @abstractmethod
    def open(self, data: str | os.PathLike, split: str, train: Any = None) -> Any:
        """Opens a split, or returns None without it. `train` is the source of training images."""

    @abstractmethod
    def describe(self, source: Any) -> str:
        """Returns a line about the images of a source."""

    def left_out(self, source: Any) -> list[str]:
        """Returns a sentence for each annotation that was left out."""
        return []

    @abstractmethod
    def training_batches(
        self, source: Any, recipe: Recipe, phase: Phase, batch_size: int, **position: Any
    ) -> Any:
        """Returns the infinite dataset of (images, targets); see `data.pipeline`."""

    @abstractmethod
    def evaluation_batches(self, source: Any, recipe: Recipe, batch_size: int, **share: Any) -> Any:
        """Returns the dataset of (images, targets, weights) of all images."""

    @abstractmethod
    def calibration_images(
        self, source: Any, recipe: Recipe, count: int, bad: BadImages
    ) -> np.ndarray:
        """Returns training images as the finished model takes them, uint8, for int8."""

    # Network.

    @abstractmethod
    def build(
        self,
        recipe: Recipe,
        classes: int,
        size: tuple[int, int] | None = None,
        *,
        synchronized: bool = False,
        dtype: str | None = None,
    ) -> keras.Model:
        """Returns a train-time network with random weights.

        Args:
            recipe: Recipe with the variant and the head.
            classes: Number of classes.
            size: (height, width) of the images, or None for the network that is trained.
            synchronized: Whether BatchNorm gathers its statistics from all devices.
            dtype: Dtype policy.
        """

    def prepare(self, network: keras.Model, recipe: Recipe, size: tuple[int, int]) -> None:
        """Is called outside of any graph before images of another size are passed to `outputs`."""
        return  # most networks take any size

    def outputs(self, network: keras.Model, images: Tensor, training: bool) -> Tensor:
        """Returns the float32 outputs of the network for normalized images."""
        return keras.tree.map_structure(
            lambda tensor: ops.cast(tensor, "float32"), network(images, training=training)
        )

    # Loss and metrics.

    @abstractmethod
    def losses(self, targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
        """Returns the losses of the images (batch,), or one loss of the batch ().

        The loss of a batch is a mean over what `loss_weight` counts.
        """

    @abstractmethod
    def divergence(self, teacher: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        """Returns how far the outputs are from those of a teacher, with the shape of `losses`."""

    @abstractmethod
    def check_teacher(self, teacher: keras.Model, recipe: Recipe, classes: int) -> None:
        """Raises ValueError unless a teacher has the outputs that `divergence` compares."""

    def teacher_outputs(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:
        """Converts a teacher's outputs to the size of the images of the student."""
        return outputs

    @abstractmethod
    def make_metrics(self, classes: int) -> list[keras.metrics.Metric]:
        """Returns new metrics besides the loss."""

    @abstractmethod
    def update_metrics(
        self, metrics: Sequence[Any], targets: Tensor, outputs: Tensor, weights: Any
    ) -> None:
        """Updates the metrics with a batch, whose padding has weight 0 unless `weights` is None."""

    def loss_weight(self, targets: Tensor, weights: Any) -> Any:
        """Returns the weights with which `losses` enter the mean over all batches and replicas."""
        return weights

    def scores(self, trainer: Any, source: Any, recipe: Recipe, bad: BadImages) -> dict[str, float]:
        """Returns further metrics of validation, which need all outputs at once."""
        return {}

    def pictures(
        self, predict: Callable[[Any], Tensor], source: Any, recipe: Recipe, count: int
    ) -> list[np.ndarray]:
        """Returns pictures of predictions, uint8 (height, width, 3), for tasks that have them.

        Args:
            predict: Function from uint8 pixels (batch, height, width, 3) to outputs.
            source: The images, of which `count` are taken.
            recipe: The recipe.
            count: Largest number of pictures.
        """
        return []

    @abstractmethod
    def compare(
        self, models: dict[str, keras.Model], recipe: Recipe, source: Any, bad: BadImages
    ) -> dict[str, Any]:
        """Evaluates the finished models: fields of `TrainingReport` by name."""


class Classification(Task):
    """Classifies whole images with label smoothing; the metrics are top-1 and top-5."""

    name = CLASSIFY

    def open(
        self, data: str | os.PathLike, split: str, train: Source | None = None
    ) -> Source | None:
        return open_source(data, split, None if train is None else train.classes)

    def describe(self, source: Source) -> str:
        return describe(source)

    def training_batches(
        self, source: Source, recipe: Recipe, phase: Phase, batch_size: int, **position: Any
    ) -> Any:
        augmentation = Augmentation(
            phase.image_size, recipe.crop_area, recipe.augmentation, phase.strength
        )
        return training_batches(source, augmentation, batch_size, seed=recipe.seed, **position)

    def evaluation_batches(
        self, source: Source, recipe: Recipe, batch_size: int, **share: Any
    ) -> Any:
        fraction = recipe.variant.crop_fraction
        return evaluation_batches(source, recipe.image_size, fraction, batch_size, **share)

    def calibration_images(
        self, source: Source, recipe: Recipe, count: int, bad: BadImages
    ) -> np.ndarray:
        fraction = recipe.variant.crop_fraction
        return sample_crops(source, count, recipe.image_size, fraction, recipe.seed, bad)

    def build(
        self,
        recipe: Recipe,
        classes: int,
        size: tuple[int, int] | None = None,
        *,
        synchronized: bool = False,
        dtype: str | None = None,
    ) -> keras.Model:
        return build(
            recipe.variant,
            keras.Input((*(size or (None, None)), 3), name="image"),
            classes=classes,
            classifier_activation=None,
            synchronized=synchronized,
            dtype=dtype,
        )

    def losses(self, targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
        classes = outputs.shape[-1]
        targets = ops.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes
        return keras.losses.categorical_crossentropy(targets, outputs, from_logits=True)

    def divergence(self, teacher: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        return keras.losses.kl_divergence(
            ops.softmax(teacher / temperature), ops.softmax(outputs / temperature)
        )

    def check_teacher(self, teacher: keras.Model, recipe: Recipe, classes: int) -> None:
        if teacher.output_shape != (None, classes):
            raise InputValueError(
                f"Expected a teacher with one output for each of the {classes} classes. Received: "
                f"{teacher.name!r} with outputs of shape {teacher.output_shape}."
            )

    def make_metrics(self, classes: int) -> list[keras.metrics.Metric]:
        return [keras.metrics.Mean(name="top1"), keras.metrics.Mean(name="top5")]

    def update_metrics(
        self, metrics: Sequence[Any], targets: Tensor, outputs: Tensor, weights: Any
    ) -> None:
        classes = outputs.shape[-1]
        for metric, count in zip(metrics, (1, min(5, classes)), strict=True):
            hits = ops.cast(ops.in_top_k(ops.cast(targets, "int32"), outputs, count), "float32")
            metric.update_state(hits, sample_weight=weights)

    def compare(
        self, models: dict[str, keras.Model], recipe: Recipe, source: Source, bad: BadImages
    ) -> dict[str, Any]:
        batches = self.evaluation_batches(source, recipe, COMPARED_BATCH, bad=bad)
        right, agreed = dict.fromkeys(models, 0), 0
        for pixels, labels, weights in batches.as_numpy_iterator():
            images, real = preprocess_input(pixels), weights > 0
            answers = {name: m.predict_on_batch(images).argmax(1) for name, m in models.items()}
            for name, answer in answers.items():
                right[name] += int(((answer == labels) & real).sum())
            first, *others = answers.values()
            same = real.copy()
            for answer in others:
                same &= answer == first
            agreed += int(same.sum())
        return {"top1": right, "agreement": agreed}
