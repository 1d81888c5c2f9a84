"""`evaluate_robustness`: accuracy on ImageNet-A, -R, -Sketch, -V2 and -ReaL."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.imagenet import NUM_CLASSES
from keras_mobileone.data.images import spread, square_side
from keras_mobileone.data.robustness_sets import ROBUSTNESS_SETS, open_robustness_set
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.accuracy import check_selection, predict_crops
from keras_mobileone.evaluation.metrics import best_classes
from keras_mobileone.evaluation.predictor import Predictor, as_predictor
from keras_mobileone.reports import Report


@dataclass(frozen=True)
class RobustnessEvaluation(Report):
    """Result of `evaluate_robustness`.

    Attributes:
        model: Name of the model or file.
        benchmark: Name of the test set, such as `"imagenet-a"`.
        images: Number of images that were scored.
        scored_classes: Number of outputs among which the best class is sought: 200 for ImageNet-A
            and ImageNet-R, otherwise 1,000.
        top1: Number of images with a right best class.
        top5: Number of images with a right class among the best five.
        left_out: Number of images without a label, which ImageNet-ReaL has.
        image_size: (height, width) in pixels.
        crop_fraction: Crop fraction of the evaluation transform.
    """

    model: str
    benchmark: str
    images: int
    scored_classes: int
    top1: int
    top5: int
    left_out: int
    image_size: tuple[int, int]
    crop_fraction: float


def evaluate_robustness(
    model: "keras.Model | Predictor | str | os.PathLike",
    directory: str | os.PathLike,
    benchmark: str,
    *,
    image_config: ImageConfig | None = None,
    crop_fraction: float | None = None,
    real_labels: str | os.PathLike | None = None,
    limit: int | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> RobustnessEvaluation:
    """Measures the accuracy of an ImageNet classifier on a robustness test set.

    ImageNet-A and ImageNet-R contain 200 of the 1,000 classes, and only the outputs of these are
    compared, as their authors do. For ImageNet-ReaL every class of an image's label set is right.

    Args:
        model: Keras model, path of a `.keras` or `.tflite` file, or predictor, with 1,000 outputs.
        directory: Directory of the test set, in the layout in which it is distributed, or
            `"tfds:NAME"`, a data set that tensorflow-datasets has prepared.
        benchmark: `"imagenet-a"`, `"imagenet-r"`, `"imagenet-sketch"`, `"imagenet-v2"` or
            `"imagenet-real"`. See `evaluate_corruptions` for ImageNet-C.
        image_config: How `model` takes images. None: according to its graph or its metadata.
        crop_fraction: Side of the center crop divided by the short side of the resized image. None:
            the crop fraction in the configuration of `model`.
        real_labels: The file `real.json`, for `"imagenet-real"`.
        limit: Largest number of images to evaluate, spread evenly over the sorted list.
        threads: Number of CPU threads for TFLite files.
        progress: Called with (done, total) after each batch.

    Returns:
        A `RobustnessEvaluation`.

    Raises:
        FileNotFoundError: If `directory`, a model file or `real.json` does not exist.
        ValueError: If an argument is out of range, if the folders are not those of the set, or if
            the model does not have 1,000 outputs.

    Examples:
        ```python
        model = keras_mobileone.MobileOneS0(weights="imagenet", deploy=True)
        result = keras_mobileone.evaluate_robustness(model, "imagenet-a/", "imagenet-a")
        print(f"{100 * result.top1 / result.images:.2f} %")
        ```
    """
    check_selection(limit, crop_fraction)
    images = open_robustness_set(benchmark, directory, real_labels)
    predictor = as_predictor(model, threads, image_config)
    if predictor.classes != NUM_CLASSES:
        raise InputValueError(
            f"{ROBUSTNESS_SETS[benchmark].title} needs a classifier of ImageNet's {NUM_CLASSES} "
            f"classes. Received: {predictor.name} with {predictor.classes or 'other'} outputs."
        )
    chosen = spread(range(images.images), limit or images.images)
    crop_fraction = crop_fraction or predictor.image_config.crop_fraction
    size = square_side(predictor.image_config.image_size)
    labels: list[tuple[int, ...]] = []

    def crops() -> Iterator[np.ndarray]:
        for crop, right in images.examples(chosen, size, crop_fraction):
            labels.append(right)
            yield crop

    (scores,) = predict_crops([predictor], crops(), len(chosen), progress)
    outputs = np.array(images.outputs)
    best = outputs[best_classes(scores[:, outputs])]
    right = [np.isin(row, label) for row, label in zip(best, labels, strict=True)]
    return RobustnessEvaluation(
        model=predictor.name,
        benchmark=benchmark,
        images=len(chosen),
        scored_classes=len(outputs),
        top1=sum(bool(row[0]) for row in right),
        top5=sum(bool(row.any()) for row in right),
        left_out=images.left_out,
        image_size=predictor.image_config.image_size,
        crop_fraction=crop_fraction,
    )
