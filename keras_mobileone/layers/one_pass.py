"""Exact training of all branches of a block through one convolution.

A branch b is γ_b · (W_bᵀq − mean_b) / √(var_b + ε) + β_b, where q is the window of the input that a
kernel sees at a position. Let m be the mean of q over all images and positions of a batch, and Σ
its covariance. Then

    mean_b = W_bᵀ m        var_b = diag(W_bᵀ Σ W_b)

The 1×1 and the skip branch are included: their kernels are zero outside the center. The statistics
of every branch follow from the two moments of the input, without the output of the branch, and the
sum of all branches is one convolution:

    Σ_b branch_b = Kᵀ (q − m) + Σ_b β_b        K = Σ_b W_b · γ_b / √(var_b + ε)

The gradients follow from the same expressions. Neither the outputs of the branches nor their
gradients are ever stored. `DenseWindow` and `DepthwiseWindow` compute the moments of the two kinds
of convolution; docs/methods/one_pass.md derives them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mobileone.layers.batch_norm import track
from keras_mobileone.layers.window_moments import (
    TAPS,
    dense_moments,
    depthwise_moments,
    squares,
    tap_sums,
)

Tensor = Any  # a tensor or variable of Keras' backend

# The gain and these numbers were measured with TensorFlow on CPUs. NORM_COST is the cost of the
# batch normalization of a value, in multiplications of a convolution. DEPTHWISE_WORK is the number
# of values of a channel, times branches, from which depthwise moments are faster. Part of their
# cost is constant.
NORM_COST = 32
DEPTHWISE_WORK = 2**13
MEASURED_BACKENDS = ("tensorflow",)


def fold_branches(
    window: "DenseWindow | DepthwiseWindow", branches: Iterable[tuple[Tensor, keras.Layer]]
) -> Tensor:
    """Computes the training-mode output of a block's branches with one convolution.

    The moving statistics of the norms are updated as in a training step.

    Args:
        window: `DenseWindow` or `DepthwiseWindow` of the block's input.
        branches: Pairs of a kernel, which has the block's full size and Keras' layout, and its
            `BatchNormalization`.

    Returns:
        The sum of the branches' outputs.
    """
    kernels, norms = zip(*branches, strict=True)
    filters = norms[0].gamma.shape[0]
    # (branches, taps · channels, filters), or (branches, taps, channels) when depthwise.
    weights = _stack([ops.reshape(kernel, (-1, filters)) for kernel in kernels], window.dtype)
    gamma = _stack([norm.gamma for norm in norms], window.dtype)
    beta = _stack([norm.beta for norm in norms], window.dtype)
    mean, variance = window.statistics(weights)
    epsilon = ops.convert_to_tensor([[norm.epsilon] for norm in norms], window.dtype)
    scale = gamma / ops.sqrt(variance + epsilon)
    for norm, *values in zip(norms, ops.unstack(mean), ops.unstack(variance), strict=True):
        track(norm, *values)
    return window.convolve(ops.sum(weights * scale[:, None], axis=0), ops.sum(beta, axis=0))


def fold_moving(
    branches: Iterable[tuple[Tensor, keras.Layer]], dtype: str
) -> tuple[Tensor, Tensor]:
    """Folds the branches of a block, with their moving statistics, into one convolution.

    Args:
        branches: Pairs of a kernel and its `BatchNormalization`, as in `fold_branches`.
        dtype: Dtype of the computation.

    Returns:
        The kernel, with the shape of the given kernels, and the bias, shape (filters,).
    """
    kernel: Tensor = 0
    bias: Tensor = 0
    for weights, norm in branches:
        gamma, beta, mean, variance = (
            ops.cast(v, dtype)
            for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )
        scale = gamma / ops.sqrt(variance + norm.epsilon)
        kernel = kernel + ops.cast(weights, dtype) * scale
        bias = bias + beta - mean * scale
    return kernel, bias


def is_measured() -> bool:
    """Returns whether the thresholds of this module were measured with the current backend."""
    return keras.backend.backend() in MEASURED_BACKENDS


def dense_pays(channels: int, filters: int, kernel_size: int, branches: int) -> bool:
    """Returns whether a dense block trains faster in one pass.

    The estimate counts multiplications at each position.
    """
    window = kernel_size**2 * channels
    one_pass = 2 * window**2 + 3 * window * filters
    kernels = branches * window + (channels if kernel_size > 1 else 0)
    return one_pass < 3 * kernels * filters + NORM_COST * branches * filters


def depthwise_pays(values: int | None, kernel_size: int, strides: int, branches: int) -> bool:
    """Returns whether a depthwise block trains faster in one pass.

    Args:
        values: Number of values of a channel over images and positions; None if unknown.
        kernel_size: Side of the kernel.
        strides: Stride of the convolution.
        branches: Number of convolution branches.
    """
    if kernel_size != TAPS or strides != 1:
        return False
    return values is None or values * branches >= DEPTHWISE_WORK


def pick_pixels(inputs: Tensor, strides: int) -> Tensor:
    """Picks every `strides`-th pixel of (batch, height, width, channels) along both axes.

    It pools windows of one pixel, which is several times faster in TensorFlow than a strided slice.
    """
    return inputs if strides == 1 else ops.average_pool(inputs, 1, strides, padding="valid")


class DenseWindow:
    """Moments of the windows of a dense convolution, which hold all channels of all taps.

    Args:
        inputs: Shape (batch, height, width, channels), any floating point.
        kernel_size: Side of the kernel, which must be odd.
        strides: Stride of the convolution.
        synchronized: Whether to compute moments over all replicas of a `tf.distribute` strategy.
    """

    def __init__(self, inputs: Tensor, kernel_size: int, strides: int, synchronized: bool) -> None:
        self._windows = _windows(inputs, kernel_size, strides)
        # Statistics are computed at least in float32, also in mixed precision.
        self.dtype = keras.backend.result_type(inputs.dtype, "float32")
        flat = ops.reshape(self._windows, (-1, self._windows.shape[-1]))
        sums = ops.stop_gradient(ops.sum(ops.cast(flat, self.dtype), axis=0))
        everywhere, count = _over_replicas((sums, ops.shape(flat)[0]), synchronized)
        count = ops.cast(count, self.dtype)
        moments = dense_moments(flat, sums, everywhere / count)
        self._mean, self._covariance = _mean_and_covariance(moments, count, synchronized)

    def statistics(self, weights: Tensor) -> list[Tensor]:
        """Returns mean and variance of the outputs of kernels.

        Args:
            weights: Shape (branches, taps · channels, filters).
        """
        branches, _, filters = weights.shape
        flat = ops.reshape(ops.transpose(weights, (1, 0, 2)), (-1, branches * filters))
        values = ops.matmul(self._mean, flat), squares(self._covariance, flat)
        return [ops.reshape(value, (branches, filters)) for value in values]

    def convolve(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Returns the convolution of the windows, minus the mean of its outputs, plus `bias`."""
        bias = bias - ops.matmul(self._mean, weights)
        kernel = ops.cast(weights, self._windows.dtype)[None, None]
        outputs = ops.conv(self._windows, kernel, padding="valid")
        return outputs + ops.cast(bias, outputs.dtype)


