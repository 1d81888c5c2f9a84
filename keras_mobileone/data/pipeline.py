"""Turns a source of encoded images into the batches for training and validation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_mobileone.data.augment import auto_augment, rand_augment
from keras_mobileone.data.decoding import (
    decode,
    decode_and_random_crop,
    evaluation_crop,
    random_flip,
)
from keras_mobileone.data.sources import Source
from keras_mobileone.errors import InputValueError

_POLICIES = {"autoaugment": auto_augment, "randaugment": rand_augment}


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image.

    Attributes:
        size: Side of the crop in pixels.
        area: Smallest and largest area of a crop as a fraction of the image.
        policy: None, `"autoaugment"` or `"randaugment"`.
        strength: Factor that scales the magnitudes of the policy.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    policy: str | None = None
    strength: float = 1.0

    def __call__(self, encoded: Any, seed: Any) -> Any:
        """Returns uint8 (size, size, 3) from an image's bytes and an int32 seed of shape (2,)."""
        import tensorflow as tf

        seeds = tf.unstack(tf.random.split(seed, 3))
        image = decode_and_random_crop(encoded, self.size, seeds[0], self.area)
        image = random_flip(image, seeds[1])
        if self.policy is None:
            return image
        return _POLICIES[self.policy](image, seeds[2], self.strength)


@dataclass
class BadImages:
    """Policy for files that can't be decoded.

    Attributes:
        skip: Whether to leave them out instead of raising an error.
        names: The files that were left out so far.
    """

    skip: bool = False
    names: set[str] = field(default_factory=set)


def training_batches(
    source: Source,
    augmentation: Augmentation,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    worker: int = 0,
    workers: int = 1,
    bad: BadImages | None = None,
) -> Any:
    """Makes an infinite dataset of batches of shuffled, augmented images.

    The position in the stream and `seed` alone determine which image is read and how it is
    augmented. A stream that begins at `start` is therefore the rest of a stream that begins at 0,
    and the shares of all workers together make up the stream of a single worker.

    Args:
        source: Source of the images.
        augmentation: Random changes to each image.
        batch_size: Number of images in a batch of this worker.
        seed: Seed of the order and the augmentation.
        start: Position of the first image, over all workers.
        worker, workers: Selects the positions p with p % workers == worker.
        bad: What to do about broken files. A skipped image is replaced by another image of its
            batch, so that batches keep their size. By default, the dataset raises the error of
            TensorFlow.

    Returns:
        `tf.data.Dataset` of (images, labels): uint8 (batch_size, size, size, 3), int64
        (batch_size,).
    """
    bad = bad or BadImages()

    def load(element: Any, key: Any) -> Any:
        image, whole = _transformed(lambda e: augmentation(e, key), element, augmentation.size, bad)
        return image, element["label"], whole

    stream = source.stream(start, seed, worker, workers)
    return shuffled_batches(stream, load, batch_size, seed, bad)


def evaluation_batches(
    source: Source,
    size: int,
    crop_fraction: float,
    batch_size: int,
    *,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
    bad: BadImages | None = None,
) -> Any:
    """Makes a dataset with a center crop of each image, in batches of equal size.

    Args:
        source: Source of the images.
        size: Side of the crops in pixels.
        crop_fraction: See `Variant.crop_fraction`.
        batch_size: Number of images in a batch.
        worker, workers: Selects the images with index % workers == worker.
        replicas: Number of devices over all workers. Each gets the same number of batches.
        bad: What to do about broken files. A skipped image has weight 0.

    Returns:
        `tf.data.Dataset` of (images, labels, weights): uint8 (batch_size, size, size, 3), int64
        (batch_size,), float32 (batch_size,), where padding at the end has weight 0.
    """
    import tensorflow as tf

    bad = bad or BadImages()

    def load(element: Any) -> Any:
        image, whole = _transformed(
            lambda e: evaluation_crop(e, size, crop_fraction), element, size, bad
        )
        return image, element["label"], whole

    blank = (tf.zeros((size, size, 3), tf.uint8), tf.zeros((), tf.int64))
    return padded_batches(source, load, batch_size, blank, bad, worker, workers, replicas)


