"""Setting ranges, weights and biases of an integer model, layer by layer beside the float one.

TensorFlow's converter makes the graph of the int8 file. `calibrate` then walks its operators in
order with all calibration images, keeps the float value and the simulated integer value of each
tensor side by side, and rewrites what the converter chose: the range of each activation, the
rounding of each weight, and each bias, by the mean difference of the two at that point. A layer is
corrected with everything before it already in place, so that errors do not pile up.
"""

from dataclasses import dataclass

import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.quantization import operators
from keras_mobileone.quantization.int8_graph import LINEAR, Int8Graph, bias_of
from keras_mobileone.quantization.rounding import channel_axis, quantize_kernel

# Operators whose output must have the scale of their input (TFLite's quantization specification).
SAME_SCALE = ("PAD", "RESHAPE", "MAX_POOL_2D", "AVERAGE_POOL_2D")
# Operators whose output scale the specification fixes, as the converter has set it.
FIXED_SCALE = ("LOGISTIC", "SOFTMAX", "TANH")
# Head room over the calibrated maximum where other images go beyond it (measured on S0): what is
# averaged over the image next, the average, and outputs without ReLU such as logits.
MARGIN_BEFORE_MEAN = 1.4
MARGIN_MEAN = 1.1
MARGIN_OUTPUT = 1.05
# |bias| in units of input scale · weight scale: a channel that never fires has a tiny weight scale,
# and its bias would overflow int32.
LARGEST_BIAS = 2**23
# input scale · weight scale / output scale, in which integer kernels work (XNNPACK: 2⁻³² … 2⁸).
SMALLEST_RATIO, LARGEST_RATIO = 2**-30, 2**7
ROUNDINGS = ("nearest", "compensated")


@dataclass(frozen=True)
class Steps:
    """The steps that `quantize` takes after equalization.

    By default all are taken. Leave one out to measure what it contributes, or to save time:
    compensated rounding takes the largest part of it.

    Args:
        ranges: Set the ranges of the activations from all calibration images. False keeps those
            that TensorFlow's converter chose from the first few.
        rounding: `"compensated"` rounds the weights of a layer one input after the other, and lets
            the weights not rounded yet make up for the error
            ([GPTQ](https://arxiv.org/abs/2210.17323)). `"nearest"` rounds each weight by itself.
        biases: Shift each bias by the mean error of its output.

    Raises:
        ValueError: If `rounding` is neither of the two.

    Example:

    >>> keras_mobileone.Steps(rounding="nearest")
    Steps(ranges=True, rounding='nearest', biases=True)
    """

    ranges: bool = True
    rounding: str = "compensated"
    biases: bool = True

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise InputValueError(
                f"`rounding` must be one of {', '.join(ROUNDINGS)}. Received: {self.rounding!r}."
            )


@dataclass(frozen=True)
class TensorReport:
    """How well one tensor of the integer model follows the float model.

    Attributes:
        name: Of the tensor.
        operator: That makes it.
        sqnr: Signal to quantization noise on the calibration images, dB.
        low, high: What its integers span.
    """

    name: str
    operator: str
    sqnr: float
    low: float
    high: float


def calibrate(
    content: bytes,
    float_content: bytes,
    images: np.ndarray,
    steps: Steps,
    input_range: tuple[float, float] | None = None,
) -> tuple[bytes, list[TensorReport]]:
    """Rewrites an int8 file so that it follows the float model.

    Args:
        content: Of the int8 file that the converter made.
        float_content: Of the float32 file that it made of the same model.
        images: Calibration images (count, height, width, channels), as the file takes them.
        steps: Which steps to take.
        input_range: What the input spans, if that is known; else as far as `images` go.

    Returns:
        The new content, and a report on each tensor, in order.

    Raises:
        ValueError: For an operator that `operators` does not know, or files that do not match.
    """
    import tensorflow as tf

    graph = Int8Graph(content)
    source = graph.inputs[0]
    real = tf.convert_to_tensor(images, tf.float32)
    if graph.is_quantized(source) and steps.ranges:
        graph.set_range(source, *(input_range or (float(images.min()), float(images.max()))))
    values = {source: (real, graph.on_grid(source, real))}
    weights = iter(_matching_weights(graph, Int8Graph(float_content)))
    last_uses = _last_uses(graph)
    reports = []
    for position, (kind, operator) in enumerate(graph.operators):
        output = int(operator.outputs[0])
        if kind in LINEAR:
            values[output] = _linear(graph, kind, operator, values, *next(weights), steps)
        else:
            values[output] = _other(graph, kind, operator, values, steps)
        if graph.is_quantized(output) and kind not in SAME_SCALE:
            reports.append(_report(graph, output, kind, *values[output]))
        for tensor in last_uses.get(position, ()):
            values.pop(tensor, None)
    return graph.serialize(), reports


