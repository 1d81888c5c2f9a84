"""Choosing what the integers of each activation span.

Some operators bind the scales of the tensors that they take and return: a concatenation has one
scale for all. The tensors of an int8 file therefore fall into groups with one range each. All
ranges are set before any weight is corrected, since the correction counts on them.
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

# Head room over the calibrated maximum where other images go beyond it (measured on S0): what is
# averaged over the image next, the average, and outputs without ReLU such as logits.
MARGIN_BEFORE_MEAN = 1.4
MARGIN_BEFORE_MAX = 1.1  # a maximum over the image is where other images go beyond
MARGIN_MEAN = 1.1
MARGIN_OUTPUT = 1.05
# input scale · weight scale / output scale, in which integer kernels work (XNNPACK: 2⁻³² … 2⁸).
SMALLEST_RATIO, LARGEST_RATIO = 2**-30, 2**7
WIDENING_ROUNDS = 4

Range = tuple[float, float]


class ScaleGroups:
    """Groups of the integer tensors of a file that have one scale and zero point.

    Attributes:
        groups: The tensors of each group.
        kept: Tensors of the groups whose range stays as the converter has set it: a member has a
            scale that the specification fixes, or belongs to an operator that is not known.
    """

    def __init__(self, graph: Int8Graph):
        groups: dict[int, list[int]] = {}  # by tensor; members share one list
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
        """The group that a tensor belongs to."""
        return self._by_tensor[tensor]


def integers(graph: Int8Graph, operator: Operator) -> list[int]:
    """The 8-bit tensors that an operator takes or returns."""
    tensors = [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]
    return [tensor for tensor in dict.fromkeys(tensors) if graph.is_integer(tensor)]


def is_copy(graph: Int8Graph, kind: str, operator: Operator) -> bool:
    """Whether an operator's output has the values of its input, and so its range."""
    if kind == "QUANTIZE":  # from uint8 to int8; from int8 to int8 it changes the scale
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        return graph.is_integer(source) and graph.is_uint8(source) != graph.is_uint8(target)
    return kind in COPYING


def unknown_operators(graph: Int8Graph) -> list[str]:
    """Names of the operators on integers whose rules for scales are not known, sorted."""
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
        graph: The int8 file, which is changed.
        simulator: Of the same file.
        weights: Float kernel and bias of each linear operator, in order.
        images: float32 calibration images, as the file takes them.
        input_range: What the input spans.
    """
    found = _float_ranges(graph, simulator, weights, images)
    if graph.is_integer(graph.inputs[0]):
        found[graph.inputs[0]] = input_range
    scales = ScaleGroups(graph)
    for group in scales.groups:
        ranges = [found[tensor] for tensor in group if tensor in found]
        if scales.kept & set(group) or not ranges:
            continue
        for tensor in group:
            if tensor not in found and graph.constant(tensor) is not None:
                values = simulator.real_constant(tensor)
                ranges.append((float(values.min()), float(values.max())))
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        _set_range(graph, simulator, group, low, high)


def widen_ranges(
    graph: Int8Graph, simulator: Simulator, weights: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Widens outputs of linear operators to a scale that integer kernels can compute.

    Widening a group may call for another in turn; a few rounds settle it.
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
    """Lets the integers of all tensors of a group span [low, high]."""
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
) -> dict[int, Range]:
    """What each tensor spans in the float model, with head room; without mere copies."""
    values, ranges = {graph.inputs[0]: images}, {}
    layers, last_uses = iter(weights), graph.last_uses()
    for position, (kind, operator) in enumerate(graph.operators):
        if graph.is_linear(kind, operator):
            value, (kernel, bias) = values[int(operator.inputs[LINEAR[kind][0]])], next(layers)
            outputs = [simulator.linear(position, value, kernel, bias)]
        else:
            outputs = simulator.run(position, values)
        for tensor, value in zip(map(int, operator.outputs), outputs, strict=True):
            values[tensor] = value
            if graph.is_integer(tensor) and not is_copy(graph, kind, operator):
                ranges[tensor] = _with_margin(graph, tensor, kind, value)
        for tensor in last_uses.get(position, ()):
            values.pop(tensor, None)
    return ranges


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