def shuffled_batches(
    stream: Any, load: Callable[..., Any], batch_size: int, seed: int, bad: BadImages
) -> Any:
    """Makes the batches of `training_batches` from a stream of encoded images.

    Args:
        stream: Dataset of the elements of a source.
        load: Function from an element and the key of its random numbers to its image, its target,
            and whether the image could be decoded.
        batch_size: Number of images in a batch.
        seed: Seed of the keys, which also depend on the position in the stream.
        bad: What to do about broken files.

    Returns:
        `tf.data.Dataset` of (images, targets).
    """
    import tensorflow as tf

    def load_at_position(element: Any) -> Any:
        key = tf.random.fold_in(tf.constant([seed, 1], tf.int32), element["position"])
        image, target, whole = load(element, key)
        return image, target, element["name"], whole

    def finish(images: Any, targets: Any, names: Any, whole: Any) -> Any:
        return replace_broken((images, targets), names, whole, bad)

    loaded = stream.map(load_at_position, num_parallel_calls=tf.data.AUTOTUNE)
    batches = loaded.batch(batch_size, drop_remainder=True).map(finish)
    return batches.prefetch(tf.data.AUTOTUNE)


def padded_batches(
    source: Any,
    load: Callable[..., Any],
    batch_size: int,
    blank: tuple[Any, Any],
    bad: BadImages,
    worker: int,
    workers: int,
    replicas: int,
) -> Any:
    """Makes the batches of `evaluation_batches` from the encoded images of a source.

    Args:
        source: Source of the images.
        load: Function from an element to its image, its target, and whether the image could be
            decoded.
        batch_size: Number of images in a batch.
        blank: Image and target of the padding.
        bad: What to do about broken files.
        worker, workers, replicas: As in `evaluation_batches`.

    Returns:
        `tf.data.Dataset` of (images, targets, weights).
    """
    import tensorflow as tf

    def load_named(element: Any) -> Any:
        image, target, whole = load(element)
        return image, target, element["name"], whole

    def finish(images: Any, targets: Any, names: Any, whole: Any) -> Any:
        return images, targets, tf.cast(note_broken(names, whole, bad), tf.float32)

    padding = tf.data.Dataset.from_tensors((*blank, tf.constant(""), False)).repeat()
    steps = -(-source.images // (batch_size * replicas))
    loaded = source.stream(worker=worker, workers=workers).map(
        load_named, num_parallel_calls=tf.data.AUTOTUNE
    )
    padded = loaded.concatenate(padding).take(steps * batch_size * (replicas // workers))
    batches = padded.batch(batch_size, drop_remainder=True).map(finish)
    return batches.prefetch(tf.data.AUTOTUNE)


def first_broken(elements: Any) -> str | None:
    """Returns the name of the first of some elements of a stream that can't be decoded, or None."""
    import tensorflow as tf

    for element in elements:
        try:
            decode(element["encoded"])
        except tf.errors.InvalidArgumentError:
            return element["name"].numpy().decode()
    return None


def _transformed(transform: Any, element: Any, size: int, bad: BadImages) -> Any:
    """Applies `transform` to the bytes of an image, and returns whether they could be decoded."""
    import tensorflow as tf

    blank = tf.zeros((size, size, 3), tf.uint8)
    image, whole = attempted(transform, element["encoded"], blank, bad)
    return tf.ensure_shape(image, (size, size, 3)), whole


def attempted(decode: Any, encoded: Any, blank: Any, bad: BadImages) -> Any:
    """Calls a function that decodes an image, or returns `blank` if it fails and `bad` allows it.

    A graph can't catch an error, but a dataset can leave out an element that raises one. This costs
    a sixth of the speed of the pipeline, so it is done only if broken images are to be skipped.

    Returns:
        The image, and whether it could be decoded.
    """
    import tensorflow as tf

    if not bad.skip:
        return decode(encoded), tf.constant(True)
    attempt = tf.data.Dataset.from_tensors(encoded).map(lambda e: (decode(e), True))
    attempt = attempt.ignore_errors()
    attempt = attempt.concatenate(tf.data.Dataset.from_tensors((blank, False))).take(1)
    return attempt.get_single_element()


def replace_broken(batch: Any, names: Any, whole: Any, bad: BadImages) -> Any:
    """Replaces the broken images of a batch by another one if `bad` allows them.

    Args:
        batch: Structure of tensors whose first axis is the batch.
        names: Names of the files.
        whole: Whether each image could be decoded.
        bad: What to do about broken files; their names are added.
    """
    import tensorflow as tf

    if not bad.skip:
        return batch
    whole = note_broken(names, whole, bad)
    substitute = tf.argmax(tf.cast(whole, tf.int32), output_type=tf.int32)
    chosen = tf.where(whole, tf.range(tf.size(whole)), substitute)
    return tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen), batch)


def note_broken(names: Any, whole: Any, bad: BadImages) -> Any:
    """Adds the names of broken files to `bad` if they are skipped, and returns `whole`."""
    if not bad.skip:
        return whole
    import tensorflow as tf

    def note(names: Any, whole: Any) -> Any:
        bad.names.update(name.decode() for name in names[~whole] if name)
        return whole

    noted = tf.numpy_function(note, [names, whole], tf.bool)
    return tf.ensure_shape(noted, whole.shape)


def sample_crops(
    source: Source,
    count: int,
    image_size: int,
    crop_fraction: float,
    seed: int,
    bad: BadImages | None = None,
) -> np.ndarray:
    """Returns center crops of images drawn at random from a source.

    Args:
        source: Source of the images.
        count: Number of images to draw. If there are fewer, all are used.
        image_size: Side of a crop in pixels.
        crop_fraction: Side of the crop divided by the resized short side; see
            `Variant.crop_fraction`.
        seed: Seed that determines which images are drawn.
        bad: What to do about broken files. Skipped images are replaced by others.

    Returns:
        uint8 array of shape (count, image_size, image_size, 3).

    Raises:
        ValueError: If a file can't be decoded and such files are not skipped, or if no file can be
            decoded. The message names the file.
    """

    def crop(encoded: Any) -> Any:
        return evaluation_crop(encoded, image_size, crop_fraction)

    return sample_images(source, count, seed, crop, bad)


def sample_images(
    source: Source,
    count: int,
    seed: int,
    prepare: Callable[[Any], Any],
    bad: BadImages | None = None,
) -> np.ndarray:
    """Returns images drawn at random from a source.

    Args:
        source: Source of the images.
        count: Number of images to draw. If there are fewer, all are used.
        seed: Seed that determines which images are drawn.
        prepare: Function from an encoded image to a tensor of the same size for all images.
        bad: What to do about broken files. Skipped images are replaced by others.

    Returns:
        Array of shape (count, height, width, 3).

    Raises:
        ValueError: As `sample_crops`.
    """
    import tensorflow as tf

    bad = bad or BadImages()
    images: list[np.ndarray] = []
    for element in source.stream(seed=seed).take(source.images):
        if len(images) == count:
            break
        try:
            images.append(prepare(element["encoded"]).numpy())
        except tf.errors.InvalidArgumentError as error:
            name = element["name"].numpy().decode(errors="replace")
            if not bad.skip:
                raise broken_image(name) from error
            bad.names.add(name)
    if not images:
        raise InputValueError(
            f"Expected images that can be decoded in {source.name}. Received: none of "
            f"{source.images}."
        )
    return np.stack(images)


def broken_image(name: str) -> InputValueError:
    """Returns the error for a file that can't be decoded."""
    return InputValueError(
        f"Expected whole images. Received: {name}, which can't be decoded: it is damaged, or of a "
        "kind that is not supported. Replace the file, or leave such files out with --skip-bad."
    )
