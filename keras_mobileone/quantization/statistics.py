"""Measures the ranges of a model's tensors, and the sensitivity of the outputs to their rounding.

Both come from one forward and one backward pass over the calibration images. The backward pass
starts from random combinations v of the outputs, v ~ N(0, 1). The expected square of a gradient is
then the expected squared error of the outputs for a unit error of the tensor (a Hutchinson estimate
of the diagonal of JᵀJ).
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from keras_mobileone.quantization.scaling_groups import ScalingGroup, is_relu
from keras_mobileone.quantization.trace import Call, Tensor, Trace

BATCH_SIZE = 8
SENSITIVITY_IMAGES = 32  # enough for a stable mean; maxima are taken over all images
SEED = 0


@dataclass
class TensorStatistics:
    """Statistics of a tensor that is stored as int8. The arrays have shape (channels,).

    Attributes:
        maximum: Largest magnitude of each channel.
        signed: Whether there are negative values.
        sensitivity: Squared error of the outputs for independent unit errors of all values of a
            channel that are not exactly zero, up to a factor that all tensors share.
    """

    maximum: np.ndarray
    signed: bool
    sensitivity: np.ndarray


@dataclass
class GroupStatistics:
    """Statistics of a `ScalingGroup`.

    Attributes:
        tensors: Statistics of the stored tensors, beginning with the output of the convolution.
        kernels: Kernel of each dense absorber, shape (taps, in, out).
        kernel_sensitivity: Squared error of the outputs for independent unit errors of the weights
            of one tap of each dense absorber, shape (in, out), up to the same factor. The part that
            shifts means is left out, since the correction of the biases removes it.
    """

    tensors: list[TensorStatistics]
    kernels: list[np.ndarray]
    kernel_sensitivity: list[np.ndarray]


def stored_tensors(trace: Trace, group: ScalingGroup) -> list:
    """Returns the symbolic tensors of a group that the integer model stores with their own range.

    A tensor that only a ReLU takes is not stored, since the ReLU is fused. Copies, such as those by
    padding and identity, have the range of their source.
    """
    copies = (layers.ZeroPadding2D, layers.Identity, layers.Dropout, layers.MaxPooling2D)
    stored = []
    for call in (group.producer, *group.calls):
        consumers = trace.consumers(call.output)
        fused = len(consumers) == 1 and is_relu(consumers[0].layer)
        if not fused and not isinstance(call.layer, copies):
            stored.append(call.output)
    return stored


def measure(trace: Trace, groups: list[ScalingGroup], images: np.ndarray) -> list[GroupStatistics]:
    """Measures the statistics of each group on images (count, height, width, channels)."""
    tensors = [stored_tensors(trace, group) for group in groups]
    dense = [[c for c in group.absorbers if not is_depthwise(c)] for group in groups]
    sums = [
        GroupStatistics(
            [TensorStatistics(np.zeros(1), False, np.zeros(1)) for _ in stored],
            [_taps(call)[:, group.channels(call.inputs[0])] for call in calls],
            [np.zeros(1) for _ in calls],
        )
        for group, stored, calls in zip(groups, tensors, dense, strict=True)
    ]
    rng = np.random.default_rng(SEED)
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        backward = start < SENSITIVITY_IMAGES
        if backward:
            values, gradients = _forward_and_backward(trace, tensors, dense, batch, rng)
        else:
            values = trace.run(batch)
        for group, stored, calls, total in zip(groups, tensors, dense, sums, strict=True):
            for tensor, statistics in zip(stored, total.tensors, strict=True):
                own = group.channels(tensor)
                _add_range(statistics, values[id(tensor)][..., own])
                if backward:
                    gradient = gradients[id(tensor)][..., own]
                    _add_sensitivity(statistics, values[id(tensor)][..., own], gradient)
            for i, call in enumerate(calls if backward else ()):
                own = group.channels(call.inputs[0])
                squares = _weight_gradient_squares(call, own, values, gradients)
                total.kernel_sensitivity[i] = total.kernel_sensitivity[i] + squares
    return sums


def is_depthwise(call: Call) -> bool:
    """Returns whether the layer has one filter for each channel."""
    return isinstance(call.layer, layers.DepthwiseConv2D)


def _forward_and_backward(
    trace: Trace,
    tensors: list[list[Tensor]],
    dense: list[list[Call]],
    batch: np.ndarray,
    rng: np.random.Generator,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Computes values and gradients.

    Returns:
        The values of all tensors, and the gradients of the stored tensors and of the outputs of the
        dense layers, by the id of the symbolic tensor.
    """
    import tensorflow as tf

    sources = {id(t): t for stored in tensors for t in stored}
    sources |= {id(call.output): call.output for calls in dense for call in calls}
    with tf.GradientTape() as tape:
        images = tf.convert_to_tensor(batch)
        tape.watch(images)
        values = trace.run(images)
        target = 0.0
        for output in _before_saturation(trace):
            value = values[id(output)]
            weights = rng.standard_normal(value.shape) / (np.std(value) + 1e-12)
            target += tf.reduce_sum(value * weights.astype(np.float32))
    watched = [values[key] for key in sources]
    gradients = tape.gradient(target, watched, unconnected_gradients="zero")
    return values, dict(zip(sources, gradients, strict=True))


