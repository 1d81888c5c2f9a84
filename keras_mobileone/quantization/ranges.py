"""Chooses the ranges of the activations of an int8 file.

Some operators require equal scales of the tensors that they take and return; a concatenation has
one scale for all of them. The tensors of an int8 file therefore form groups with one range each.
All ranges are set before any weight is corrected, since the correction depends on them.
"""

from collections.abc import Sequence

import numpy as np

from keras_mobileone.quantization.int8_graph import Int8Graph
from keras_mobileone.quantization.operators import (
    COPYING,
    FIXED_SCALE,
    KNOWN,
    LINEAR,
    SAME_SCALE,
    Operator,
    Tensor,
)
from keras_mobileone.quantization.rounding import kernel_scale
from keras_mobileone.quantization.simulation import Simulator

# Headroom over the calibrated maximum for tensors in which other images exceed it (measured on S0).
MARGIN_BEFORE_MEAN = 1.4  # tensors that are averaged over the image next
MARGIN_BEFORE_MAX = 1.1  # tensors whose maximum over the image is taken next
MARGIN_MEAN = 2.0  # averages over the image, of which each image gives only one for each channel
MARGIN_OUTPUT = 1.05  # outputs without ReLU, such as logits
# Limits of input scale · weight scale / output scale in integer kernels (XNNPACK: 2⁻³² … 2⁸).
SMALLEST_RATIO, LARGEST_RATIO = 2**-30, 2**7
WIDENING_ROUNDS = 4

Range = tuple[float, float]


class ScaleGroups:
    """Groups of integer tensors of a file that share one scale and zero point.

    Args:
        graph: The int8 file.

    Attributes:
        groups: The tensors of each group.
        kept: Tensors of the groups that keep the converter's range, because the specification
            prescribes the scale of a member, or a member belongs to an unknown operator.
    """

    def __init__(self, graph: Int8Graph):
        groups: dict[int, list[int]] = {}  # by tensor; the members of a group share one list
        fixed = set()
        for kind, operator in graph.operators:
            tensors = integers(graph, operator)
            for tensor in tensors:
                groups.setdefault(tensor, [tensor])
            if kind in SAME_SCALE or is_copy(graph, kind, operator):
                joint = list(dict.fromkeys(t for tensor in tensors for t in groups[tensor]))
                groups.update(dict.fromkeys(joint, joint))
            if kind in FIXED_SCALE:
                fixed |= {int(tensor) for tensor in operator.outputs}
            elif kind not in KNOWN:
                fixed |= set(tensors)
        self._by_tensor = groups
        self.groups = list({id(group): group for group in groups.values()}.values())
        self.kept = {t for group in self.groups if fixed & set(group) for t in group}

    def of(self, tensor: int) -> list[int]:
        """Returns the group that a tensor belongs to."""
        return self._by_tensor[tensor]


def integers(graph: Int8Graph, operator: Operator) -> list[int]:
    """Returns the 8-bit tensors that an operator takes or returns."""
    tensors = [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]
    return [tensor for tensor in dict.fromkeys(tensors) if graph.is_integer(tensor)]


def is_copy(graph: Int8Graph, kind: str, operator: Operator) -> bool:
    """Returns whether the output of an operator has the values, and so the range, of its input."""
    if kind == "QUANTIZE":  # a copy from uint8 to int8; from int8 to int8 it changes the scale
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        return graph.is_integer(source) and graph.is_uint8(source) != graph.is_uint8(target)
    return kind in COPYING


def unknown_operators(graph: Int8Graph) -> list[str]:
    """Returns the sorted names of operators on integers whose rules for scales are not known."""
    return sorted({k for k, op in graph.operators if k not in KNOWN and integers(graph, op)})


def set_ranges(
    graph: Int8Graph,
    simulator: Simulator,
    weights: Sequence[tuple[np.ndarray, np.ndarray]],
    images: Tensor,
    input_range: Range,
) -> None:
    """Sets the range of each group of tensors by the values of the float model.

    Args:
        graph: The int8 file. It is changed.
        simulator: Simulator of the same file.
        weights: Float kernel and bias of each linear operator, in order.
        images: float32 calibration images, as the file takes them.
        input_range: Lowest and highest value of the input.
    """
    measured = _float_ranges(graph, simulator, weights, images, input_range)
    if graph.is_integer(graph.inputs[0]):
        measured[graph.inputs[0]] = input_range
    scales = ScaleGroups(graph)
    for group in scales.groups:
        ranges = [measured[tensor] for tensor in group if tensor in measured]
        if scales.kept & set(group) or not ranges:
            continue
        for tensor in group:
            if tensor not in measured and graph.constant(tensor) is not None:
                values = simulator.real_constant(tensor)
                ranges.append((float(values.min()), float(values.max())))
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        _set_range(graph, simulator, group, low, high)


