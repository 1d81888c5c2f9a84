"""`evaluate_segmentation` and `evaluate_detection`: mIoU and mAP on images with masks or boxes."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_mobileone.data.dense.batches import evaluation_batches
from keras_mobileone.data.dense.description import DenseData
from keras_mobileone.data.dense.formats import open_dense
from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.data.dense.source import DenseSource
from keras_mobileone.data.folders import some
from keras_mobileone.data.images import spread
from keras_mobileone.data.pipeline import BadImages, broken_image, first_broken
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.accuracy import check_selection
from keras_mobileone.evaluation.dense_predictor import (
    DensePredictor,
    Detector,
    Segmenter,
    Source,
    load_detector,
    load_segmenter,
)
from keras_mobileone.evaluation.detection import (
    Detections,
    DetectionScores,
    coco_scores,
    require_coco_eval,
)
from keras_mobileone.evaluation.segmentation import (
    iou_by_class,
    mask_confusion,
    mean_iou,
    pixel_accuracy,
)
from keras_mobileone.reports import Report

BATCH_SIZE = 8
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DenseEvaluation(Report):
    """What the results of `evaluate_segmentation` and `evaluate_detection` have in common.

    Attributes:
        model: Name of the model or file.
        data: Directory and split.
        images: Number of images that were evaluated.
        image_size: (height, width) of the input.
        images_per_second: Speed of the evaluation, including the decoding of the files.
        left_out: A sentence for each bad annotation, and the name of each broken file.
    """

    model: str
    data: str
    images: int
    image_size: tuple[int, int]
    images_per_second: float
    left_out: list[str]


@dataclass(frozen=True)
class SegmentationEvaluation(DenseEvaluation):
    """Result of `evaluate_segmentation`.

    Pixels are counted at the input size, as in training.

    Attributes:
        model, data, images, image_size, images_per_second, left_out: See `DenseEvaluation`.
        miou: Mean IoU of the classes that occur as label or prediction, in [0, 1].
        pixel_accuracy: Fraction of pixels whose class is right.
        iou_by_class: IoU of each class; None for classes that never occur.
        confusion: Number of pixels for each pair of label (row) and predicted class (column), in
            the order of `iou_by_class`.
    """

    miou: float
    pixel_accuracy: float
    iou_by_class: dict[str, float | None]
    confusion: list[list[int]]


@dataclass(frozen=True)
class DetectionEvaluation(DenseEvaluation):
    """Result of `evaluate_detection`.

    Attributes:
        model, data, images, image_size, images_per_second, left_out: See `DenseEvaluation`.
        objects: Number of objects in the images, without those that are ignored.
        scores: COCO's average precisions, in [0, 1].
    """

    objects: int
    scores: DetectionScores


def evaluate_segmentation(
    model: Source | Segmenter,
    data: str | os.PathLike | DenseData,
    *,
    split: str = "val",
    format: str | None = None,
    labels: str | os.PathLike | Sequence[str] | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> SegmentationEvaluation:
    """Measures the mean IoU of a segmentation model on images with masks.

    Images and masks are resized to the input of the model as a whole, as in the validation of
    `train`, whose numbers these are.

    Args:
        model: Keras model, path of a `.keras` or `.tflite` file, or `Segmenter`.
        data: Directory of the data set, see `open_dense`, or an opened data set.
        split: `"val"` or `"train"`. All images of a data set without splits are `"train"`.
        format: Name of the format. By default, it is recognized.
        labels: Path of a file of class names (and colors) of the masks, or the names, in the order
            of the outputs of the model. By default, the names in the data set are matched with
            those that the model carries.
        skip_bad: Whether to leave out broken files and bad annotations instead of raising an error.
        limit: Largest number of images to evaluate, spread evenly over the sorted list.
        threads: Number of CPU threads for TFLite files.
        progress: Called with (done, total) after each batch.

    Returns:
        A `SegmentationEvaluation`.

    Raises:
        FileNotFoundError: If the data or a model file does not exist.
        ValueError: If the model is not made for segmentation, if the classes of the data are not
            those of the model, or if a file is broken and such are not skipped.

    Examples:
        >>> from keras_mobileone.data.dense.shapes import write_shapes
        >>> write_shapes("shapes", images=4)
        >>> model = km.MobileOneDeepLabV3("s0", 3, (64, 64, 3), weights=None, deploy=True)
        >>> result = km.evaluate_segmentation(model, "shapes")
        >>> result.images, sorted(result.iou_by_class)
        (4, ['background', 'circle', 'square'])
    """
    check_selection(limit, None)
    segmenter = load_segmenter(model, threads)
    opened = _opened(data, segmenter, split, format, labels, skip_bad, limit)
    names, positions = matched_classes(opened, segmenter, named=labels is not None)
    codes = np.full(256, IGNORE, np.uint8)  # class of the model by label in the data
    codes[: len(positions)] = positions
    confusion = np.zeros((segmenter.classes, segmenter.classes), np.int64)
    bad, start, images = BadImages(skip_bad), time.perf_counter(), 0
    for pixels, masks, _ in _batches(opened, segmenter.size, bad, progress):
        confusion += mask_confusion(codes[masks], segmenter(pixels).argmax(-1), segmenter.classes)
        images += len(pixels)
    _require_some(images, opened)
    seconds = time.perf_counter() - start
    ious = iou_by_class(confusion)
    return SegmentationEvaluation(
        **_common(segmenter, opened, images, seconds, bad),
        miou=mean_iou(confusion),
        pixel_accuracy=pixel_accuracy(confusion),
        iou_by_class={
            name: None if np.isnan(iou) else float(iou)
            for name, iou in zip(names, ious, strict=True)
        },
        confusion=confusion.tolist(),
    )


def evaluate_detection(
    model: Source | Detector,
    data: str | os.PathLike | DenseData,
    *,
    split: str = "val",
    format: str | None = None,
    labels: str | os.PathLike | Sequence[str] | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> DetectionEvaluation:
    """Measures COCO's average precisions of a detector on images with boxes.

    Images are resized to the input of the model as a whole; boxes are compared in pixels of the
    images. COCO's metrics take the 100 best detections of an image.

    Args:
        model: Keras model, path of a `.keras` or `.tflite` file, or `Detector`.
        data: Directory of the data set in the format of VOC, COCO or YOLO, see `open_dense`, or an
            opened data set.
        split: `"val"` or `"train"`. All images of a data set without splits are `"train"`.
        format: Name of the format. By default, it is recognized.
        labels: Path of a file of class names, or the names, in the order of the outputs of the
            model. By default, the names in the data set are matched with those that the model
            carries.
        skip_bad: Whether to leave out broken files and bad annotations instead of raising an error.
        limit: Largest number of images to evaluate, spread evenly over the sorted list.
        threads: Number of CPU threads for TFLite files.
        progress: Called with (done, total) after each batch.

    Returns:
        A `DetectionEvaluation`.

    Raises:
        FileNotFoundError: If the data or a model file does not exist.
        ImportError: If faster-coco-eval is not installed.
        ValueError: If the model is not a detector, if the classes of the data are not those of the
            model, or if a file is broken and such are not skipped.

    Examples:
        ```python
        result = keras_mobileone.evaluate_detection("model.keras", "bccd/")
        print(result.scores.map50)
        ```
    """
    require_coco_eval()  # rather than after the last image
    check_selection(limit, None)
    detector = load_detector(model, threads)
    opened = _opened(data, detector, split, format, labels, skip_bad, limit)
    names, positions = matched_classes(opened, detector, named=labels is not None)
    codes = np.array(positions, np.int64)
    bad, start = BadImages(skip_bad), time.perf_counter()
    truth, found = [], []
    for pixels, _, indices in _batches(opened, detector.size, bad, progress):
        for index, detections in zip(indices, detector(pixels), strict=True):
            image = opened.images[index]
            truth.append(replace(image, labels=codes[image.labels]))
            found.append(rescaled(detections, detector.size, image.size))
    _require_some(len(truth), opened)
    seconds = time.perf_counter() - start
    return DetectionEvaluation(
        **_common(detector, opened, len(truth), seconds, bad),
        objects=sum(int((~image.ignored).sum()) for image in truth),
        scores=coco_scores(truth, found, names),
    )


def rescaled(found: Detections, size: tuple[int, int], other: tuple[int, int]) -> Detections:
    """Rescales boxes of an image of `size`, (height, width), to `other`, its size elsewhere."""
    scale = np.array([other[1] / size[1], other[0] / size[0]] * 2)
    return replace(found, boxes=found.boxes * scale)


def matched_classes(
    data: DenseData, model: DensePredictor, named: bool
) -> tuple[Sequence[str], list[int]]:
    """Matches the classes of the data with those of a model.

    Args:
        data: The data.
        model: The model.
        named: Whether the names in the data were given in the order of the outputs.

    Returns:
        The names of the classes of the model, and for each class of the data that of the model.

    Raises:
        ValueError: If a class of the data is not one of the model.
    """
    if named or model.labels is None:
        if len(data.classes) != model.classes:
            raise InputValueError(
                f"Expected the {model.classes} classes of {model.name} in {data.name}. Received: "
                f"{len(data.classes)} ({some(data.classes)}). Pass the names of all classes of the "
                "model in the order of its outputs as labels, or the data that it was trained for."
            )
        return data.classes, list(range(model.classes))
    unknown = [name for name in data.classes if name not in model.labels]
    if unknown:
        raise InputValueError(
            f"Expected the classes of {model.name} ({some(model.labels)}) in {data.name}. "
            f"Received: {some(unknown)}. Pass the names in the order of the outputs as labels, or "
            "the data that it was trained for."
        )
    return model.labels, [model.labels.index(name) for name in data.classes]


def _opened(
    data: str | os.PathLike | DenseData,
    model: DensePredictor,
    split: str,
    format: str | None,
    labels: Any,
    skip_bad: bool,
    limit: int | None,
) -> DenseData:
    """Opens the images to evaluate."""
    if isinstance(data, DenseData):
        opened: DenseData | None = data
    else:
        opened = open_dense(
            data, model.task, split, format=format, labels=labels, skip_bad=skip_bad
        )
    if opened is None:
        raise InputValueError(
            f"Expected a split {split!r} in {data}. Received: a data set without it. Pass "
            f"{'train' if split == 'val' else 'val'!r} as the split."
        )
    _require_some(len(opened.images), opened)
    return opened if limit is None else replace(opened, images=tuple(spread(opened.images, limit)))


def _common(
    model: DensePredictor, data: DenseData, images: int, seconds: float, bad: BadImages
) -> dict[str, Any]:
    """Returns the fields of `DenseEvaluation`."""
    return {
        "model": model.name,
        "data": data.name,
        "images": images,
        "image_size": model.size,
        "images_per_second": round(images / seconds, 1),
        "left_out": [*data.problems, *sorted(bad.names)],
    }


def _require_some(images: int, data: DenseData) -> None:
    if not images:
        raise InputValueError(f"Expected whole images in {data.name}. Received: none.")


def _batches(
    data: DenseData, size: tuple[int, int], bad: BadImages, progress: Progress | None
) -> Iterator[tuple[np.ndarray, Any, np.ndarray]]:
    """Yields pixels, targets and indices of the images that can be decoded."""
    source = DenseSource(data)
    batches = evaluation_batches(source, size, min(BATCH_SIZE, source.images), bad=bad)
    done = 0
    try:
        for pixels, targets, weights in batches.as_numpy_iterator():
            whole = np.flatnonzero(weights)
            if len(whole):
                kept = keras.tree.map_structure(lambda array, rows=whole: array[rows], targets)
                yield pixels[whole], kept, done + whole
            done = min(done + len(pixels), source.images)
            if progress:
                progress(done, source.images)
    except Exception as error:
        if type(error).__name__ != "InvalidArgumentError":  # TensorFlow's, on any backend
            raise
        name = first_broken(source.stream())
        if name is None:
            raise
        raise broken_image(name) from error
