"""An int8 TFLite file whose scales, weights and biases can be rewritten."""

import copy

import numpy as np

from keras_mobileone.litert.flatbuffer import operator_names, parse, serialize, tensor_type

LEVELS = 255  # steps of int8
SMALLEST_RANGE = 1e-9
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


class Int8Graph:
    """The operators and tensors of a TFLite file; tensors go by their index.

    Args:
        content: Of the file. With float32 content it serves to read weights.
    """

    def __init__(self, content: bytes):
        self._model = parse(content)
        self._graph = self._model.subgraphs[0]
        names = operator_names(self._model)
        self.operators = [(names[op.opcodeIndex], op) for op in self._graph.operators]
        self.inputs = [int(i) for i in self._graph.inputs]
        self._unshare_weights()

    def _unshare_weights(self):
        """Gives each linear operator constants of its own: the converter merges equal ones."""
        tensors, buffers = set(), set()
        for kind, operator in self.operators:
            operator.inputs = np.array(operator.inputs)  # what the reader gives is read-only
            for position in range(1, len(operator.inputs)) if kind in LINEAR else ():
                tensor = int(operator.inputs[position])
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

    def serialize(self) -> bytes:
        """The content of the file as it is now."""
        return serialize(self._model)

    def name(self, tensor: int) -> str:
        """Name of a tensor."""
        return self._graph.tensors[tensor].name.decode()

    def constant(self, tensor: int) -> np.ndarray | None:
        """Stored content of a constant tensor, None for one that is computed."""
        entry = self._graph.tensors[tensor]
        data = self._model.buffers[entry.buffer].data
        if data is None or tensor in self.inputs:
            return None
        dtypes = {tensor_type(n): n for n in ("INT8", "UINT8", "INT32", "INT64", "FLOAT32")}
        if entry.type not in dtypes:
            return None
        return np.frombuffer(bytes(data), dtypes[entry.type].lower()).reshape(entry.shape)

    def real_constant(self, tensor: int) -> np.ndarray:
        """float32 values of a constant tensor, dequantized if need be."""
        values = self.constant(tensor)
        if not self.is_quantized(tensor):
            return values
        quantization = self._graph.tensors[tensor].quantization
        shape = [1] * values.ndim
        if len(quantization.scale) > 1:
            shape[quantization.quantizedDimension] = -1
        zero_points = quantization.zeroPoint.reshape(shape)
        return ((values - zero_points) * quantization.scale.reshape(shape)).astype(np.float32)

    def is_quantized(self, tensor: int) -> bool:
        """Whether a tensor's integers stand for real values."""
        quantization = self._graph.tensors[tensor].quantization
        return quantization is not None and quantization.scale is not None

    def _is_uint8(self, tensor) -> bool:
        return self._graph.tensors[tensor].type == tensor_type("UINT8")

    def scale_and_zero_point(self, tensor: int) -> tuple[float, int]:
        """real = scale · (code − zero point), with the codes counted as int8."""
        quantization = self._graph.tensors[tensor].quantization
        shift = 128 if self._is_uint8(tensor) else 0
        return float(quantization.scale[0]), int(quantization.zeroPoint[0]) - shift

    def range(self, tensor: int) -> tuple[float, float]:
        """Lowest and highest value that a quantized tensor can hold."""
        scale, zero_point = self.scale_and_zero_point(tensor)
        return scale * (-128 - zero_point), scale * (127 - zero_point)

    def set_range(self, tensor: int, low: float, high: float) -> None:
        """Lets a tensor's integers span [low, high], which is widened to hold zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0, low + SMALLEST_RANGE)
        scale = (high - low) / LEVELS
        self._set_quantization(tensor, [scale], round(-128 - low / scale))

    def copy_range(self, source: int, target: int) -> None:
        """Gives `target` the scale and zero point of `source`."""
        scale, zero_point = self.scale_and_zero_point(source)
        self._set_quantization(target, [scale], zero_point)

    def write(self, tensor: int, codes: np.ndarray, scale: np.ndarray, axis: int) -> None:
        """Replaces a constant's integers and its scales along `axis`."""
        entry = self._graph.tensors[tensor]
        self._model.buffers[entry.buffer].data = np.frombuffer(codes.tobytes(), np.uint8)
        self._set_quantization(tensor, scale, 0)
        entry.quantization.quantizedDimension = axis

    def _set_quantization(self, tensor, scale, zero_point):
        quantization = self._graph.tensors[tensor].quantization
        if self._is_uint8(tensor):
            zero_point += 128
        quantization.scale = np.asarray(scale, np.float32)
        quantization.zeroPoint = np.full(len(scale), zero_point, np.int64)
        quantization.min = quantization.max = None

    def on_grid(self, tensor: int, values):
        """The real values that a tensor's integers can hold, nearest to `values`."""
        import tensorflow as tf

        if not self.is_quantized(tensor):
            return values
        scale, zero_point = self.scale_and_zero_point(tensor)
        codes = tf.clip_by_value(tf.round(values / scale) + zero_point, -128, 127)
        return (codes - zero_point) * scale

    def linear_weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Kernel and bias (zeros if none) of each convolution and dense layer, real values."""
        weights = []
        for kind, operator in self.operators:
            if kind in LINEAR:
                kernel_index, bias_index = int(operator.inputs[1]), bias_of(operator)
                kernel = self.real_constant(kernel_index)
                filters = kernel.shape[3 if kind == "DEPTHWISE_CONV_2D" else 0]
                bias = np.zeros(filters, np.float32)
                weights.append(
                    (kernel, bias if bias_index is None else self.real_constant(bias_index))
                )
        return weights


def bias_of(operator) -> int | None:
    """Index of a linear operator's bias tensor."""
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return None
    return int(operator.inputs[2])
