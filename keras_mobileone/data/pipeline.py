"""From a source of encoded images to the batches that training and validation take."""

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
    """What happens to a training image.

    Attributes:
        size: Side of the crop in pixels.
        area: Least and largest area of a crop over the image's.
        policy: None, `"autoaugment"` or `"randaugment"`.
        strength: Factor of the policy's magnitudes.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    policy: str | None = None
    strength: float = 1.0

    def __call__(self, encoded: Any, seed: Any) -> Any:
        """uint8 (size, size, 3) from the bytes of an image and an int32 seed of shape (2,)."""
        import tensorflow as tf

        seeds = tf.unstack(tf.random.split(seed, 3))
        image = decode_and_random_crop(encoded, self.size, seeds[0], self.area)
        image = random_flip(image, seeds[1])
        if self.policy is None:
            return image
        return _POLICIES[self.policy](image, seeds[2], self.strength)


@dataclass
class BadImages:
    """What to do about files that can't be decoded.

    Attributes:
        skip: Leave them out instead of raising.
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
    """Yields endless batches of shuffled, augmented images.

    The position in the stream and `seed` alone decide which image is read and how it is
    augmented: a stream that begins at `start` is the rest of one that
    begins at 0, and the shares of all workers together are the stream of one.

    Args:
        source: Where the images come from.
        augmentation: What happens to each.
        batch_size: Images in a batch of this worker.
        seed: Of order and augmentation.
        start: Position of the first image, over all workers.
        worker, workers: Of all positions p, those with p % workers == worker.
        bad: What to do about broken files. A skipped one is replaced by another of its batch, so
            that batches keep their size. By default TensorFlow's error comes out of the dataset.

    Returns:
        `tf.data.Dataset` of (images, labels): uint8 (batch_size, size, size, 3), int64
        (batch_size,).
    """
    import tensorflow as tf

    bad = bad or BadImages()

    def load(element: Any) -> Any:
        key = tf.random.fold_in(tf.constant([seed, 1], tf.int32), element["position"])
        image, whole = _transformed(lambda e: augmentation(e, key), element, augmentation.size, bad)
        return image, element["label"], element["name"], whole

    def finish(images: Any, labels: Any, names: Any, whole: Any) -> Any:
        if bad.skip:
            whole = _note_broken(names, whole, bad)
            substitute = tf.argmax(tf.cast(whole, tf.int32), output_type=tf.int32)
            chosen = tf.where(whole, tf.range(batch_size), substitute)
            images, labels = tf.gather(images, chosen), tf.gather(labels, chosen)
        return images, labels

    loaded = source.stream(start, seed, worker, workers).map(
        load, num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = loaded.batch(batch_size, drop_remainder=True).map(finish)
    return batches.prefetch(tf.data.AUTOTUNE)


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
    """Yields each image once, as center crops, in batches of one size.

    Args:
        source: Where the images come from.
        size: Side of the crops in pixels.
        crop_fraction: See `Variant.crop_fraction`.
        batch_size: Images in a batch.
        worker, workers: Of all images, those with index % workers == worker.
        replicas: Devices over all workers: each gets equally many batches.
        bad: What to do about broken files; a skipped one gets weight 0.

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
        return image, element["label"], element["name"], whole

    def finish(images: Any, labels: Any, names: Any, whole: Any) -> Any:
        return images, labels, tf.cast(_note_broken(names, whole, bad), tf.float32)

    blank = (tf.zeros((size, size, 3), tf.uint8), tf.zeros((), tf.int64), tf.constant(""), False)
    padding = tf.data.Dataset.from_tensors(blank).repeat()
    steps = -(-source.images // (batch_size * replicas))
    images = steps * batch_size * (replicas // workers)
    loaded = source.stream(worker=worker, workers=workers).map(
        load, num_parallel_calls=tf.data.AUTOTUNE
    )
    padded = loaded.concatenate(padding).take(images)
    batches = padded.batch(batch_size, drop_remainder=True).map(finish)
    return batches.prefetch(tf.data.AUTOTUNE)


def first_broken(elements: Any) -> str | None:
    """Name of the first of some elements of a source's stream that can't be decoded."""
    import tensorflow as tf

    for element in elements:
        try:
            decode(element["encoded"])
        except tf.errors.InvalidArgumentError:
            return element["name"].numpy().decode()
    return None


def _transformed(transform: Any, element: Any, size: int, bad: BadImages) -> Any:
    """`transform` of the image's bytes, and whether they could be decoded.

    A graph can't catch an error, but a dataset can leave out an element that raises one. This costs
    a sixth of the pipeline's speed, so it is done only where broken images are to be skipped.
    """
    import tensorflow as tf

    if not bad.skip:
        return tf.ensure_shape(transform(element["encoded"]), (size, size, 3)), tf.constant(True)
    blank = tf.zeros((size, size, 3), tf.uint8)
    attempt = tf.data.Dataset.from_tensors(element["encoded"]).map(lambda e: (transform(e), True))
    attempt = attempt.ignore_errors()
    attempt = attempt.concatenate(tf.data.Dataset.from_tensors((blank, False))).take(1)
    image, whole = attempt.get_single_element()
    return tf.ensure_shape(image, (size, size, 3)), whole


def _note_broken(names: Any, whole: Any, bad: BadImages) -> Any:
    """`whole`, after the names of broken files have been added to `bad`, if they are skipped."""
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
    """Center crops of images drawn at random from a source.

    Args:
        source: Where the images come from.
        count: How many to draw; all of them if there are fewer.
        image_size: Side of a crop in pixels.
        crop_fraction: Share of the evaluation transform's short side, see `Variant.crop_fraction`.
        seed: Decides which images are drawn.
        bad: What to do about broken files. Others are drawn in place of skipped ones.

    Returns:
        uint8 array of shape (count, image_size, image_size, 3).

    Raises:
        ValueError: For a file that can't be decoded, with its name, unless such files are skipped;
            and if no file can be decoded.
    """
    import tensorflow as tf

    bad = bad or BadImages()
    crops: list[np.ndarray] = []
    for element in source.stream(seed=seed).take(source.images):
        if len(crops) == count:
            break
        try:
            crops.append(evaluation_crop(element["encoded"], image_size, crop_fraction).numpy())
        except tf.errors.InvalidArgumentError as error:
            name = element["name"].numpy().decode(errors="replace")
            if not bad.skip:
                raise broken_image(name) from error
            bad.names.add(name)
    if not crops:
        raise InputValueError(
            f"Expected images that can be decoded in {source.name}. Received: none of "
            f"{source.images}."
        )
    return np.stack(crops)


def broken_image(name: str) -> InputValueError:
    """The error for a file that can't be decoded."""
    return InputValueError(
        f"Expected whole images. Received: {name}, which can't be decoded: it is damaged, or of a "
        "kind that is not supported. Replace the file, or leave such files out with --skip-bad."
    )
