"""The tasks of segmentation and detection, as parts of the training loop."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mobileone.compat import run_through_graph
from keras_mobileone.data.dense.augmentation import DenseAugmentation
from keras_mobileone.data.dense.batches import (
    evaluation_batches,
    sample_stretched,
    training_batches,
)
from keras_mobileone.data.dense.description import DETECT, SEGMENT, DenseImage
from keras_mobileone.data.dense.formats import open_dense
from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.data.dense.source import DenseSource
from keras_mobileone.data.image_config import ImageConfig, set_image_config
from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.data.images import load_image, spread, stretched
from keras_mobileone.data.pipeline import BadImages
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.dense_pictures import (
    SHOWN_SCORE,
    DetectedPhotograph,
    SegmentedPhotograph,
)
from keras_mobileone.evaluation.detection import coco_scores, detections_of, require_coco_eval
from keras_mobileone.evaluation.segmentation import mask_confusion, mean_iou
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.decoding import decode_outputs
from keras_mobileone.models.detection.loss import (
    BACKGROUND,
    BOXES_OUTPUT,
    CLASSES_OUTPUT,
    detection_loss,
    detection_targets,
    smooth_l1,
)
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import TaskConfig, build_task, task_config
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.training.task import Task, Tensor


@dataclass
class DenseTask(Task):
    """What segmentation and detection have in common.

    The networks have a fixed input size. For each size of the recipe there is a graph over the
    layers of the network that is trained.

    Attributes:
        labels: Path of a file of class names, or the names; see `open_dense`.
        data_format: Name of the format of the data, or None to recognize it.
        skip_bad: Whether to leave out bad annotations.
        networks: The graphs by (height, width).
    """

    labels: str | os.PathLike | Sequence[str] | None = None
    data_format: str | None = None
    skip_bad: bool = False
    networks: dict[tuple[int, int], keras.Model] = field(default_factory=dict)

    def config(self, recipe: Recipe, classes: int) -> TaskConfig:
        """Returns the configuration of the head."""
        raise NotImplementedError

    def open(self, data: str | os.PathLike, split: str, train: Any = None) -> DenseSource | None:
        labels: Any = self.labels
        if train is not None:
            labels = train.data.code or train.classes
        found = open_dense(
            data,
            self.name,
            split,
            format=self.data_format,
            labels=labels,
            skip_bad=self.skip_bad,
        )
        return None if found is None else DenseSource(found)

    def describe(self, source: DenseSource) -> str:
        return source.data.describe()

    def left_out(self, source: DenseSource) -> list[str]:
        return list(source.data.problems)

    def training_batches(
        self, source: DenseSource, recipe: Recipe, phase: Phase, batch_size: int, **position: Any
    ) -> Any:
        augmentation = DenseAugmentation(
            (phase.image_size, phase.image_size),
            recipe.scale,
            recipe.expand,
            recipe.object_crop,
            photometric=phase.strength,
        )
        return training_batches(source, augmentation, batch_size, seed=recipe.seed, **position)

    def evaluation_batches(
        self, source: DenseSource, recipe: Recipe, batch_size: int, **share: Any
    ) -> Any:
        return evaluation_batches(source, recipe.input_size, batch_size, **share)

    def calibration_images(
        self, source: DenseSource, recipe: Recipe, count: int, bad: BadImages
    ) -> np.ndarray:
        return sample_stretched(source, count, recipe.input_size, recipe.seed, bad)

    def build(
        self,
        recipe: Recipe,
        classes: int,
        size: tuple[int, int] | None = None,
        *,
        synchronized: bool = False,
        dtype: str | None = None,
    ) -> keras.Model:
        size = size or recipe.input_size
        image = keras.Input((*size, 3), name="image")
        config = self.config(recipe, classes)
        model = build_task(config, recipe.variant, image, synchronized=synchronized, dtype=dtype)
        return set_image_config(model, ImageConfig(size, crop_fraction=1.0, stretch=True))

    def prepare(self, network: keras.Model, recipe: Recipe, size: tuple[int, int]) -> None:
        if size in self.networks:
            return
        if size == tuple(network.input_shape[1:3]):
            self.networks[size] = network
            return
        classes = self.classes_of(network)
        other = self.build(recipe, classes, size, dtype=recipe.dtype)
        self.networks[size] = with_layers_of(network, other)

    @staticmethod
    def classes_of(network: keras.Model) -> int:
        """Returns the number of classes of a network of this package."""
        config = task_config(network)
        if config is None:
            raise InputValueError(f"Expected a network with a task. Received: {network.name!r}.")
        return config.classes

    def outputs(self, network: keras.Model, images: Tensor, training: bool) -> Tensor:
        size = tuple(images.shape[1:3])
        return super().outputs(self.networks.get(size, network), images, training)

    def pictures(
        self, predict: Callable[[Any], Tensor], source: DenseSource, recipe: Recipe, count: int
    ) -> list[np.ndarray]:
        images, photographs = [], []
        for image in spread(source.data.images, count):
            with suppress(InputValueError):  # validation names or skips broken files
                photographs.append(load_image(image.path))
                images.append(image)
        if not images:
            return []
        pixels = np.stack([stretched(photograph, recipe.input_size) for photograph in photographs])
        found = self.found(predict(pixels), images, source.classes, recipe.input_size)
        return [
            result.draw(photograph) for result, photograph in zip(found, photographs, strict=True)
        ]

    def found(
        self,
        outputs: Tensor,
        images: Sequence[DenseImage],
        classes: Sequence[str],
        size: tuple[int, int],
    ) -> list[Any]:
        """Converts outputs for images of (height, width) pixels to what can be drawn."""
        raise NotImplementedError


def with_layers_of(network: keras.Model, other: keras.Model) -> keras.Model:
    """Returns the graph of `other` over the layers of `network` that have variables.

    Args:
        network: The model whose variables are used.
        other: The same architecture for another input size.
    """
    image = keras.Input(other.input_shape[1:], name="image")

    def call(operation: Any, *arguments: Any, **keywords: Any) -> Any:
        if getattr(operation, "variables", None):
            operation = network.get_layer(operation.name)
        return operation(*arguments, **keywords)

    return keras.Model(image, run_through_graph(other, image, call))


@dataclass
class Segmentation(DenseTask):
    """Classifies each pixel; the metric is the mean IoU at the network's input size."""

    name = SEGMENT

    def config(self, recipe: Recipe, classes: int) -> SegmentationConfig:
        return SegmentationConfig(classes, **recipe.head)

    def losses(self, targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
        valid, targets = self._valid(targets)
        logs = ops.log_softmax(outputs)
        right = ops.take_along_axis(logs, ops.expand_dims(targets, -1), axis=-1)[..., 0]
        losses = -(1 - smoothing) * right
        if smoothing:
            losses = losses - smoothing * ops.mean(logs, axis=-1)
        return ops.sum(losses * valid) / ops.maximum(ops.sum(valid), 1)

    def divergence(self, teacher: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        # Pixels without a class count too, because the teacher knows them.
        return ops.mean(
            keras.losses.kl_divergence(
                ops.softmax(teacher / temperature), ops.softmax(outputs / temperature)
            )
        )

    def check_teacher(self, teacher: keras.Model, recipe: Recipe, classes: int) -> None:
        shape = teacher.output_shape
        if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != classes:
            raise InputValueError(
                f"Expected a teacher with outputs (batch, height, width, {classes}). Received: "
                f"{teacher.name!r} with outputs of shape {shape}. Pass a segmentation model of "
                "the same classes."
            )

    def teacher_outputs(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(outputs.shape[1:3]) == tuple(size):
            return outputs
        return ops.image.resize(outputs, size)

    def make_metrics(self, classes: int) -> list[keras.metrics.Metric]:
        return [
            keras.metrics.MeanIoU(classes, name="miou", ignore_class=IGNORE, sparse_y_pred=False)
        ]

    def update_metrics(
        self, metrics: Sequence[Any], targets: Tensor, outputs: Tensor, weights: Any
    ) -> None:
        for metric in metrics:  # padding has no class
            metric.update_state(targets, outputs)

    def loss_weight(self, targets: Tensor, weights: Any) -> Any:
        return ops.sum(self._valid(targets)[0])

    def compare(
        self, models: dict[str, keras.Model], recipe: Recipe, source: DenseSource, bad: BadImages
    ) -> dict[str, Any]:
        confusions: dict[str, Any] = dict.fromkeys(models, 0)
        agreed = pixels = 0
        batches = self.evaluation_batches(source, recipe, recipe.batch_size, bad=bad)
        for images, masks, weights in batches.as_numpy_iterator():
            real = weights > 0
            images, masks = preprocess_input(images[real]), masks[real]
            answers = {name: m.predict_on_batch(images).argmax(-1) for name, m in models.items()}
            for name, answer in answers.items():
                confusions[name] = confusions[name] + mask_confusion(
                    masks, answer, len(source.classes)
                )
            first, *others = answers.values()
            agreed += int(np.all([answer == first for answer in others], axis=0).sum())
            pixels += first.size
        scores = {name: {"miou": mean_iou(np.asarray(c))} for name, c in confusions.items()}
        return {"scores": scores, "agreement": agreed / pixels if pixels else None}

    def found(
        self,
        outputs: Tensor,
        images: Sequence[DenseImage],
        classes: Sequence[str],
        size: tuple[int, int],
    ) -> list[Any]:
        return [
            SegmentedPhotograph(image.size, {}, tuple(classes), np.asarray(logits))
            for image, logits in zip(images, outputs, strict=True)
        ]

    @staticmethod
    def _valid(targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which pixels have a class, as float32, and their classes, 0 for the others."""
        targets = ops.cast(targets, "int32")
        valid = targets != IGNORE
        return ops.cast(valid, "float32"), ops.where(valid, targets, 0)


@dataclass
class Detection(DenseTask):
    """Finds objects; the metrics of validation are COCO's average precisions."""

    name = DETECT
    least_classes = 1
    trained: Any = None
    size: tuple[int, int] = (0, 0)

    def config(self, recipe: Recipe, classes: int) -> DetectionConfig:
        return DetectionConfig(classes, **recipe.head)

    def open(self, data: str | os.PathLike, split: str, train: Any = None) -> DenseSource | None:
        require_coco_eval()  # rather than after the first epoch
        return super().open(data, split, train)

    def prepare(self, network: keras.Model, recipe: Recipe, size: tuple[int, int]) -> None:
        super().prepare(network, recipe, size)
        self.trained = task_config(network)

    def outputs(self, network: keras.Model, images: Tensor, training: bool) -> Tensor:
        self.size = tuple(images.shape[1:3])
        return super().outputs(network, images, training)

    def losses(self, targets: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
        parts = detection_loss(targets, outputs, self.trained, self.size)
        return sum(parts.values())

    def divergence(self, teacher: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        """Compares the classes and boxes of anchors, weighted by the teacher's objectness."""
        soft = ops.softmax(teacher[CLASSES_OUTPUT] / temperature)
        objects = ops.stop_gradient(1 - ops.softmax(teacher[CLASSES_OUTPUT])[..., 0])
        classes = keras.losses.kl_divergence(
            soft, ops.softmax(outputs[CLASSES_OUTPUT] / temperature)
        )
        boxes = ops.sum(smooth_l1(outputs[BOXES_OUTPUT] - teacher[BOXES_OUTPUT]), axis=-1)
        total = ops.maximum(ops.sum(objects), 1.0)
        return ops.sum(objects * (classes + boxes / temperature**2)) / total

    def check_teacher(self, teacher: keras.Model, recipe: Recipe, classes: int) -> None:
        sizes = {(phase.image_size, phase.image_size) for phase in recipe.phases}
        size = teacher.input_shape[1:3]
        if task_config(teacher) != self.config(recipe, classes) or sizes != {tuple(size)}:
            raise InputValueError(
                f"Expected a teacher with the anchors of recipe {recipe.name!r} and {classes} "
                f"classes. Received: {teacher.name!r}. Pass a detector with the same head and "
                "input size."
            )

    def make_metrics(self, classes: int) -> list[keras.metrics.Metric]:
        return []

    def update_metrics(
        self, metrics: Sequence[Any], targets: Tensor, outputs: Tensor, weights: Any
    ) -> None:
        pass

    def loss_weight(self, targets: Tensor, weights: Any) -> Any:
        _, classes = detection_targets(targets, self.trained, self.size)  # padding has no objects
        return ops.sum(ops.cast(classes > BACKGROUND, "float32"))

    def scores(
        self, trainer: Any, source: DenseSource, recipe: Recipe, bad: BadImages
    ) -> dict[str, float]:
        return self._precisions(trainer.predict_on_batch, source, recipe, self.trained, bad)

    def compare(
        self, models: dict[str, keras.Model], recipe: Recipe, source: DenseSource, bad: BadImages
    ) -> dict[str, Any]:
        def predictor(model: keras.Model) -> Any:
            return lambda pixels: model.predict_on_batch(preprocess_input(pixels))

        config = self.config(recipe, len(source.classes))
        scores = {
            name: self._precisions(predictor(model), source, recipe, config, bad)
            for name, model in models.items()
        }
        return {"scores": scores}

    def found(
        self,
        outputs: Tensor,
        images: Sequence[DenseImage],
        classes: Sequence[str],
        size: tuple[int, int],
    ) -> list[Any]:
        config = self.trained
        decoded = decode_outputs(outputs, config, size, score_threshold=SHOWN_SCORE)
        arrays = {name: ops.convert_to_numpy(value) for name, value in decoded.items()}
        return [
            DetectedPhotograph(image.size, [], tuple(classes), detections)
            for image, detections in zip(images, detections_of(arrays, size, images), strict=True)
        ]

    def _precisions(
        self, predict: Any, source: DenseSource, recipe: Recipe, config: Any, bad: BadImages
    ) -> dict[str, float]:
        """Returns COCO's metrics of a function from uint8 images to outputs."""
        found: list[Any] = []
        batches = self.evaluation_batches(source, recipe, recipe.batch_size, bad=bad)
        for images, _, _ in batches.as_numpy_iterator():
            outputs = decode_outputs(predict(images), config, recipe.input_size)
            outputs = {name: ops.convert_to_numpy(value) for name, value in outputs.items()}
            following = source.data.images[len(found) : len(found) + len(images)]
            found += detections_of(outputs, recipe.input_size, following)
        scores = coco_scores(source.data.images, found, source.classes)
        names = ("map", "map50", "map_small", "map_medium", "map_large")
        values = {name: getattr(scores, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}
