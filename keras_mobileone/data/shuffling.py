"""Deterministic per-epoch shuffling: the order follows from (seed, epoch) alone."""

from typing import Any

from keras_mobileone.errors import InputValueError


def permutation(count: Any, seed: Any, number: Any) -> Any:
    """A random order of 0 … count − 1 for pass `number`.

    All orders are equally likely, for any count. Sorting random numbers costs 0.3 s for
    ImageNet's 1.28 million, once in a pass. `tf.random.experimental.index_shuffle` needs no
    memory, but of five items it never gives 9 of the 120 orders, and of 1.28 million its
    neighbours are correlated (0.04, 50 standard deviations).

    Args:
        count: int or int64 scalar tensor, how many.
        seed, number: ints or int64 scalar tensors.

    Returns:
        int64 tensor of shape (count,), the same on every device and in every process, whatever
        TensorFlow's global seed.
    """
    import tensorflow as tf

    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(number, tf.int64)])
    keys = tf.random.stateless_uniform(
        [count], seeds, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def shuffle_in_buffer(dataset: Any, size: int, seed: Any) -> Any:
    """`dataset.shuffle(size)` whose order depends on `seed`, not on TensorFlow's global seed.

    To be called while a function of a dataset is traced.

    Args:
        dataset: `tf.data.Dataset`.
        size: Length of the buffer.
        seed: int64 scalar tensor.
    """
    import tensorflow as tf

    # The operation's seed is combined with its graph's, which is the global one unless set. While
    # a function is traced, this sets its own graph's only. (With 0, a tensor as seed is refused.)
    tf.compat.v1.set_random_seed(1)
    return dataset.shuffle(size, seed=seed, reshuffle_each_iteration=False)


def pass_range(images: int, start: int, seed: int | None) -> tuple[int, int]:
    """Number of the pass that holds position `start`, and the end of the range of passes.

    Without a seed there is one pass. With one, positions end only with int64.
    """
    return (0, 1) if seed is None else (start // images, (2**63 - 1) // images)


def check_share(start: int, worker: int, workers: int) -> None:
    """Raises `ValueError` unless the arguments of `Source.stream` describe a share."""
    if start < 0:
        raise InputValueError(f"`start` is a position of at least 0. Received: start={start}.")
    if not 0 <= worker < workers:
        raise InputValueError(
            f"`worker` counts from 0 to workers − 1. Received: worker={worker}, workers={workers}."
        )
