"""Corrects ranges, weights and biases of an int8 file layer by layer against the float model.

TensorFlow's converter makes the graph of the int8 file. `calibrate` then computes its operators in
order on all calibration images, with the float value and the simulated integer value of each
tensor. It replaces what the converter chose: the range of each activation, the rounding of each
weight, and each bias, which it shifts by the mean difference of the two values. A layer is
corrected after all layers before it, so that errors do not accumulate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.quantization.int8_graph import Int8Graph, bias_of
from keras_mobileone.quantization.operators import LINEAR, Tensor, channel_axis
from keras_mobileone.quantization.ranges import SMALLEST_RATIO, set_ranges, widen_ranges
from keras_mobileone.quantization.rounding import quantize_kernel
from keras_mobileone.quantization.simulation import SimulationError, Simulator

# Operators that mostly move values. Their outputs are not reported.
UNREPORTED = ("PAD", "RESHAPE", "MAX_POOL_2D", "AVERAGE_POOL_2D")
# Largest |bias| in units of input scale · weight scale. Without this limit, the bias of a channel
# that is always zero, and therefore has a tiny weight scale, would overflow int32.
LARGEST_BIAS = 2**23
ROUNDINGS = ("nearest", "compensated")


@dataclass(frozen=True)
class Steps:
    """The steps that `quantize` takes after equalization.

    By default all steps are taken. Leave one out to measure its effect or to save time.

    Args:
        ranges: Whether to set the ranges of the activations from all calibration images. False
            keeps those that TensorFlow's converter chose from the first few images.
        outliers: Whether to leave rare large values out of the ranges, where this makes the
            expected error of the outputs smaller. It needs `ranges` and equalization.
        rounding: `"compensated"` rounds the weights of a layer one input after the other, and
            adjusts the weights that are not rounded yet to compensate for the error
            ([GPTQ](https://arxiv.org/abs/2210.17323)). `"nearest"` rounds each weight separately.
        biases: Whether to shift each bias by the mean error of its output.

    Raises:
        ValueError: If `rounding` is neither `"compensated"` nor `"nearest"`.

    Examples:
        >>> keras_mobileone.Steps(rounding="nearest")
        Steps(ranges=True, outliers=True, rounding='nearest', biases=True)
    """

    ranges: bool = True
    outliers: bool = True
    rounding: str = "compensated"
    biases: bool = True

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise InputValueError(
                f"`rounding` must be one of {', '.join(ROUNDINGS)}. Received: {self.rounding!r}."
            )


@dataclass(frozen=True)
class TensorReport:
    """Range and accuracy of one tensor of the integer model.

    Attributes:
        name: Name of the tensor.
        operator: Operator that computes the tensor.
        sqnr: Signal-to-quantization-noise ratio on the calibration images, in dB.
        low, high: Lowest and highest value that the integers can represent.
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
    limits: Mapping[bytes, float] | None = None,
) -> tuple[bytes, list[TensorReport]]:
    """Corrects an int8 file so that its outputs are close to those of the float model.

    Args:
        content: Content of the int8 file from the converter.
        float_content: Content of the float32 file that the converter made from the same model.
        images: Calibration images (count, height, width, channels), as the file takes them.
        steps: The steps to take.
        input_range: Lowest and highest value of the input. None: the range of `images`.
        limits: Largest value of the outputs of some convolutions and dense layers, by the bytes of
            the float kernel in TFLite's layout. Both the ranges and the float values to which the
            outputs are compared are limited.

    Returns:
        The new content, and a report on each tensor in order.

    Raises:
        SimulationError: If the files do not match, or LiteRT cannot run an operator in float.
    """
    graph, floats = Int8Graph(content), Int8Graph(float_content)
    graph.shorten_names()
    simulator = Simulator(graph, floats, len(images))
    weights = _matching_weights(graph, floats)
    linear = [operator for kind, operator in graph.operators if graph.is_linear(kind, operator)]
    for operator, (kernel, _) in zip(linear, weights, strict=True):
        limit = (limits or {}).get(kernel.tobytes())
        if limit is not None:
            simulator.limits[int(operator.outputs[0])] = limit
    source, images = graph.inputs[0], np.asarray(images, np.float32)
    if steps.ranges:
        input_range = input_range or (float(images.min()), float(images.max()))
        set_ranges(graph, simulator, weights, images, input_range)
    widen_ranges(graph, simulator, weights)
    # The float value and the simulated integer value of each tensor, by its index.
    reals = {source: images}
    simulated = {source: simulator.stored(source, images)}
    remaining, last_uses, reports = iter(weights), graph.last_uses(), []
    for position, (kind, operator) in enumerate(graph.operators):
        outputs = [int(tensor) for tensor in operator.outputs]
        if graph.is_linear(kind, operator):
            source = int(operator.inputs[LINEAR[kind][0]])
            kernel, bias = next(remaining)
            reals[outputs[0]] = simulator.linear(position, reals[source], kernel, bias)
            mean = simulator.mean(position, reals[source], kernel) + bias
            if source in last_uses.get(position, ()):
                del reals[source]  # the largest arrays, so they are not kept longer than needed
            values = simulated[source]
            if graph.is_integer(outputs[0]):
                result = _correct(graph, simulator, position, values, kernel, bias, mean, steps)
            else:
                result = simulator.linear(position, values, kernel, bias)
            simulated[outputs[0]] = result
        else:
            reals.update(zip(outputs, simulator.run(position, reals), strict=True))
            stored = simulator.run(position, simulated, stored=True)
            simulated.update(zip(outputs, stored, strict=True))
        for tensor in outputs:
            if graph.is_integer(tensor) and kind not in UNREPORTED:
                reports.append(_report(graph, tensor, kind, reals[tensor], simulated[tensor]))
        for tensor in last_uses.get(position, ()):
            reals.pop(tensor, None)
            simulated.pop(tensor, None)
    return graph.serialize(), reports


def _correct(
    graph: Int8Graph,
    simulator: Simulator,
    position: int,
    values: Tensor,
    kernel: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    steps: Steps,
) -> Tensor:
    """Writes the weights of a convolution or dense layer.

    Args:
        graph, simulator, steps: As in `calibrate`.
        position: Position of the operator in the file.
        values: Simulated input of the layer.
        kernel, bias: Float weights.
        mean: Mean of the float output of each channel before the activation.

    Returns:
        The simulated output of the layer.
    """
    kind, operator = graph.operators[position]
    source, kernel_index = (int(operator.inputs[i]) for i in LINEAR[kind][:2])
    output = int(operator.outputs[0])
    input_scale, _ = graph.scale_and_zero_point(source)
    output_scale, _ = graph.scale_and_zero_point(output)
    scale, codes = quantize_kernel(kind, operator, kernel, values, steps.rounding)
    smallest = SMALLEST_RATIO * output_scale / input_scale
    smallest = np.maximum(smallest, np.abs(bias) / (input_scale * LARGEST_BIAS))
    axis = channel_axis(kind)
    by_channel = [-1 if i == axis else 1 for i in range(kernel.ndim)]
    raised = (scale < smallest).reshape(by_channel)
    scale = np.maximum(scale, smallest)
    codes = np.where(raised, np.rint(kernel / scale.reshape(by_channel)), codes)
    stored = codes * scale.reshape(by_channel)
    bias_index = bias_of(kind, operator)
    shift = np.zeros(len(scale), np.float32)
    if bias_index is not None:
        if steps.biases:
            bias = mean - simulator.mean(position, values, stored)
        bias_scale = input_scale * scale
        bias_codes = np.rint(bias / bias_scale)
        shift = (bias_codes * bias_scale).astype(np.float32)
        graph.write(bias_index, bias_codes.astype(np.int32), bias_scale, 0)
    graph.write(kernel_index, codes.astype(np.int8), scale, axis)
    return simulator.linear(position, values, stored, shift, stored=True)


def _report(
    graph: Int8Graph, tensor: int, kind: str, real: Tensor, simulated: Tensor
) -> TensorReport:
    return TensorReport(graph.name(tensor), kind, sqnr(real, simulated), *graph.range(tensor))


def _matching_weights(
    graph: Int8Graph, float_graph: Int8Graph
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the float weights of all layers after a check that they match the int8 weights."""
    weights, quantized = float_graph.linear_weights(), graph.linear_weights()
    shapes = [kernel.shape for kernel, _ in weights], [kernel.shape for kernel, _ in quantized]
    close = shapes[0] == shapes[1] and all(
        np.abs(kernel - stored).max() <= np.abs(kernel).max() / 100 + 1e-6
        for (kernel, _), (stored, _) in zip(weights, quantized, strict=True)
    )
    if not close:
        raise SimulationError(
            "Expected an int8 file and a float file with the same layers in the same order. "
            "Received: files that differ. Convert both from one model."
        )
    return weights
