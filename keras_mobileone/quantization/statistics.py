"""Measures the ranges of a model's tensors, and the sensitivity of the outputs to their rounding.

Both come from one forward and one backward pass over the calibration images. The backward pass
starts from random combinations v of the outputs, v ~ N(0, 1). The expected square of a gradient is
then the expected squared error of the outputs for a unit error of the tensor (a Hutchinson estimate
of the diagonal of JᵀJ).

The rounding errors of a channel are often alike in large parts of an image, where its values are.
Their effects then add up, in S0's last depthwise layer of stage 3 to 2.6 times those of independent
errors. The gradient is therefore multiplied with rounding errors of the values themselves, if there
are enough images. With a few, chance would decide about single channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from keras import layers

from keras_mobileone.quantization.int8_graph import LEVELS
from keras_mobileone.quantization.scaling_groups import ScalingGroup, is_relu
from keras_mobileone.quantization.trace import Call, Tensor, Trace

BATCH_SIZE = 4
SENSITIVITY_IMAGES = 32  # enough for a stable mean; maxima are taken over all images
BEYOND_BATCH = 1.5  # rough ratio of the largest value of a channel in all images to that in a batch
DEAD = 1e-12  # a channel with a smaller maximum counts as always zero


@dataclass
class TensorStatistics:
    """Statistics of a tensor that is stored as int8.

    Attributes:
        maxima: Largest magnitude of each channel in each image, shape (images, channels).
        signed: Whether there are negative values.
        sensitivity: Squared error of the outputs by rounding a channel, divided by the variance of
            the rounding errors, summed over `SENSITIVITY_IMAGES` images, shape (channels,). The
            error of each output is in units of its standard deviation.
    """

    maxima: np.ndarray
    signed: bool
    sensitivity: np.ndarray

    @property
    def maximum(self) -> np.ndarray:
        """Largest magnitude of each channel, shape (channels,)."""
        return self.maxima.max(0)

    def step(self, largest: np.ndarray | float) -> np.ndarray | float:
        """Returns the step between the integers of a range that ends at the magnitude `largest`."""
        return (2 if self.signed else 1) * largest / LEVELS


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
    import tensorflow as tf

    tensors = [stored_tensors(trace, group) for group in groups]
    dense = [[c for c in group.absorbers if not is_depthwise(c)] for group in groups]
    sums = [
        GroupStatistics(
            [_no_statistics(group) for _ in stored],
            [_taps(call)[:, group.channels(call.inputs[0])] for call in calls],
            [np.zeros(1) for _ in calls],
        )
        for group, stored, calls in zip(groups, tensors, dense, strict=True)
    ]
    effect = _effect_of_rounding if len(images) >= SENSITIVITY_IMAGES else _effect_of_unlike_errors
    of_batch = tf.function(partial(_of_batch, trace, groups, tensors, dense, effect))
    for start in range(0, len(images), BATCH_SIZE):
        batch = tf.constant(images[start : start + BATCH_SIZE])
        seed = tf.constant(start) if start < SENSITIVITY_IMAGES else None
        for (stored, squares), total in zip(of_batch(batch, seed), sums, strict=True):
            for (maxima, negative, own), statistics in zip(stored, total.tensors, strict=True):
                statistics.maxima = np.concatenate([statistics.maxima, maxima])
                statistics.signed |= bool(negative)
                statistics.sensitivity = statistics.sensitivity + np.asarray(own, np.float64)
            for i, own in enumerate(squares):
                sensitivity = total.kernel_sensitivity[i] + np.asarray(own, np.float64)
                total.kernel_sensitivity[i] = sensitivity
    return sums


def _of_batch(
    trace: Trace,
    groups: list[ScalingGroup],
    tensors: list[list[keras.KerasTensor]],
    dense: list[list[Call]],
    effect: Callable[[Tensor, Tensor], Tensor],
    batch: Tensor,
    seed: Tensor | None,
) -> list[tuple[list[tuple[Tensor, Tensor, Tensor]], list[Tensor]]]:
    """Computes the statistics of each group on a batch of images.

    Args:
        trace, groups: As in `measure`.
        tensors: The stored tensors of each group.
        dense: The dense absorbers of each group.
        effect: Computes the sensitivity from the values and the gradients of a tensor.
        batch: The images.
        seed: Seed of the weights of the outputs in the backward pass, or None to measure only the
            maxima.

    Returns:
        For each group two lists: the maxima, the presence of negative values, and the sensitivity
        of each stored tensor, and the sensitivity of each dense kernel.
    """
    import tensorflow as tf

    sources = {id(t): t for stored in tensors for t in stored}
    sources |= {id(call.output): call.output for calls in dense for call in calls}
    with tf.GradientTape() as tape:
        tape.watch(batch)
        values = trace.run(batch)
        target = tf.zeros(())
        for index, output in enumerate(before_saturation(trace) if seed is not None else ()):
            value = values[id(output)]
            weights = tf.random.stateless_normal(tf.shape(value), (index, seed))
            target += tf.reduce_sum(value * weights / standard_deviation(value))
    gradients = {}
    if seed is not None:
        watched = [values[key] for key in sources]
        computed = tape.gradient(target, watched, unconnected_gradients="zero")
        gradients = dict(zip(sources, computed, strict=True))
    results = []
    for group, stored, calls in zip(groups, tensors, dense, strict=True):
        of_tensors = []
        for tensor in stored:
            value = values[id(tensor)][..., group.channels(tensor)]
            squares = tf.zeros(())
            if gradients:
                gradient = gradients[id(tensor)][..., group.channels(tensor)]
                squares = effect(value, gradient)
            of_tensors.append((image_maxima(value), tf.reduce_any(value < 0), squares))
        of_kernels = [
            _weight_gradient_squares(call, group.channels(call.inputs[0]), values, gradients)
            for call in (calls if gradients else ())
        ]
        results.append((of_tensors, of_kernels))
    return results


def is_depthwise(call: Call) -> bool:
    """Returns whether the layer has one filter for each channel."""
    return isinstance(call.layer, layers.DepthwiseConv2D)


def before_saturation(trace: Trace) -> list:
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


def standard_deviation(output: Tensor) -> Tensor:
    """Returns the standard deviation of an output, which is never 0."""
    import tensorflow as tf

    return tf.math.reduce_std(output) + 1e-12


def image_maxima(value: Tensor) -> Tensor:
    """Returns the largest magnitude of each channel in each image, shape (images, channels)."""
    import tensorflow as tf

    return tf.reduce_max(tf.abs(value), range(1, value.shape.rank - 1))


def _effect_of_rounding(value: Tensor, gradient: Tensor) -> Tensor:
    """Returns the squared error by rounding each channel to int8, as `sensitivity`.

    The mean of the rounding errors is left out, since the correction of the biases removes it.

    Args:
        value: Values of a tensor, shape (images, …, channels).
        gradient: Gradients of the same shape.
    """
    import tensorflow as tf

    axes = list(range(value.shape.rank - 1))
    steps = value / (tf.reduce_max(tf.abs(value), axes) * BEYOND_BATCH / LEVELS + DEAD)
    errors = tf.round(steps) - steps
    errors -= tf.reduce_mean(errors, axes)
    effects = tf.reduce_sum(gradient * errors, axes[1:])
    return tf.reduce_sum(tf.square(effects), 0) * 12  # 1/12 is the variance of rounding errors


def _effect_of_unlike_errors(value: Tensor, gradient: Tensor) -> Tensor:
    """Returns the squared error by independent errors of all values that are not exactly zero."""
    import tensorflow as tf

    squares = tf.where(value != 0, tf.square(gradient), 0)
    return tf.reduce_sum(squares, range(squares.shape.rank - 1))


def _no_statistics(group: ScalingGroup) -> TensorStatistics:
    channels = group.producer.output.shape[-1]
    return TensorStatistics(np.zeros((0, channels)), False, np.zeros(channels))


def _weight_gradient_squares(
    call: Call, own: slice, values: dict[int, Tensor], gradients: dict[int, Tensor]
) -> Tensor:
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
    return tf.reduce_sum(tf.square(products), 0)


def _taps(call: Call) -> np.ndarray:
    """Returns the kernel of a dense layer as (taps, in, out)."""
    kernel = keras.ops.convert_to_numpy(call.layer.kernel).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])
