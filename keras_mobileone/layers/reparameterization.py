"""The algebra of structural reparameterization, in NumPy float64.

A MobileOne block is, at inference, a sum of linear branches over the same input: convolutions,
each followed by batch normalization, and a batch normalization alone (the skip). A sum of
convolutions is one convolution; this module finds its kernel and bias (sections 3.2 of
arXiv 2206.04040 and of RepVGG, arXiv 2101.03697).

Kernels carry their output channel on the last axis: (height, width, in, out) when dense,
(height, width, channels) when depthwise. Folding is then the same line for both.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class BatchNormParameters(NamedTuple):
    """Inference-time batch normalization of c channels; each array has shape (c,)."""

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
    """1×1 kernel that passes its input through: the skip branch seen as a convolution."""
    return np.ones((1, 1, channels)) if depthwise else np.eye(channels)[None, None]


def fold_branch(branch: Branch) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution equal to `branch`: γ/√(σ²+ε)·W and β − γμ/√(σ²+ε)."""
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in branch.norm[:4])
    scale = gamma / np.sqrt(variance + branch.norm.epsilon)
    return np.asarray(branch.kernel, np.float64) * scale, beta - mean * scale


def fold(branches: Iterable[Branch], kernel_size: int) -> tuple[np.ndarray, np.ndarray]:
    """One kernel and bias equal to the sum of `branches`.

    Smaller kernels are centered, so every kernel side must be odd and `kernel_size` the largest.

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
