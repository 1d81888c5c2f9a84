"""The algebra of structural reparameterization, in NumPy float64.

At inference, a MobileOne block is a sum of linear branches over the same input: convolutions, each
followed by batch normalization, and a batch normalization alone (the skip). A sum of convolutions
is one convolution. This module computes its kernel and bias (section 3.2 of arXiv 2206.04040, and
section 3.2 of RepVGG, arXiv 2101.03697).

The last axis of a kernel is the output channel: (height, width, in, out) for a dense convolution,
(height, width, channels) for a depthwise one. The same line of code folds both.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class BatchNormParameters(NamedTuple):
    """Parameters of inference-time batch normalization; each array has shape (channels,)."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


class Branch(NamedTuple):
    """A convolution without bias, followed by batch normalization."""

    kernel: np.ndarray
    norm: BatchNormParameters


def identity_kernel(channels: int, depthwise: bool) -> np.ndarray:
    """Returns the 1×1 kernel of the identity: the skip branch written as a convolution."""
    return np.ones((1, 1, channels)) if depthwise else np.eye(channels)[None, None]


def fold_branch(branch: Branch) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel γ/√(σ²+ε)·W and bias β − γμ/√(σ²+ε) of a convolution equal to `branch`."""
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in branch.norm[:4])
    scale = gamma / np.sqrt(variance + branch.norm.epsilon)
    return np.asarray(branch.kernel, np.float64) * scale, beta - mean * scale


def fold(branches: Iterable[Branch], kernel_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of one convolution equal to the sum of `branches`.

    Smaller kernels are centered in the largest one, so the sides of all kernels must be odd.

    Args:
        branches: The branches to sum.
        kernel_size: Side of the largest kernel.

    Returns:
        kernel: float64, (kernel_size, kernel_size, …) with the trailing axes of the branches.
        bias: float64, (out,).
    """
    kernels, biases = [], []
    for branch in branches:
        kernel, bias = fold_branch(branch)
        margin = (kernel_size - kernel.shape[0]) // 2
        pads = [(margin, margin)] * 2 + [(0, 0)] * (kernel.ndim - 2)
        kernels.append(np.pad(kernel, pads))
        biases.append(bias)
    return np.sum(kernels, axis=0), np.sum(biases, axis=0)