def _linear(graph, kind, operator, values, kernel, bias, steps):
    """Float and simulated output of a convolution or dense layer; writes its weights."""
    import tensorflow as tf

    source, output = int(operator.inputs[0]), int(operator.outputs[0])
    real, simulated = values[source]
    wanted = operators.linear(kind, operator, real, kernel, bias)

    code = operators.attribute(operator, "fusedActivationFunction", 0)
    activated = operators.activate(code, wanted)
    if steps.ranges:
        _choose_range(graph, output, kind, activated)
    input_scale, _ = graph.scale_and_zero_point(source)
    scale, codes = quantize_kernel(kind, operator, kernel, simulated, steps.rounding)
    _widen(graph, output, input_scale * scale.max() / LARGEST_RATIO)
    output_scale, _ = graph.scale_and_zero_point(output)
    smallest = SMALLEST_RATIO * output_scale / input_scale
    smallest = np.maximum(smallest, np.abs(bias) / (input_scale * LARGEST_BIAS))
    axis = channel_axis(kind)
    by_channel = [-1 if i == axis else 1 for i in range(kernel.ndim)]
    raised = (scale < smallest).reshape(by_channel)
    scale = np.maximum(scale, smallest)
    codes = np.where(raised, np.rint(kernel / scale.reshape(by_channel)), codes)
    stored = codes * scale.reshape(by_channel)
    got = operators.linear(kind, operator, simulated, stored, 0.0)

    if bias_of(operator) is not None:
        if steps.biases:
            axes = list(range(got.shape.rank - 1))
            bias = (tf.reduce_mean(wanted, axes) - tf.reduce_mean(got, axes)).numpy()
        bias_scale = input_scale * scale
        bias_codes = np.rint(bias / bias_scale)
        got += (bias_codes * bias_scale).astype(np.float32)
        graph.write(bias_of(operator), bias_codes.astype(np.int32), bias_scale, 0)
    graph.write(int(operator.inputs[1]), codes.astype(np.int8), scale, axis)

    return activated, graph.on_grid(output, operators.activate(code, got))


def _other(graph, kind, operator, values, steps):
    """Float and simulated output of any other operator."""
    inputs, output = [int(i) for i in operator.inputs if i >= 0], int(operator.outputs[0])
    computed, constants = [], []
    for tensor in inputs:
        if tensor in values:
            computed.append(values[tensor])
        elif graph.is_quantized(tensor):
            computed.append((graph.real_constant(tensor),) * 2)
        else:
            constants.append(graph.constant(tensor))
    try:
        real, simulated = (
            operators.elementwise(kind, operator, [pair[i] for pair in computed], constants)
            for i in (0, 1)
        )
    except NotImplementedError as error:
        raise InputValueError(
            f"The int8 correction does not know the operator {kind}, which makes "
            f"{graph.name(output)!r}. Pass plain=True for the converter's own int8."
        ) from error
    copies = kind in SAME_SCALE or (kind == "QUANTIZE" and graph.is_quantized(inputs[0]))
    if copies:
        graph.copy_range(inputs[0], output)
    elif steps.ranges and kind not in FIXED_SCALE and graph.is_quantized(output):
        _choose_range(graph, output, kind, real)
    return real, graph.on_grid(output, simulated)


def _choose_range(graph, tensor, kind, real):
    low, high = float(np.min(real)), float(np.max(real))
    consumers = [k for k, op in graph.operators if tensor in op.inputs]
    if kind == "MEAN":
        margin = MARGIN_MEAN
    elif "MEAN" in consumers:
        margin = MARGIN_BEFORE_MEAN
    elif kind in LINEAR and low < 0:
        margin = MARGIN_OUTPUT
    else:
        margin = 1.0
    graph.set_range(tensor, low * margin, high * margin)


def _widen(graph, tensor, smallest_scale):
    """Makes a tensor's scale at least `smallest_scale`."""
    scale, _ = graph.scale_and_zero_point(tensor)
    if scale < smallest_scale:
        low, high = graph.range(tensor)
        graph.set_range(tensor, low * smallest_scale / scale, high * smallest_scale / scale)


def _report(graph, tensor, kind, real, simulated) -> TensorReport:
    name = graph.name(tensor).split(";")[0]
    return TensorReport(name, kind, sqnr(real, simulated), *graph.range(tensor))


def _last_uses(graph) -> dict[int, list[int]]:
    """For each operator's position the tensors that nothing after it takes."""
    last = {int(t): i for i, (_, op) in enumerate(graph.operators) for t in op.inputs}
    found = {}
    for tensor, position in last.items():
        found.setdefault(position, []).append(tensor)
    return found


def _matching_weights(graph, float_graph) -> list[tuple[np.ndarray, np.ndarray]]:
    """The float weights in the order of the int8 file's layers, checked against its own."""
    weights, quantized = float_graph.linear_weights(), graph.linear_weights()
    shapes = [kernel.shape for kernel, _ in weights], [kernel.shape for kernel, _ in quantized]
    close = shapes[0] == shapes[1] and all(
        np.abs(kernel - stored).max() <= np.abs(kernel).max() / 100 + 1e-6
        for (kernel, _), (stored, _) in zip(weights, quantized, strict=True)
    )
    if not close:
        raise InputValueError(
            "The int8 file and the float file do not hold the same layers in the same order. "
            "Convert both from one model."
        )
    return weights
