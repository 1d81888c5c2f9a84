"""Batch normalization that uses TensorFlow's fused operator where it is available."""

from typing import Any

import keras
from keras import ops

from keras_mobileone.layers.fused_updates import move_average

FUSED_DTYPES = ("float32", "float16", "bfloat16")


class FusedBatchNorm(keras.layers.BatchNormalization):
    """`BatchNormalization` for images that trains faster on TensorFlow, with the same results.

    Keras computes mean, variance and output with separate operators, which keep several tensors of
    the size of the input for the backward pass. The fused operator keeps only the input.

    Args:
        **kwargs: The arguments of `keras.layers.BatchNormalization`.

    Input shape:
        `(batch, height, width, channels)`, floating point.

    Output shape:
        Same shape as the input.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalizes with the batch statistics if `training`, else with the moving statistics."""
        if not (training and self.trainable and self._fuses(inputs)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)
        gamma, beta = (tf.convert_to_tensor(v, tf.float32) for v in (self.gamma, self.beta))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=self.epsilon
        )
        # The operator normalizes n values with their sum of squares divided by n, but returns that
        # sum divided by n − 1 (Bessel's correction, which estimates the variance of the population
        # that the batch comes from). Keras tracks the variance of the batch itself, with n.
        count = ops.cast(ops.size(inputs) // inputs.shape[-1], variance.dtype)
        track(self, mean, variance * (count - 1) / count)
        return outputs

    def _fuses(self, inputs: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and not self.synchronized
            and len(inputs.shape) == 4
            and keras.backend.standardize_dtype(inputs.dtype) in FUSED_DTYPES
        )


def track(norm: keras.layers.BatchNormalization, mean: Any, variance: Any) -> None:
    """Updates the moving statistics of a batch normalization with the statistics of a batch.

    Args:
        norm: The layer to update.
        mean: Mean of each channel over the batch, shape (channels,).
        variance: Variance of each channel over the batch, without Bessel's correction.
    """
    for moving, value in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
        move_average(moving, ops.cast(value, moving.dtype), norm.momentum)
