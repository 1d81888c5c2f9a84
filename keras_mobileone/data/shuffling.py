"""Deterministic per-epoch shuffling, whose order depends only on (seed, epoch)."""

from typing import Any

from keras_mobileone.errors import InputValueError


def permutation(count: Any, seed: Any, number: Any) -> Any:
    """Returns a random permutation of 0 … count − 1 for pass `number`.

    All permutations are equally likely, for any count. Sorting random numbers takes 0.3 s for
    ImageNet's 1.28 million images, once in each pass. `tf.random.experimental.index_shuffle` needs
    no memory, but it never returns 9 of the 120 permutations of five items, and neighbors in its
    permutation of 1.28 million items are correlated (0.04, 50 standard deviations).

    Args:
        count: Number of items, an int or an int64 scalar tensor.
        seed, number: Seed and number of the pass, ints or int64 scalar tensors.

    Returns:
        int64 tensor of shape (count,). It is the same on every device and in every process, and
        does not depend on TensorFlow's global seed.
    """
    import tensorflow as tf

    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(number, tf.int64)])
    keys = tf.random.stateless_uniform(
        [count], seeds, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def shuffle_in_buffer(dataset: Any, size: int, seed: Any) -> Any:
    """Shuffles as `dataset.shuffle(size)`, but by `seed` and not by TensorFlow's global seed.

    Call this function only while a function of a dataset is traced.

    Args:
        dataset: `tf.data.Dataset`.
        size: Length of the buffer.
        seed: int64 scalar tensor.
    """
    import tensorflow as tf

    # The seed of the operation is combined with the seed of its graph, which is the global seed
    # unless it is set. While a function is traced, this line sets only the seed of its own graph.
    # (If that seed is 0, a tensor is not accepted as the seed of the operation.)
    tf.compat.v1.set_random_seed(1)
    return dataset.shuffle(size, seed=seed, reshuffle_each_iteration=False)


def pass_range(images: int, start: int, seed: int | None) -> tuple[int, int]:
    """Returns the number of the pass that contains position `start`, and the end of the passes.

    Without a seed there is one pass. With a seed, only the range of int64 limits the positions.
    """
    return (0, 1) if seed is None else (start // images, (2**63 - 1) // images)


def shuffled_positions(images: int, start: int, seed: int | None, worker: int, workers: int) -> Any:
    """Makes the stream of images that `Source.stream` reads, if any image can be read directly.

    Args:
        images: Number of images in a pass.
        start: Position of the first image, over all workers.
        seed: Seed of the order, or None for one pass in stored order.
        worker, workers: Selects the positions p with p % workers == worker.

    Returns:
        `tf.data.Dataset` of (position, index of the image), int64.

    Raises:
        ValueError: If the arguments do not describe a share of a stream.
    """
    import tensorflow as tf

    check_share(start, worker, workers)

    def one_pass(number: Any) -> Any:
        first = number * images
        lowest = tf.maximum(first, start)
        lowest += (worker - lowest) % workers
        end = tf.maximum(first + images, lowest)
        positions = tf.range(lowest, end, workers)
        chosen = positions - first
        if seed is not None:
            chosen = tf.gather(permutation(images, seed, number), chosen)
        return tf.data.Dataset.from_tensor_slices((positions, chosen))

    return tf.data.Dataset.range(*pass_range(images, start, seed)).flat_map(one_pass)


def check_share(start: int, worker: int, workers: int) -> None:
    """Raises `ValueError` unless the arguments of `Source.stream` describe a share."""
    if start < 0:
        raise InputValueError(f"`start` must be a position of at least 0. Received: start={start}.")
    if not 0 <= worker < workers:
        raise InputValueError(
            f"`worker` must be from 0 to workers − 1. Received: worker={worker}, workers={workers}."
        )
