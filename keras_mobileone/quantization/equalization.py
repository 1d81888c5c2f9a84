"""Rescales the channels of a model so that one int8 scale fits all of them, exactly in float.

A tensor has one int8 scale, but the ranges of its channels differ by orders of magnitude, even more
so in a folded network. A `ScalingGroup` can pass factors from its convolution to the layers that
follow. Depthwise layers have a weight scale for each channel, so that the factors before them can
remove the whole difference. Before dense layers, a factor that helps an activation harms the
weights that absorb it, so the factors are chosen by the expected error of the outputs.

The method follows Nagel et al., Data-Free Quantization Through Weight Equalization and Bias
Correction (arXiv 1906.04721). The choice of the factors by sensitivity is an addition.
"""

from dataclasses import dataclass

import keras
import numpy as np

from keras_mobileone.errors import VerificationError
from keras_mobileone.quantization.outliers import find_limits
from keras_mobileone.quantization.scaling_groups import Blocked, ScalingGroup, find_scaling_groups
from keras_mobileone.quantization.statistics import (
    DEAD,
    GroupStatistics,
    is_depthwise,
    measure,
    stored_tensors,
)
from keras_mobileone.quantization.trace import Call, Trace, fold_batch_norms, trace

EXACTNESS = 1e-4  # largest change of an output, relative to its largest magnitude
# Headroom over the calibrated maximum for tensors that are averaged over the image next. They have
# few and sparse values, which other images exceed by factors up to 2 (measured on S0's last block).
POOLING_MARGIN = 1.4
# The rounding of weights counts half, since its mean is corrected for each channel.
WEIGHT_SHARE = 0.5
# Limits the gain of a channel that is almost always zero. At the full range, its weights would
# exceed the others by more than an integer kernel can scale back (XNNPACK: 256).
LARGEST_GAIN = 64
STEPS = 100
RATE = 0.06


@dataclass(frozen=True)
class Equalization:
    """Result of `equalize`.

    Attributes:
        model: The rescaled model, without nested models, with each activation as a separate layer.
        factors: Divisors of the output channels of each rescaled convolution, by its name.
        blocked: The convolutions that were not rescaled, and the reasons.
        change: Largest change of the outputs, relative to their largest magnitude.
        limits: Largest value that an int8 file should represent in the output of a convolution
            with ReLU, by the name of the convolution. Values above are rare, and the outputs depend
            little on them. Empty unless `equalize` was called with `limit_outliers=True`.
    """

    model: keras.Model
    factors: dict[str, np.ndarray]
    blocked: list[Blocked]
    change: float
    limits: dict[str, float]


def equalize(
    model: keras.Model, images: np.ndarray, *, limit_outliers: bool = False
) -> Equalization:
    """Rescales the channels of a fused model for int8.

    Batch normalization after a convolution or dense layer is folded into it first. `quantize`
    equalizes the model itself. Call `equalize` to inspect the factors, or before `quantize_aware`.

    Reference: [Data-Free Quantization](https://arxiv.org/abs/1906.04721), section 4.1.

    Args:
        model: Functional model of stock layers with one input. It is not changed.
        images: Calibration images, float32 (count, height, width, channels), as the model takes
            them.
        limit_outliers: Whether to leave rare large values out of the ranges, see
            `Equalization.limits`. `quantize` does so. The outputs of the float model do not change.

    Returns:
        An `Equalization` with the rescaled model.

    Raises:
        ValueError: If the model has several inputs or contains MobileOne blocks.
        ArithmeticError: If the outputs change by more than 1e-4 of their largest magnitude.

    Examples:
        >>> model = keras_mobileone.MobileOneS0(
        ...     weights=None, input_shape=(32, 32, 3), classes=4, deploy=True
        ... )
        >>> images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
        >>> equalized = keras_mobileone.equalize(model, images)
        >>> equalized.change < 1e-4
        True
    """
    original = trace(model)
    traced = fold_batch_norms(original)
    groups, blocked = find_scaling_groups(traced)
    statistics = measure(traced, groups, images)
    limits = find_limits(traced, groups, statistics, images) if limit_outliers else {}
    probe = images[: min(8, len(images))]
    before = _outputs(original, probe)
    factors, scaled_limits = {}, {}
    for group, measured in zip(groups, statistics, strict=True):
        t = choose_factors(measured, POOLING_MARGIN if group.pooled else 1.0)
        t = np.maximum(t, largest_weights(group.producer) / (127 * LARGEST_GAIN))
        apply_factors(group, t)
        name = group.producer.layer.name
        factors[name] = t
        limit = limits.get(id(stored_tensors(traced, group)[0]))
        if limit is not None:
            scaled_limits[name] = float((limit / t).max())
    changes = [
        float(np.abs(b - a).max() / max(np.abs(a).max(), DEAD))
        for a, b in zip(before, _outputs(traced, probe), strict=True)
    ]
    change = max(changes, default=0.0)
    if not change <= EXACTNESS:
        raise VerificationError(
            f"Equalization moved the outputs of {model.name!r} by {change:.1e} of their largest "
            f"magnitude; the limit is {EXACTNESS:.0e}. Its weights may span too wide a range."
        )
    return Equalization(traced.model, factors, blocked, change, scaled_limits)


