"""Measures the ranges of a model's tensors, and the sensitivity of the outputs to their rounding.

The ranges come from a forward pass over the calibration images, and the sensitivity from a backward
pass over some of them. The backward pass starts from random combinations v of the outputs,
v ~ N(0, 1). The expected square of a gradient is then the expected squared error of the outputs for
a unit error of the tensor (a Hutchinson estimate of the diagonal of JᵀJ).

The rounding errors of a channel are often alike in large parts of an image, where its values are.
Their effects then add up, in S0's last depthwise layer of stage 3 to 2.6 times those of independent
errors. The gradient is therefore multiplied with rounding errors of the values themselves, if there
are enough images. With a few, chance would decide about single channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers

from keras_mobileone.quantization.int8_graph import LEVELS
from keras_mobileone.quantization.scaling_groups import ScalingGroup, is_relu
from keras_mobileone.quantization.trace import Call, Tensor, Trace

BATCH_SIZE = 4
SENSITIVITY_IMAGES = 32  # enough for a stable mean; maxima are taken over all images
ROUNDING_VARIANCE = 1 / 12  # of a rounding error, in steps
DEAD = 1e-12  # a channel with a smaller maximum counts as always zero

Channels = tuple[keras.KerasTensor, slice]  # a tensor, and the channels of one group in it
Kernel = tuple[Call, slice]  # a dense layer, and the channels of one group in its input


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
    sensitivity: np.ndarray = field(default_factory=lambda: np.zeros(0))

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
    tensors = [
        (tensor, group.channels(tensor))
        for group in groups
        for tensor in stored_tensors(trace, group)
    ]
    kernels = [(call, group.channels(call.inputs[0])) for group in groups for call in _dense(group)]
    statistics, means = _measure_values(trace, tensors, kernels, images)
    few = images[:SENSITIVITY_IMAGES]
    of_kernels = iter(_measure_sensitivity(trace, tensors, kernels, statistics, means, few))
    of_tensors = iter(statistics)
    return [
        GroupStatistics(
            [next(of_tensors) for _ in stored_tensors(trace, group)],
            [_taps(call)[:, group.channels(call.inputs[0])] for call in _dense(group)],
            [next(of_kernels) for _ in _dense(group)],
        )
        for group in groups
    ]


def _dense(group: ScalingGroup) -> list[Call]:
    return [call for call in group.absorbers if not is_depthwise(call)]


def _measure_values(
    trace: Trace, tensors: list[Channels], kernels: list[Kernel], images: np.ndarray
) -> tuple[list[TensorStatistics], list[np.ndarray]]:
    """Measures values in a forward pass.

    Returns:
        The statistics of the stored tensors, without their sensitivity, and the mean input of each
        dense kernel, (in,).
    """
    import tensorflow as tf

    @tf.function
    def of_batch(batch: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        values = trace.run(batch)
        of_tensors = []
        for tensor, own in tensors:
            value = values[id(tensor)][..., own]
            of_tensors.append((image_maxima(value), tf.reduce_any(value < 0)))
        return of_tensors, [_image_means(values[id(c.inputs[0])][..., own]) for c, own in kernels]

    parts = [of_batch(batch) for _, batch in _batches(images)]
    extremes, means = ([*zip(*part, strict=True)] for part in zip(*parts, strict=True))
    statistics = []
    for of_tensor in extremes:
        maxima, negative = zip(*of_tensor, strict=True)
        statistics.append(TensorStatistics(np.concatenate(maxima), any(map(bool, negative))))
    return statistics, [np.concatenate(of_kernel).mean(0) for of_kernel in means]


def _batches(images: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    import tensorflow as tf

    for start in range(0, len(images), BATCH_SIZE):
        yield start, tf.constant(images[start : start + BATCH_SIZE])


def _measure_sensitivity(
    trace: Trace,
    tensors: list[Channels],
    kernels: list[Kernel],
    statistics: list[TensorStatistics],
    means: list[np.ndarray],
    images: np.ndarray,
) -> list[np.ndarray]:
    """Measures sensitivities in a backward pass.

    Args:
        trace, tensors, kernels: As in `_measure_values`.
        statistics: The statistics of the tensors, of which the sensitivity is set.
        means: The mean input of each kernel.
        images: The images.

    Returns:
        The sensitivity of the kernels.
    """
    import tensorflow as tf

    steps = [np.asarray(measured.step(measured.maximum)) for measured in statistics]
    effect = _effect_of_rounding if len(images) == SENSITIVITY_IMAGES else _effect_of_unlike_errors

    @tf.function
    def of_batch(batch: Tensor, seed: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            values = trace.run(batch)
            target = tf.zeros(())
            for index, output in enumerate(before_saturation(trace)):
                value = values[id(output)]
                weights = tf.random.stateless_normal(tf.shape(value), (index, seed))
                target += tf.reduce_sum(value * weights / standard_deviation(value))
        watched = [tensor for tensor, _ in tensors] + [call.output for call, _ in kernels]
        computed = tape.gradient(
            target, [values[id(tensor)] for tensor in watched], unconnected_gradients="zero"
        )
        gradients = dict(zip(map(id, watched), computed, strict=True))
        of_tensors = [
            effect(values[id(tensor)][..., own], gradients[id(tensor)][..., own], step)
            for (tensor, own), step in zip(tensors, steps, strict=True)
        ]
        of_kernels = [
            _weight_gradient_squares(
                call, values[id(call.inputs[0])][..., own] - mean, gradients[id(call.output)]
            )
            for (call, own), mean in zip(kernels, means, strict=True)
        ]
        return of_tensors, of_kernels

    parts = [of_batch(batch, tf.constant(start)) for start, batch in _batches(images)]
    effects, squares = ([*zip(*part, strict=True)] for part in zip(*parts, strict=True))
    for measured, of_tensor in zip(statistics, effects, strict=True):
        sums, slopes, errors = np.concatenate(of_tensor, axis=1).astype(np.float64)
        # The mean of the errors is left out, since the correction of the biases removes it.
        measured.sensitivity = np.square(sums - errors.mean(0) * slopes).sum(0) / ROUNDING_VARIANCE
    return [np.stack(of_kernel).sum(0, dtype=np.float64) for of_kernel in squares]


def is_depthwise(call: Call) -> bool:
    """Returns whether the layer has one filter for each channel."""
    return isinstance(call.layer, layers.DepthwiseConv2D)


def before_saturation(trace: Trace) -> list:
    """Returns the float outputs without a final softmax or sigmoid, whose gradients may vanish."""
    flat = (keras.activations.softmax, keras.activations.sigmoid)
    outputs = []
    for output in trace.model.outputs:
        makers = [call for call in trace.calls if any(t is output for t in call.outputs)]
        if not keras.backend.is_float_dtype(_dtype(output, makers)):
            continue  # for example the indices of the largest values
        activation = getattr(makers[0].layer, "activation", None) if makers else None
        saturates = activation in flat and not makers[0].is_linear
        outputs.append(makers[0].inputs[0] if saturates else output)
    return outputs


def _dtype(output: keras.KerasTensor, makers: list[Call]) -> str:
    """Returns the dtype of an output, for which a `Lambda` layer states that of its policy."""
    if makers and isinstance(makers[0].layer, layers.Lambda):
        call = makers[0]
        specs = keras.Operation.compute_output_spec(call.layer, *call.args, **call.kwargs)
        position = [t is output for t in call.outputs].index(True)
        return keras.tree.flatten(specs)[position].dtype
    return output.dtype


def standard_deviation(output: Tensor) -> Tensor:
    """Returns the standard deviation of an output, which is never 0."""
    import tensorflow as tf

    return tf.math.reduce_std(output) + DEAD


def image_maxima(value: Tensor) -> Tensor:
    """Returns the largest magnitude of each channel in each image, shape (images, channels)."""
    import tensorflow as tf

    return tf.reduce_max(tf.abs(value), range(1, value.shape.rank - 1))


def _effect_of_rounding(value: Tensor, gradient: Tensor, step: np.ndarray) -> Tensor:
    """Returns what rounding each channel of each image to multiples of its step does.

    Args:
        value: Values of a tensor, shape (images, …, channels).
        gradient: Gradients of the same shape, of the outputs.
        step: Step of each channel, shape (channels,).

    Returns:
        Shape (3, images, channels): the error of the outputs in units of the step, the error that
        an error of one step in all positions would cause, and the mean error in steps.
    """
    import tensorflow as tf

    axes = range(1, value.shape.rank - 1)
    steps = value / np.maximum(step, DEAD)
    errors = tf.round(steps) - steps
    effects = tf.reduce_sum(gradient * errors, axes)
    return tf.stack([effects, tf.reduce_sum(gradient, axes), tf.reduce_mean(errors, axes)])


def _effect_of_unlike_errors(value: Tensor, gradient: Tensor, step: np.ndarray) -> Tensor:
    """Returns the same for independent errors of mean 0 of all values that are not exactly zero."""
    import tensorflow as tf

    squares = tf.where(value != 0, tf.square(gradient), 0)
    effects = tf.sqrt(ROUNDING_VARIANCE * tf.reduce_sum(squares, range(1, squares.shape.rank - 1)))
    return tf.stack([effects, tf.zeros_like(effects), tf.zeros_like(effects)])


def _image_means(value: Tensor) -> Tensor:
    """Returns the mean of each channel in each image, shape (images, channels)."""
    import tensorflow as tf

    return tf.reduce_mean(value, range(1, value.shape.rank - 1))


def _weight_gradient_squares(call: Call, value: Tensor, gradient: Tensor) -> Tensor:
    """Returns the squared gradient of a 1×1 kernel, summed over the batch, shape (in, out).

    Args:
        call: Call of the layer.
        value: Its input, shape (images, …, in).
        gradient: Gradient of its output, shape (images, …, out).
    """
    import tensorflow as tf

    stride = getattr(call.layer, "strides", (1, 1))
    if value.shape.rank == 4:
        value = value[:, :: stride[0], :: stride[1]][:, : gradient.shape[1], : gradient.shape[2]]
        gradient = gradient[:, : value.shape[1], : value.shape[2]]
    channels, filters = value.shape[-1], gradient.shape[-1]
    value = tf.reshape(value, (len(value), -1, channels))
    gradient = tf.reshape(gradient, (len(gradient), -1, filters))
    products = tf.matmul(value, gradient, transpose_a=True)
    return tf.reduce_sum(tf.square(products), 0)


def _taps(call: Call) -> np.ndarray:
    """Returns the kernel of a dense layer as (taps, in, out)."""
    kernel = keras.ops.convert_to_numpy(call.layer.kernel).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])