def _before_saturation(trace: Trace) -> list:
    """Returns the float outputs without a final softmax or sigmoid, whose gradients may vanish."""
    flat = (keras.activations.softmax, keras.activations.sigmoid)
    outputs = []
    for output in trace.model.outputs:
        if not keras.backend.is_float_dtype(output.dtype):
            continue  # for example the indices of the largest values
        makers = [call for call in trace.calls if any(t is output for t in call.outputs)]
        activation = getattr(makers[0].layer, "activation", None) if makers else None
        saturates = activation in flat and not makers[0].is_linear
        outputs.append(makers[0].inputs[0] if saturates else output)
    return outputs


def _add_range(statistics: TensorStatistics, value: Tensor) -> None:
    value = np.asarray(value)
    axes = tuple(range(value.ndim - 1))
    statistics.maximum = np.maximum(statistics.maximum, np.abs(value).max(axes))
    statistics.signed = statistics.signed or bool(value.min() < 0)


def _add_sensitivity(statistics: TensorStatistics, value: Tensor, gradient: Tensor) -> None:
    squares = np.where(np.asarray(value) != 0, np.square(gradient), 0)
    axes = tuple(range(squares.ndim - 1))
    statistics.sensitivity = statistics.sensitivity + squares.sum(axes, dtype=np.float64)


def _weight_gradient_squares(
    call: Call, own: slice, values: dict[int, Tensor], gradients: dict[int, Tensor]
) -> np.ndarray:
    """Returns the squared gradient of a 1×1 kernel, summed over the batch, shape (in, out).

    Of the input channels only `own` are in the result.
    """
    import tensorflow as tf

    value, gradient = values[id(call.inputs[0])][..., own], gradients[id(call.output)]
    stride = getattr(call.layer, "strides", (1, 1))
    if value.shape.rank == 4:
        value = value[:, :: stride[0], :: stride[1]][:, : gradient.shape[1], : gradient.shape[2]]
        gradient = gradient[:, : value.shape[1], : value.shape[2]]
    channels, filters = value.shape[-1], gradient.shape[-1]
    value = tf.reshape(value, (len(value), -1, channels))
    gradient = tf.reshape(gradient, (len(gradient), -1, filters))
    centered = value - tf.reduce_mean(value, (0, 1))
    products = tf.matmul(centered, gradient, transpose_a=True)
    return np.asarray(tf.reduce_sum(tf.square(products), 0), np.float64)


def _taps(call: Call) -> np.ndarray:
    """Returns the kernel of a dense layer as (taps, in, out)."""
    kernel = keras.ops.convert_to_numpy(call.layer.kernel).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])
