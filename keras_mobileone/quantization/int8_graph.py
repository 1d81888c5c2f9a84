"""Reads an int8 TFLite file and rewrites its scales, weights and biases."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.litert.flatbuffer import operator_names, parse, serialize, tensor_type
from keras_mobileone.models.graph import unique_names
from keras_mobileone.quantization.operators import LINEAR, Operator, Tensor, channel_axis

LEVELS = 255  # number of steps between the lowest and the highest int8
SMALLEST_RANGE = 1e-9


@dataclass(frozen=True)
class IntegerTensor:
    """Integers that represent real numbers. They become float32 when they are read.

    Attributes:
        codes: int8 values.
        scale, zero_point: A code represents scale · (code − zero point).
    """

    codes: np.ndarray
    scale: float
    zero_point: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.codes.shape

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> np.ndarray:
        values = self.codes[index].astype(np.float32)
        values -= self.zero_point
        values *= np.float32(self.scale)
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Int8Graph:
    """The operators and tensors of a TFLite file. Methods refer to a tensor by its index.

    Args:
        content: Content of the file, which may also be a float32 file.

    Attributes:
        operators: Name and `OperatorT` of each operator, in the order of execution.
        inputs: The tensors that are inputs of the file.
    """

    def __init__(self, content: bytes):
        self._model = parse(content)
        self._graph = self._model.subgraphs[0]
        names = operator_names(self._model)
        self.operators = [(names[op.opcodeIndex], op) for op in self._graph.operators]
        self.inputs = [int(i) for i in self._graph.inputs]
        self._unshare_weights()

    def _unshare_weights(self) -> None:
        """Gives each linear operator separate constants, since the converter merges equal ones."""
        tensors, buffers = set(), set()
        for kind, operator in self.operators:
            operator.inputs = np.array(operator.inputs)  # the reader returns a read-only array
            for position in LINEAR[kind][1:] if self.is_linear(kind, operator) else ():
                tensor = int(operator.inputs[position]) if position < len(operator.inputs) else -1
                if tensor < 0:
                    continue
                if tensor in tensors:
                    self._graph.tensors.append(copy.deepcopy(self._graph.tensors[tensor]))
                    tensor = operator.inputs[position] = len(self._graph.tensors) - 1
                entry = self._graph.tensors[tensor]
                if entry.buffer in buffers:
                    self._model.buffers.append(copy.deepcopy(self._model.buffers[entry.buffer]))
                    entry.buffer = len(self._model.buffers) - 1
                tensors.add(tensor)
                buffers.add(entry.buffer)

    def is_linear(self, kind: str, operator: Operator) -> bool:
        """Returns whether an operator is a convolution or dense layer with a constant kernel."""
        return kind in LINEAR and self.constant(int(operator.inputs[LINEAR[kind][1]])) is not None

    def serialize(self) -> bytes:
        """Returns the content of the file with all changes."""
        return serialize(self._model)

    def name(self, tensor: int) -> str:
        """Returns the name of a tensor."""
        return self._graph.tensors[tensor].name.decode()

    def shorten_names(self) -> None:
        """Keeps the first part of each name, where the converter lists all that it has merged."""
        tensors = range(len(self._graph.tensors))
        computed_first = sorted(tensors, key=lambda index: self.constant(index) is not None)
        names = unique_names([self.name(index).split(";")[0] for index in computed_first])
        for index, name in zip(computed_first, names, strict=True):
            self._graph.tensors[index].name = name.encode()

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Returns the dimensions of a tensor."""
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def constant(self, tensor: int) -> np.ndarray | None:
        """Returns the stored values of a constant tensor, or None for a computed tensor."""
        entry = self._graph.tensors[tensor]
        data = self._model.buffers[entry.buffer].data
        if data is None or len(data) == 0 or tensor in self.inputs:
            return None
        dtypes = {tensor_type(n): n for n in ("INT8", "UINT8", "INT32", "INT64", "FLOAT32")}
        if entry.type not in dtypes:
            return None
        return np.frombuffer(bytes(data), dtypes[entry.type].lower()).reshape(self.shape(tensor))

    def real_constant(self, tensor: int) -> np.ndarray:
        """Returns the values of a constant tensor as float32. Integers are dequantized."""
        values = self.constant(tensor)
        if values is None:
            raise InputValueError(
                f"Expected a constant tensor. Received: {self.name(tensor)!r}, which is computed."
            )
        if not self.is_quantized(tensor):
            return values
        quantization = self._graph.tensors[tensor].quantization
        shape = [1] * values.ndim
        if len(quantization.scale) > 1:
            shape[quantization.quantizedDimension] = -1
        zero_points = quantization.zeroPoint.reshape(shape)
        return ((values - zero_points) * quantization.scale.reshape(shape)).astype(np.float32)

    def is_quantized(self, tensor: int) -> bool:
        """Returns whether a tensor holds integers that represent real values."""
        quantization = self._graph.tensors[tensor].quantization
        return quantization is not None and quantization.scale is not None

    def is_real(self, tensor: int) -> bool:
        """Returns whether a tensor has real values, in float or quantized, and no indices."""
        is_float = self._graph.tensors[tensor].type == tensor_type("FLOAT32")
        return is_float or self.is_quantized(tensor)

    def holds_reals(self, tensor: int) -> bool:
        """Returns whether a tensor is a constant of real values."""
        return self.is_real(tensor) and self.constant(tensor) is not None

    def is_integer(self, tensor: int) -> bool:
        """Returns whether a tensor holds 8-bit integers that represent real values."""
        int8 = self._graph.tensors[tensor].type == tensor_type("INT8")
        return self.is_quantized(tensor) and (int8 or self.is_uint8(tensor))

    def is_uint8(self, tensor: int) -> bool:
        """Returns whether the integers of a tensor are unsigned."""
        return self._graph.tensors[tensor].type == tensor_type("UINT8")

    def scale_and_zero_point(self, tensor: int) -> tuple[float, int]:
        """Returns scale and zero point of a tensor, with uint8 converted to int8.

        A stored integer represents scale · (integer − zero point).
        """
        quantization = self._graph.tensors[tensor].quantization
        shift = 128 if self.is_uint8(tensor) else 0
        return float(quantization.scale[0]), int(quantization.zeroPoint[0]) - shift

    def range(self, tensor: int) -> tuple[float, float]:
        """Returns the lowest and the highest real value that a quantized tensor can represent."""
        scale, zero_point = self.scale_and_zero_point(tensor)
        return scale * (-128 - zero_point), scale * (127 - zero_point)

    def set_range(self, tensor: int, low: float, high: float) -> None:
        """Sets the scale of a tensor so that its integers span [low, high] and zero."""
        low, high = min(low, 0.0), max(high, 0.0, low + SMALLEST_RANGE)
        scale = (high - low) / LEVELS
        self._set_quantization(tensor, [scale], round(-128 - low / scale))

    def set_constant(self, tensor: int, values: np.ndarray, low: float, high: float) -> None:
        """Writes the real values of a constant as integers that span [low, high]."""
        self.set_range(tensor, low, high)
        scale, zero_point = self.scale_and_zero_point(tensor)
        codes = np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)
        entry = self._graph.tensors[tensor]
        self._model.buffers.append(copy.deepcopy(self._model.buffers[entry.buffer]))
        entry.buffer = len(self._model.buffers) - 1
        self._model.buffers[-1].data = np.frombuffer(codes.tobytes(), np.uint8)

    def write(self, tensor: int, codes: np.ndarray, scale: np.ndarray, axis: int) -> None:
        """Replaces the integers of a constant and its scales along `axis`."""
        entry = self._graph.tensors[tensor]
        self._model.buffers[entry.buffer].data = np.frombuffer(codes.tobytes(), np.uint8)
        self._set_quantization(tensor, scale, 0)
        entry.quantization.quantizedDimension = axis

    def _set_quantization(
        self, tensor: int, scale: np.ndarray | Sequence[float], zero_point: int
    ) -> None:
        quantization = self._graph.tensors[tensor].quantization
        if self.is_uint8(tensor):
            zero_point += 128
        quantization.scale = np.asarray(scale, np.float32)
        quantization.zeroPoint = np.full(len(scale), zero_point, np.int64)
        quantization.min = quantization.max = None

    def codes(self, tensor: int, values: Tensor) -> np.ndarray:
        """Returns the int8 values that represent the real numbers `values` in a tensor."""
        scale, zero_point = self.scale_and_zero_point(tensor)
        codes = np.divide(values, np.float32(scale))  # the steps after it need no memory
        np.rint(codes, out=codes)
        codes += zero_point
        return np.clip(codes, -128, 127, out=codes).astype(np.int8)

    def last_uses(self) -> dict[int, list[int]]:
        """Returns, by the position of an operator, the tensors that no later operator takes."""
        last = {int(t): i for i, (_, op) in enumerate(self.operators) for t in op.inputs}
        tensors: dict[int, list[int]] = {}
        for tensor, position in last.items():
            tensors.setdefault(position, []).append(tensor)
        return tensors

    def linear_weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the real kernel and bias (or zeros) of each convolution and dense layer."""
        weights = []
        for kind, operator in self.operators:
            if self.is_linear(kind, operator):
                kernel = self.real_constant(int(operator.inputs[LINEAR[kind][1]]))
                bias_index = bias_of(kind, operator)
                bias = np.zeros(kernel.shape[channel_axis(kind)], np.float32)
                weights.append(
                    (kernel, bias if bias_index is None else self.real_constant(bias_index))
                )
        return weights

    def one_operator_in_float(
        self, position: int, inputs: Sequence[int], constants: dict[int, np.ndarray]
    ) -> bytes:
        """Returns the content of a file with a single operator of this file, computed in float.

        Args:
            position: Position of the operator in `operators`.
            inputs: The tensors that become the inputs of the new file.
            constants: Values of the constants that represent real numbers, by tensor.
        """
        model = parse(self.serialize())
        graph = model.subgraphs[0]
        operator = graph.operators[position]
        graph.operators = [operator]
        graph.inputs = np.array(inputs, np.int32)
        graph.outputs = np.array(operator.outputs, np.int32)
        model.signatureDefs, model.metadata = [], []
        kept = {0, *(int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0)}
        used = {0, *(graph.tensors[i].buffer for i in kept)}
        for index, buffer in enumerate(model.buffers):
            if index not in used:
                buffer.data = None
        for tensor in kept:
            entry = graph.tensors[tensor]
            if self.is_quantized(tensor):
                entry.type, entry.quantization = tensor_type("FLOAT32"), None
            if tensor in constants:
                entry.buffer = len(model.buffers)
                model.buffers.append(copy.deepcopy(model.buffers[0]))
                data = np.ascontiguousarray(constants[tensor], np.float32)
                model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        return serialize(model)


def stored_kernel(layer: keras.Layer) -> np.ndarray:
    """Returns the kernel of a convolution or dense layer in TFLite's layout."""
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return kernel.reshape(1, *kernel.shape[:2], -1)
    return np.ascontiguousarray(np.moveaxis(kernel, -1, 0))


def bias_of(kind: str, operator: Operator) -> int | None:
    """Returns the index of the bias tensor of a linear operator, or None if it has no bias."""
    position = LINEAR[kind][2]
    if len(operator.inputs) <= position or operator.inputs[position] < 0:
        return None
    return int(operator.inputs[position])