def widen_ranges(
    graph: Int8Graph, simulator: Simulator, weights: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Widens the ranges of linear operators' outputs to scales that integer kernels can compute.

    A wider group may require that another one is widened too, so several rounds may be needed.
    """
    scales = ScaleGroups(graph)
    for _ in range(WIDENING_ROUNDS):
        if not _widen_once(graph, simulator, scales, weights):
            return


def _widen_once(
    graph: Int8Graph,
    simulator: Simulator,
    scales: ScaleGroups,
    weights: Sequence[tuple[np.ndarray, np.ndarray]],
) -> bool:
    linear_operators = [(k, op) for k, op in graph.operators if graph.is_linear(k, op)]
    widened = False
    for (kind, operator), (kernel, _) in zip(linear_operators, weights, strict=True):
        source, output = int(operator.inputs[LINEAR[kind][0]]), int(operator.outputs[0])
        if not graph.is_integer(output) or output in scales.kept:
            continue
        input_scale, _ = graph.scale_and_zero_point(source)
        scale, _ = graph.scale_and_zero_point(output)
        smallest = input_scale * kernel_scale(kind, kernel).max() / LARGEST_RATIO
        if scale < smallest:
            low, high = graph.range(output)
            low, high = low * smallest / scale, high * smallest / scale
            _set_range(graph, simulator, scales.of(output), low, high)
            widened = True
    return widened


def _set_range(
    graph: Int8Graph, simulator: Simulator, group: list[int], low: float, high: float
) -> None:
    """Sets the range of all tensors of a group to [low, high]."""
    for tensor in group:
        if graph.constant(tensor) is None:
            graph.set_range(tensor, low, high)
        else:
            graph.set_constant(tensor, simulator.real_constant(tensor), low, high)


def _float_ranges(
    graph: Int8Graph,
    simulator: Simulator,
    weights: Sequence[tuple[np.ndarray, np.ndarray]],
    images: Tensor,
    input_range: Range,
) -> dict[int, Range]:
    """Returns the range of each integer tensor in the float model, with headroom.

    Outputs of operators that copy their input are left out. The range of a normalized input is
    computed, since the images need not have the lowest and the highest pixel.
    """
    values, ranges = {graph.inputs[0]: images}, {}
    known = {graph.inputs[0]: input_range}
    layers, last_uses = iter(weights), graph.last_uses()
    for position, (kind, operator) in enumerate(graph.operators):
        if graph.is_linear(kind, operator):
            source, (kernel, bias) = int(operator.inputs[LINEAR[kind][0]]), next(layers)
            outputs = [simulator.linear(position, values[source], kernel, bias)]
            if source in known and _is_normalization(kind, kernel):
                known[int(operator.outputs[0])] = _normalized_range(kernel, bias, known[source])
        else:
            outputs = simulator.run(position, values)
            if kind == "QUANTIZE" and int(operator.inputs[0]) in known:
                known[int(operator.outputs[0])] = known[int(operator.inputs[0])]
        for tensor, value in zip(map(int, operator.outputs), outputs, strict=True):
            values[tensor] = value
            if graph.is_integer(tensor) and not is_copy(graph, kind, operator):
                ranges[tensor] = known.get(tensor) or _with_margin(graph, tensor, kind, value)
        for tensor in last_uses.get(position, ()):
            values.pop(tensor, None)
    return ranges


def _is_normalization(kind: str, kernel: np.ndarray) -> bool:
    """Returns whether each output depends on at most one value of the input."""
    return kind == "CONV_2D" and bool((np.count_nonzero(kernel, axis=(1, 2, 3)) <= 1).all())


def _normalized_range(kernel: np.ndarray, bias: np.ndarray, source: Range) -> Range:
    """Returns the lowest and the highest output of a normalization of values in a range."""
    ends = np.multiply.outer(source, kernel.sum((1, 2, 3))) + bias
    return float(ends.min()), float(ends.max())


def _with_margin(graph: Int8Graph, tensor: int, kind: str, value: Tensor) -> Range:
    low, high = float(np.min(value)), float(np.max(value))
    consumers = {k for k, op in graph.operators if tensor in op.inputs}
    if kind == "MEAN":
        margin = MARGIN_MEAN
    elif "MEAN" in consumers:
        margin = MARGIN_BEFORE_MEAN
    elif "REDUCE_MAX" in consumers:
        margin = MARGIN_BEFORE_MAX
    elif kind in LINEAR and low < 0:
        margin = MARGIN_OUTPUT
    else:
        margin = 1.0
    return low * margin, high * margin
