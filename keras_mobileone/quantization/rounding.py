"""Rounds float kernels to int8, to the nearest value or with compensation."""

import numpy as np

from keras_mobileone.quantization.operators import (
    Operator,
    Tensor,
    attribute,
    channel_axis,
    dilation,
)

LARGEST_CODE = 127
# Largest number of rows of input values that estimate the covariance of a dense kernel, and of a
# depthwise kernel, which has only a few weights in each channel.
MAX_ROWS, MAX_DEPTHWISE_ROWS = 40_000, 4_000
# Windows overlap, so that those of a few images suffice, and must not take too much memory.
WINDOW_IMAGES, WINDOW_VALUES = 16, 5e7
# With fewer rows for each input, the estimate of the covariance is too inaccurate.
ROWS_PER_INPUT = 8
DAMPING = 0.01  # part of the mean variance that is added to the diagonal of the covariance
BLOCK = 64  # number of inputs after which the remaining weights are adjusted


def kernel_scale(kind: str, kernel: np.ndarray) -> np.ndarray:
    """Returns the scale of each output channel of a float kernel in TFLite's layout, (out,)."""
    others = tuple(i for i in range(kernel.ndim) if i != channel_axis(kind))
    largest = np.abs(kernel).max(others).astype(np.float64)
    return np.maximum(largest, 1e-30) / LARGEST_CODE


def quantize_kernel(
    kind: str, operator: Operator, kernel: np.ndarray, inputs: Tensor, rounding: str
) -> tuple[np.ndarray, np.ndarray]:
    """Quantizes a kernel with a scale for each output channel.

    Args:
        kind: Name of the operator, one of `operators.LINEAR`.
        operator: Operator in the flatbuffer, which has the strides.
        kernel: float32 kernel in TFLite's layout.
        inputs: Input of the layer on the calibration images, as the integer model computes it.
        rounding: `"nearest"` or `"compensated"`.

    Returns:
        scale: float64, shape (out,).
        codes: float64 whole numbers in [-127, 127], with the shape of `kernel`.
    """
    scale = kernel_scale(kind, kernel)
    shape = [-1 if i == channel_axis(kind) else 1 for i in range(kernel.ndim)]
    if rounding == "compensated" and _is_depthwise(kind, kernel, inputs):
        channels = kernel.shape[-1]
        windows = _some_rows(_windows(operator, kernel, inputs), MAX_DEPTHWISE_ROWS)
        windows = windows.reshape(len(windows), -1, channels)
        if len(windows) >= ROWS_PER_INPUT * windows.shape[1]:
            flat = kernel.reshape(-1, channels).astype(np.float64)
            covariances = _covariance(windows.transpose(2, 0, 1))
            codes = [compensated(flat[:, [i]], c, scale[[i]]) for i, c in enumerate(covariances)]
            return scale, np.concatenate(codes, axis=1).reshape(kernel.shape)
    if rounding == "compensated" and _is_dense(kind, kernel, inputs):
        rows = _some_rows(_input_rows(kind, operator, kernel, inputs), MAX_ROWS)
        if len(rows) >= ROWS_PER_INPUT * rows.shape[1]:
            flat = kernel.reshape(len(kernel), -1).T.astype(np.float64)
            return scale, compensated(flat, _covariance(rows), scale).T.reshape(kernel.shape)
    codes = np.rint(kernel / scale.reshape(shape))
    return scale, np.clip(codes, -LARGEST_CODE, LARGEST_CODE)


def _is_depthwise(kind: str, kernel: np.ndarray, inputs: Tensor) -> bool:
    """Returns whether each output channel depends on one input channel, at several positions."""
    return (
        kind == "DEPTHWISE_CONV_2D"
        and kernel.shape[-1] == inputs.shape[-1]
        and kernel.shape[1] * kernel.shape[2] > 1
    )


def _is_dense(kind: str, kernel: np.ndarray, inputs: Tensor) -> bool:
    """Returns whether each output channel depends on all input channels, at one position."""
    if kind == "CONV_2D":
        return kernel.shape[-1] == inputs.shape[-1]  # otherwise the convolution has groups
    return kind == "FULLY_CONNECTED"


def _input_rows(kind: str, operator: Operator, kernel: np.ndarray, inputs: Tensor) -> np.ndarray:
    """Returns the input values that the kernel is multiplied with, (rows, height · width · in)."""
    if kind == "FULLY_CONNECTED":
        return np.asarray(inputs).reshape(-1, kernel.shape[1])
    strides = attribute(operator, "strideH"), attribute(operator, "strideW")
    if (*kernel.shape[1:3], *strides) == (1, 1, 1, 1):
        return np.asarray(inputs).reshape(-1, kernel.shape[-1])
    return _windows(operator, kernel, inputs)


def _windows(operator: Operator, kernel: np.ndarray, inputs: Tensor) -> np.ndarray:
    """Returns the windows of the input under a kernel, (rows, height · width · channels)."""
    import tensorflow as tf

    size, rates = [1, *kernel.shape[1:3], 1], [1, *dilation(operator), 1]
    strides = [1, attribute(operator, "strideH"), attribute(operator, "strideW"), 1]
    padding = ("SAME", "VALID")[attribute(operator, "padding")]
    _, height, width, channels = inputs.shape
    image = height * width / np.prod(strides) * np.prod(size) * channels  # values of its windows
    images = int(np.clip(WINDOW_VALUES / image, 1, WINDOW_IMAGES))
    windows = tf.image.extract_patches(inputs[:images], size, strides, rates, padding)
    return np.asarray(windows).reshape(-1, windows.shape[-1])


def _some_rows(rows: np.ndarray, largest: int) -> np.ndarray:
    step = max(1, len(rows) // largest) | 1  # odd, so that no column of the images is favored
    return rows[::step]


def _covariance(rows: np.ndarray) -> np.ndarray:
    """Returns the float64 covariance, (…, inputs, inputs), of rows of shape (…, rows, inputs)."""
    centered = np.ascontiguousarray(rows - rows.mean(-2, keepdims=True))
    return (centered.swapaxes(-1, -2) @ centered / centered.shape[-2]).astype(np.float64)


def compensated(weights: np.ndarray, covariance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rounds weights so that errors cancel between correlated inputs (GPTQ, arXiv 2210.17323).

    The weights are rounded one input after the other, beginning with the input of the largest
    variance. The weights that are not rounded yet are adjusted to compensate for the error, as far
    as their inputs are correlated with that input.

    Args:
        weights: float64 weights, shape (in, out).
        covariance: Covariance of the inputs, shape (in, in).
        scale: Scale of each output channel, shape (out,).

    Returns:
        float64 whole numbers in [-127, 127], shape (in, out).
    """
    count = len(weights)
    damping = DAMPING * np.trace(covariance) / count + 1e-12
    order = np.argsort(-np.diag(covariance), kind="stable")
    ordered = covariance[np.ix_(order, order)] + damping * np.eye(count)
    factor = np.linalg.cholesky(np.linalg.inv(ordered)).T  # upper triangular
    left, codes = weights[order], np.empty_like(weights)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.empty((stop - start, weights.shape[1]))
        for i in range(start, stop):
            codes[i] = np.clip(np.rint(left[i] / scale), -LARGEST_CODE, LARGEST_CODE)
            errors[i - start] = (left[i] - codes[i] * scale) / factor[i, i]
            left[i + 1 : stop] -= factor[i, i + 1 : stop, None] * errors[i - start]
        left[stop:] -= factor[start:stop, stop:].T @ errors
    restored = np.empty_like(codes)
    restored[order] = codes
    return restored
