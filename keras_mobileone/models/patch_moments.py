"""Means and covariances of what the filters of a network see, over all images."""

from typing import Any

import numpy as np
from keras import ops

from keras_mobileone.variants import BlockSpec

Tensor = Any  # a tensor or variable of Keras' backend


class PatchMoments:
    """Mean and covariance of the patches that the filters of a block see.

    Args:
        spec: The block.
    """

    def __init__(self, spec: BlockSpec) -> None:
        self.spec = spec
        self.count = 0
        # Set by the first call of `add`: (channels,), (groups, 1, taps), (groups, taps, taps).
        self.shift: Any = None
        self.sums: Any = 0.0
        self.products: Any = 0.0

    def add(self, tensor: Tensor) -> None:
        """Adds activations of shape (count, height, width, channels) to the moments."""
        size, stride, rate = self.spec.kernel_size, self.spec.strides, self.spec.dilation_rate
        margin = (size - 1) // 2 * rate
        height, width = (-(-side // stride) for side in tensor.shape[1:3])
        tensor = ops.pad(tensor, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
        if self.shift is None:
            self.shift = ops.convert_to_numpy(ops.mean(tensor, axis=(0, 1, 2)))
        # Without the shift, sums of squares would lose a small variance next to a large mean.
        tensor = tensor - self.shift
        taps = [
            tensor[:, y : y + stride * height : stride, x : x + stride * width : stride]
            for y in range(0, size * rate, rate)
            for x in range(0, size * rate, rate)
        ]
        sums, products = (_depthwise_sums if self.spec.depthwise else _dense_sums)(taps)
        self.count += len(tensor) * height * width
        self.sums, self.products = self.sums + sums, self.products + products

    def mean(self, filters: np.ndarray) -> np.ndarray:
        """Returns the mean output of filters (groups, taps, outputs) as (groups, 1, outputs)."""
        shift = np.tile(self.shift.astype(np.float64), self.spec.kernel_size**2)
        if self.spec.depthwise:
            shift = shift.reshape(self.spec.kernel_size**2, -1).T
        return (self.sums / self.count + shift.reshape(self.sums.shape)) @ filters

    def variance(self, filters: np.ndarray) -> np.ndarray:
        """Returns the variance of the output of filters as (groups, 1, outputs)."""
        mean = self.sums / self.count
        covariance = self.products / self.count - mean * mean.swapaxes(1, 2)
        return np.maximum(np.sum(filters * (covariance @ filters), axis=1, keepdims=True), 0)


class OutputMoments:
    """Mean and variance of each channel of a layer's output."""

    def __init__(self) -> None:
        self.count = 0
        # Set by the first call of `add`. All have shape (1, channels).
        self.shift: Any = None
        self.sums: Any = 0.0
        self.squares: Any = 0.0

    def add(self, tensor: Tensor) -> None:
        """Adds activations of shape (count, height, width, channels) to the moments."""
        rows = float64(tensor).reshape(-1, tensor.shape[-1])
        if self.shift is None:
            self.shift = rows.mean(0, keepdims=True)
        rows = rows - self.shift
        self.count += len(rows)
        self.sums = self.sums + rows.sum(0, keepdims=True)
        self.squares = self.squares + (rows * rows).sum(0, keepdims=True)

    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance of each channel, shape (1, channels)."""
        mean = self.sums / self.count
        return mean + self.shift, np.maximum(self.squares / self.count - mean * mean, 0)


def _dense_sums(taps: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    patches = ops.concatenate(taps, axis=-1)
    patches = ops.reshape(patches, (-1, patches.shape[-1]))
    sums = ops.sum(patches, axis=0)[None, None]
    return float64(sums), float64(ops.matmul(ops.transpose(patches), patches))[None]


def _depthwise_sums(taps: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    def total(tensor: Tensor) -> np.ndarray:
        return float64(ops.sum(tensor, axis=(1, 2))).sum(axis=0)

    products = np.empty((taps[0].shape[-1], len(taps), len(taps)))
    for i, tap in enumerate(taps):
        for j, other in enumerate(taps[: i + 1]):
            products[:, i, j] = products[:, j, i] = total(tap * other)
    return np.stack([total(tap) for tap in taps], axis=-1)[:, None], products


def float64(tensor: Tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor).astype(np.float64)
