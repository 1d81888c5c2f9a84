"""Turns a source of images with masks or boxes into the batches for training and validation."""

from typing import Any

import numpy as np

from keras_mobileone.data.decoding import decode
from keras_mobileone.data.dense.augmentation import DenseAugmentation, moved
from keras_mobileone.data.dense.description import SEGMENT
from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.data.dense.source import DenseSource
from keras_mobileone.data.dense.windows import PADDING, move_image, pad_boxes, whole_image
from keras_mobileone.data.pipeline import (
    BadImages,
    attempted,
    padded_batches,
    sample_images,
    shuffled_batches,
)


def training_batches(
    source: DenseSource,
    augmentation: DenseAugmentation,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    worker: int = 0,
    workers: int = 1,
    bad: BadImages | None = None,
) -> Any:
    """Makes an infinite dataset of batches of shuffled, augmented images.

    As for classifiers, the position in the stream and `seed` alone determine which image is read
    and how it is augmented; see `keras_mobileone.data.pipeline.training_batches`.

    Args:
        source: Source of the images.
        augmentation: Random changes to each image.
        batch_size: Number of images in a batch of this worker.
        seed: Seed of the order and the augmentation.
        start: Position of the first image, over all workers.
        worker, workers: Selects the positions p with p % workers == worker.
        bad: What to do about files that can't be decoded.

    Returns:
        `tf.data.Dataset` of (images, targets). Images are uint8 (batch_size, height, width, 3).
        Targets are masks, uint8 (batch_size, height, width) with `IGNORE` where there is no class;
        or {"boxes": float32 (batch_size, n, 4), "labels": int64 (batch_size, n)}, "xyxy" in pixels
        of the result, where n is `source.most_boxes` and padding is −1.
    """
    bad = bad or BadImages()

    def load(element: Any, key: Any) -> Any:
        image, whole = _decoded(element, bad)
        image, annotation = augmentation(image, element, key)
        return image, _targets(annotation, source), whole

    stream = source.stream(start, seed, worker, workers)
    return shuffled_batches(stream, load, batch_size, seed, bad)


def evaluation_batches(
    source: DenseSource,
    size: tuple[int, int],
    batch_size: int,
    *,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
    bad: BadImages | None = None,
) -> Any:
    """Makes a dataset of all images in stored order, stretched to one size, in equal batches.

    Args:
        source: Source of the images.
        size: (height, width) in pixels.
        batch_size: Number of images in a batch.
        worker, workers: Selects the images with index % workers == worker.
        replicas: Number of devices over all workers. Each gets the same number of batches.
        bad: What to do about files that can't be decoded. A skipped image has weight 0.

    Returns:
        `tf.data.Dataset` of (images, targets, weights); see `training_batches`. Padding at the end
        has float32 weight 0, masks of `IGNORE` and no boxes.
    """
    import tensorflow as tf

    bad = bad or BadImages()

    def load(element: Any) -> Any:
        image, whole = _decoded(element, bad)
        move = whole_image(image, size)
        return _stretched(image, move), _targets(moved(element, move), source), whole

    blank = (tf.zeros((*size, 3), tf.uint8), _no_targets(source, size))
    return padded_batches(source, load, batch_size, blank, bad, worker, workers, replicas)


def sample_stretched(
    source: DenseSource,
    count: int,
    size: tuple[int, int],
    seed: int,
    bad: BadImages | None = None,
) -> np.ndarray:
    """Returns images drawn at random from a source, stretched as `evaluation_batches` does.

    Args:
        source: Source of the images.
        count: Number of images to draw. If there are fewer, all are used.
        size: (height, width) in pixels.
        seed: Seed that determines which images are drawn.
        bad: What to do about broken files. Skipped images are replaced by others.

    Returns:
        uint8 array of shape (count, height, width, 3).

    Raises:
        ValueError: As `keras_mobileone.data.pipeline.sample_crops`.
    """

    def prepare(encoded: Any) -> Any:
        image = decode(encoded)
        return _stretched(image, whole_image(image, size))

    return sample_images(source, count, seed, prepare, bad)


def _stretched(image: Any, move: Any) -> Any:
    import tensorflow as tf

    return tf.cast(tf.round(move_image(image, move)), tf.uint8)


def _decoded(element: Any, bad: BadImages) -> Any:
    import tensorflow as tf

    image, whole = attempted(decode, element["encoded"], tf.zeros((1, 1, 3), tf.uint8), bad)
    return tf.ensure_shape(image, (None, None, 3)), whole


def _targets(annotation: dict[str, Any], source: DenseSource) -> Any:
    if source.data.task == SEGMENT:
        return annotation["mask"]
    return pad_boxes(annotation["boxes"], annotation["labels"], source.most_boxes)


def _no_targets(source: DenseSource, size: tuple[int, int]) -> Any:
    import tensorflow as tf

    if source.data.task == SEGMENT:
        return tf.fill(size, tf.constant(IGNORE, tf.uint8))
    count = source.most_boxes
    return {
        "boxes": tf.fill((count, 4), float(PADDING)),
        "labels": tf.fill((count,), tf.constant(PADDING, tf.int64)),
    }