class DepthwiseWindow:
    """Moments of the 3×3 windows of each channel, at stride 1.

    Args:
        inputs: Shape (batch, height, width, channels), any floating point.
        synchronized: Whether to compute moments over all replicas of a `tf.distribute` strategy.
    """

    def __init__(self, inputs: Tensor, synchronized: bool) -> None:
        self.inputs = inputs
        self.dtype = keras.backend.result_type(inputs.dtype, "float32")
        images, height, width, _ = ops.shape(inputs)
        # The means need only the sum over the images.
        image = ops.stop_gradient(ops.sum(ops.cast(inputs, self.dtype), axis=0))
        sums, images = _over_replicas((tap_sums(image), images), synchronized)
        count = ops.cast(images * height * width, self.dtype)
        moments = depthwise_moments(inputs, image, sums / count)
        self._mean, self._covariance = _mean_and_covariance(moments, count, synchronized)

    def statistics(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and variance of the outputs of `weights` (branches, taps, channels)."""
        squares = weights[:, :, None] * weights[:, None]
        variance = ops.sum(squares * self._covariance, axis=(1, 2))
        return ops.sum(self._mean * weights, axis=1), variance

    def convolve(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Returns the convolution of the input, minus the mean of its outputs, plus `bias`."""
        bias = ops.cast(bias - ops.sum(self._mean * weights, axis=0), self.inputs.dtype)
        kernel = ops.reshape(ops.cast(weights, self.inputs.dtype), (TAPS, TAPS, -1, 1))
        return ops.depthwise_conv(self.inputs, kernel, padding="same") + bias


def _mean_and_covariance(
    moments: Tensor, count: Tensor, synchronized: bool
) -> tuple[Tensor, Tensor]:
    """Returns mean and covariance over all replicas.

    Args:
        moments: Sums and centered products of this replica.
        count: Number of windows of all replicas.
        synchronized: Whether to sum the moments over all replicas.
    """
    (moments,) = _over_replicas((moments,), synchronized)
    return moments[0] / count, moments[1:] / count


def _stack(tensors: Iterable[Tensor], dtype: str) -> Tensor:
    return ops.stack([ops.cast(tensor, dtype) for tensor in tensors])


def _windows(inputs: Tensor, kernel_size: int, strides: int) -> Tensor:
    """Extracts the zero-padded windows of a convolution.

    Returns:
        Shape (batch, ceil(height / strides), ceil(width / strides), taps · channels).
    """
    margin = (kernel_size - 1) // 2
    if not margin:
        return pick_pixels(inputs, strides)
    inputs = ops.pad(inputs, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    if keras.backend.backend() == "tensorflow":
        # A kernel picks the taps, since strided slices of few channels are several times slower.
        taps = kernel_size**2 * inputs.shape[-1]
        kernel = np.reshape(np.eye(taps), (kernel_size, kernel_size, -1, taps))
        return ops.conv(inputs, ops.cast(kernel, inputs.dtype), strides, padding="valid")
    height, width = (size - 2 * margin for size in ops.shape(inputs)[1:3])
    taps = [
        inputs[:, i : i + height : strides, j : j + width : strides]
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]
    return ops.concatenate(taps, axis=-1)


def _over_replicas(tensors: tuple[Tensor, ...], synchronized: bool) -> Sequence[Tensor]:
    """Sums tensors over all replicas, as Keras' synchronized `BatchNormalization` does."""
    if not synchronized:
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return tensors
    dtype = tensors[0].dtype
    return context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.cast(t, dtype) for t in tensors])
