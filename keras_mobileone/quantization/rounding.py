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
# With this many rows for each input, half of each estimated covariance is kept, with more of them
# more, since a few rows correlate by chance.
HALF_KEPT = 1 / 8
MAX_INPUTS = 2048  # of a dense kernel; the time grows with the cube
# Scales to try, relative to the smallest one. Each scale rounds all weights anew, and one of these
# roundings fits the inputs better than that of the smallest scale.
TRIED_SCALES = np.linspace(1, 1.11, 12)
VALUES_AT_ONCE = 4e6  # weights for which all scales are tried at once
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
    if rounding == "compensated" and _is_depthwise(kind, kernel, inputs):
        windows = _some_rows(_windows(operator, kernel, inputs), MAX_DEPTHWISE_ROWS)
        windows = windows.reshape(len(windows), -1, kernel.shape[-1])
        weights: np.ndarray = (
            kernel.reshape(-1, kernel.shape[-1], 1).swapaxes(0, 1).astype(np.float64)
        )
        covariance = _covariance(windows.transpose(2, 0, 1))
        scale, codes = best_rounding(weights, covariance, scale[:, None])
        return scale[:, 0], codes.swapaxes(0, 1).reshape(kernel.shape)
    if rounding == "compensated" and _is_dense(kind, kernel, inputs):
        weights = kernel.reshape(len(kernel), -1).T.astype(np.float64)
        rows = _some_rows(_input_rows(kind, operator, kernel, inputs), MAX_ROWS)
        scale, codes = best_rounding(weights, _covariance(rows), scale)
        return scale, codes.T.reshape(kernel.shape)
    shape = [-1 if i == channel_axis(kind) else 1 for i in range(kernel.ndim)]
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
    """Returns whether each output channel depends on all of a limited number of inputs."""
    if kind == "CONV_2D" and kernel.shape[-1] != inputs.shape[-1]:
        return False  # the convolution has groups
    return kind in ("CONV_2D", "FULLY_CONNECTED") and kernel[0].size <= MAX_INPUTS


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
    """Estimates the covariance of the inputs, float64 (…, in, in), from rows (…, rows, in)."""
    count, inputs = rows.shape[-2:]
    centered = np.ascontiguousarray(rows - rows.mean(-2, keepdims=True))
    covariance = (centered.swapaxes(-1, -2) @ centered / count).astype(np.float64)
    kept = count / (count + HALF_KEPT * inputs)
    return covariance * np.where(np.eye(inputs, dtype=bool), 1, kept)


def best_rounding(
    weights: np.ndarray, covariance: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds weights as `compensated` does, with the best of several scales for each output.

    Args:
        weights, covariance: As in `compensated`.
        scale: Smallest scale of each output channel, shape (…, out).

    Returns:
        scale: The scale of each output channel with the least error, shape (…, out).
        codes: float64 whole numbers in [-127, 127], shape (…, in, out).
    """
    tries = len(TRIED_SCALES)
    parts = min(-(-weights.size * tries // int(VALUES_AT_ONCE)), scale.shape[-1])
    found = []
    for part in np.array_split(np.arange(scale.shape[-1]), parts):
        tried = np.concatenate([ratio * scale[..., part] for ratio in TRIED_SCALES], axis=-1)
        repeated = np.concatenate([weights[..., part]] * tries, axis=-1)
        codes = compensated(repeated, covariance, tried)
        errors = codes * tried[..., None, :] - repeated
        squares = (errors * (covariance @ errors)).sum(-2)
        best = squares.reshape(*squares.shape[:-1], tries, -1).argmin(-2) * len(part)
        best += np.arange(len(part))
        found.append(
            (
                np.take_along_axis(tried, best, -1),
                np.take_along_axis(codes, best[..., None, :], -1),
            )
        )
    scales, codes = zip(*found, strict=True)
    return np.concatenate(scales, axis=-1), np.concatenate(codes, axis=-1)


def compensated(weights: np.ndarray, covariance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rounds weights so that errors cancel between correlated inputs (GPTQ, arXiv 2210.17323).

    The weights are rounded one input after the other, beginning with the input of the largest
    variance. The weights that are not rounded yet are adjusted to compensate for the error, as far
    as their inputs are correlated with that input. The leading axes are those of separate kernels.

    Args:
        weights: float64 weights, shape (…, in, out).
        covariance: Covariance of the inputs, shape (…, in, in).
        scale: Scale of each output channel, shape (…, out).

    Returns:
        float64 whole numbers in [-127, 127], shape (…, in, out).
    """
    count = weights.shape[-2]
    variances = np.diagonal(covariance, axis1=-2, axis2=-1)
    damping = DAMPING * variances.mean(-1) + 1e-12
    order = np.argsort(-variances, axis=-1, kind="stable")[..., None]
    ordered = np.take_along_axis(covariance, order, -2)
    ordered = np.take_along_axis(ordered, order.swapaxes(-1, -2), -1)
    ordered += damping[..., None, None] * np.eye(count)
    factor = np.linalg.cholesky(np.linalg.inv(ordered)).swapaxes(-1, -2)  # upper triangular
    left = np.take_along_axis(weights, order, -2)
    codes = np.empty_like(weights)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.empty_like(left[..., start:stop, :])
        for i in range(start, stop):
            value = left[..., i, :]
            code = np.clip(np.rint(value / scale), -LARGEST_CODE, LARGEST_CODE)
            error = (value - code * scale) / factor[..., i, i, None]
            left[..., i + 1 : stop, :] -= factor[..., i, i + 1 : stop, None] * error[..., None, :]
            errors[..., i - start, :] = error
            codes[..., i, :] = code
        left[..., stop:, :] -= factor[..., start:stop, stop:].swapaxes(-1, -2) @ errors
    restored = np.empty_like(codes)
    np.put_along_axis(restored, order, codes, -2)
    return restored