def apply_factors(group: ScalingGroup, t: np.ndarray) -> None:
    """Divides the output channels of a group's convolution by `t`, which its absorbers undo.

    Args:
        group: The group, whose layers are changed.
        t: Factor of each channel, shape (channels,).
    """
    layer = group.producer.layer
    kernel, *bias = layer.get_weights()
    shape = kernel.shape[-2:] if is_depthwise(group.producer) else (len(t),)
    layer.set_weights([kernel / t.reshape(shape), *(b / t for b in bias)])
    for call in group.absorbers:
        kernel, *bias = call.layer.get_weights()
        # The axis before the last is that of the input channels, also of depthwise kernels.
        kernel[..., group.channels(call.inputs[0]), :] *= t[:, None]
        call.layer.set_weights([kernel, *bias])


def largest_weights(call: Call) -> np.ndarray:
    """Returns the largest magnitude of each output channel's weights, shape (channels,)."""
    kernel = np.abs(call.layer.get_weights()[0])
    return (
        kernel.max((0, 1)).ravel()
        if is_depthwise(call)
        else kernel.reshape(-1, kernel.shape[-1]).max(0)
    )


def choose_factors(statistics: GroupStatistics, margin: float = 1.0) -> np.ndarray:
    """Chooses the factors t of a group's channels.

    Channel i of the first stored tensor gets the range maximum_i / t_i, and the largest of these is
    1 / `margin`. The expected squared error of the outputs is

        Σ over stored tensors  max_i(m_i / t_i)² / (12·255²) · Σ_i g_i t_i²
        + ½ Σ over dense layers  Σ_o max_j(|w_jo| t_j)² / (12·127²) · Σ_i F_io / t_i²

    with the maxima m and the sensitivities g, F of `GroupStatistics`. Adam minimizes it over log t,
    starting from t_i = sqrt(m_i / max|w_i|).

    Args:
        statistics: Statistics of the group.
        margin: Headroom of the first stored tensor over the calibrated maximum.

    Returns:
        Positive factors of shape (channels,).
    """
    first, *others = statistics.tensors
    maximum = first.maximum.astype(np.float64) * margin
    live = maximum > DEAD
    if not live.any():
        return np.ones_like(maximum)
    if not statistics.kernels and not others:
        t = maximum
    else:
        t = _minimize(statistics, np.where(live, maximum, DEAD), live)
    return np.where(live, t, t[live].max())


def _minimize(statistics: GroupStatistics, maximum: np.ndarray, live: np.ndarray) -> np.ndarray:
    floor = np.log(maximum)
    weights = [np.abs(k).max(axis=(0, 2)) for k in statistics.kernels]
    largest = np.max(weights, axis=0) if weights else np.ones_like(maximum)
    logs = 0.5 * (floor - np.log(np.maximum(largest, DEAD)))
    logs = np.where(live, logs - (logs - floor)[live].min(), 0.0)
    best, best_error = logs, np.inf
    mean, square = np.zeros_like(logs), np.zeros_like(logs)
    for step in range(1, STEPS + 1):
        error, gradient = _expected_error(statistics, np.exp(logs), live)
        if error < best_error:
            best, best_error = logs, error
        gradient = np.where(live, gradient, 0) / max(error, DEAD) * len(logs) ** 0.5
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
        logs = logs - RATE * (1 - 0.9 * step / STEPS) * direction
        logs = np.where(live, np.maximum(logs, floor), logs)
        logs = np.where(live, logs - (logs - floor)[live].min(), logs)
    return np.exp(best)


def _expected_error(
    statistics: GroupStatistics, t: np.ndarray, live: np.ndarray
) -> tuple[float, np.ndarray]:
    """Computes the sum in `choose_factors` and its gradient with respect to log t."""
    error, gradient = 0.0, np.zeros_like(t)
    for index, tensor in enumerate(statistics.tensors):
        ratios = np.where(live, tensor.maximum / t, 0)
        worst = ratios.argmax()
        # The lower limit of t keeps the range of the first tensor at 1.
        span = 1.0 if index == 0 else ratios[worst]
        noise = np.where(live, tensor.sensitivity * t**2, 0) * tensor.step(span) ** 2 / 12
        error += noise.sum()
        gradient += 2 * noise
        if index:
            gradient[worst] -= 2 * noise.sum()
    for kernel, sensitivity in zip(statistics.kernels, statistics.kernel_sensitivity, strict=True):
        size = np.where(live[:, None], np.abs(kernel).max(0), 0) * t[:, None]
        largest = size.argmax(0)
        steps = size[largest, np.arange(size.shape[1])] ** 2 / (12 * 127**2)
        scaled = len(kernel) * np.where(live[:, None], sensitivity / t[:, None] ** 2, 0)
        noise = steps * scaled.sum(0)
        error += WEIGHT_SHARE * noise.sum()
        rise = np.bincount(largest, noise, len(t))
        gradient += WEIGHT_SHARE * 2 * (rise - scaled @ steps)
    return error, gradient


def _outputs(traced: Trace, images: np.ndarray) -> list[np.ndarray]:
    """Returns the float outputs of a model."""
    outputs = keras.tree.flatten(traced.model(images, training=False))
    outputs = [keras.ops.convert_to_numpy(output) for output in outputs]
    return [output for output in outputs if output.dtype.kind == "f"]
