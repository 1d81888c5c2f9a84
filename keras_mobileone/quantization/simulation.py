"""Runs the operators of an int8 file one by one on real numbers, for all images at once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.quantization import operators
from keras_mobileone.quantization.int8_graph import Int8Graph, IntegerTensor
from keras_mobileone.quantization.operators import Operator, Tensor

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

# Operators that TensorFlow broadcasts as TFLite does, so that a constant may be an input.
BROADCASTING = {"ADD", "SUB", "MUL"}
VALUES_AT_ONCE = 4e6  # of the largest array in one call of TensorFlow


class SimulationError(InputValueError):
    """A file cannot be corrected, for example because an operator does not run in float."""


class Deferred:
    """A tensor that is computed where it is read: padding is quick, and its result would be large.

    Args:
        function: Computes some images of the tensor from the same ones of `source`.
        source: The tensor that it is made of.
        image: Shape of one image, with a first axis of size 1.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], source: Tensor, image: Sequence[int]):
        self.shape = (len(source), *image[1:])
        self._function = function
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: slice) -> np.ndarray:
        return np.asarray(self._function(self._source[index]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Simulator:
    """Computes the operators of a file on real numbers.

    Each tensor has the values of all images, so that its first axis is `count` times as long as in
    the file.

    Args:
        graph: The int8 file.
        floats: The float file of the same model. Its constants are exact; they are used if it has
            the operators of the int8 file in the same order.
        count: Number of images.

    Attributes:
        limits: Largest value of the outputs of some linear operators, by the index of the tensor.
    """

    def __init__(self, graph: Int8Graph, floats: Int8Graph, count: int):
        self.limits: dict[int, float] = {}
        self._graph = graph
        self._count = count
        self._runners: dict[int, Interpreter] = {}
        self._exact = _exact_constants(graph, floats)

    def run(
        self, position: int, values: Mapping[int, Tensor], *, stored: bool = False
    ) -> list[Tensor]:
        """Computes the outputs of the operator at `position`.

        Args:
            position: Position of the operator in the file.
            values: Values of the computed tensors, by the index of the tensor.
            stored: Whether to round the outputs to the integers that their tensors can hold.

        Raises:
            SimulationError: If LiteRT can't run the operator in float.
        """
        kind, operator = self._graph.operators[position]
        inputs = [int(i) for i in operator.inputs if i >= 0]
        computed = [tensor for tensor in inputs if tensor in values]
        outputs = [int(tensor) for tensor in operator.outputs]
        if kind in ("QUANTIZE", "DEQUANTIZE"):
            value = values[inputs[0]]
            return [self.stored(outputs[0], value) if stored else value]

        reals = [t for t in inputs if t in values or self._graph.holds_reals(t)]
        constants = [self._graph.constant(t) for t in inputs if t not in reals]
        integers = [array for array in constants if array is not None]

        def batched(*parts: np.ndarray) -> Tensor:
            known = dict(zip(computed, parts, strict=True))
            real = [known[t] if t in known else self.real_constant(t) for t in reals]
            return operators.batched(kind, operator, real, integers)

        result = None
        if kind == "PAD" and self._is_batched(kind, operator, values):
            return [Deferred(batched, values[inputs[0]], self._graph.shape(outputs[0]))]
        if self._is_batched(kind, operator, values):
            taken = [values[t] for t in computed]
            result = self.by_parts(batched, taken, outputs[0], stored=stored)
        if result is not None:
            return [result]
        results = self._by_litert(position, values)
        if not stored:
            return results
        return [self.stored(tensor, value) for tensor, value in zip(outputs, results, strict=True)]

    def linear(
        self,
        position: int,
        value: Tensor,
        kernel: np.ndarray,
        bias: np.ndarray,
        *,
        stored: bool = False,
    ) -> Tensor:
        """Computes the convolution or dense layer at `position` with the given weights.

        Args:
            position: Position of the operator in the file.
            value: Its input.
            kernel, bias: Its weights, as those of `operators.linear`.
            stored: Whether to round the output to the integers that its tensor can hold.

        Returns:
            The output, with the activation and the limit of the operator.
        """
        import tensorflow as tf

        kind, operator = self._graph.operators[position]
        output = int(operator.outputs[0])
        shape = self._graph.shape(output)
        activation = operators.attribute(operator, "fusedActivationFunction", 0)

        def computed(part: Tensor) -> Tensor:
            part = operators.linear(kind, operator, part, kernel, bias, shape)
            part = operators.activate(activation, part)
            if output in self.limits:
                part = tf.minimum(part, self.limits[output])
            return tf.reshape(part, (-1, *shape[1:]))

        return self.by_parts(computed, [value], output, stored=stored)

    def mean(self, position: int, value: Tensor, kernel: np.ndarray) -> np.ndarray:
        """Computes the mean of a linear operator's output, float64 of shape (channels,).

        The bias and the activation are left out. What remains is linear, so that the mean over all
        images is that of the mean image.
        """
        kind, operator = self._graph.operators[position]
        total, rows = np.zeros((), np.float64), len(value) // self._count
        for start, stop in self._parts([value.shape]):
            part = np.asarray(value[start * rows : stop * rows])
            total = total + part.reshape(-1, rows, *part.shape[1:]).sum(0)
        image = (total / self._count).astype(np.float32)
        shape = self._graph.shape(int(operator.outputs[0]))
        output = np.asarray(operators.linear(kind, operator, image, kernel, 0.0, shape))
        return output.reshape(-1, output.shape[-1]).mean(0, dtype=np.float64)

    def stored(self, tensor: int, values: Tensor) -> Tensor:
        """Rounds values to the integers that a tensor can hold, if it is quantized."""
        if not self._graph.is_quantized(tensor):
            return values
        return self.by_parts(lambda part: part, [values], tensor, stored=True)

    def by_parts(
        self,
        function: Callable[..., Tensor],
        values: Sequence[Tensor],
        tensor: int,
        *,
        stored: bool,
    ) -> Tensor:
        """Computes a function of a few images at a time, so that what it allocates stays small.

        Args:
            function: Computes each image for itself.
            values: Its arguments for all images.
            tensor: The tensor that it computes.
            stored: Whether to round the results to the integers that the tensor can hold, if it is
                quantized.

        Returns:
            An array or `IntegerTensor` with the results of all images, or None if `function`
            returns None.
        """
        rounds = stored and self._graph.is_quantized(tensor)
        result = np.empty(0)
        rows = [len(value) // self._count for value in values]  # of each image
        shapes = [value.shape for value in values]
        for start, stop in self._parts([*shapes, (self._count, *self._graph.shape(tensor))]):
            parts = (v[start * n : stop * n] for v, n in zip(values, rows, strict=True))
            part = function(*parts)
            if part is None:
                return None
            part = self._graph.codes(tensor, part) if rounds else np.asarray(part)
            returned = len(part) // (stop - start)
            if start == 0:
                result = np.empty((self._count * returned, *part.shape[1:]), part.dtype)
            result[start * returned : stop * returned] = part
        if not rounds:
            return result
        return IntegerTensor(result, *self._graph.scale_and_zero_point(tensor))

    def _parts(self, shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
        """Divides the images, so that each part of the largest of some arrays is small."""
        largest = max(map(math.prod, shapes)) / self._count
        images = max(1, int(VALUES_AT_ONCE // largest))
        for start in range(0, self._count, images):
            yield start, min(start + images, self._count)

    def real_constant(self, tensor: int) -> np.ndarray:
        """Returns the float32 values of a constant, from the float file if it has the constant."""
        exact = self._exact.get(tensor)
        return self._graph.real_constant(tensor) if exact is None else exact

    def _is_batched(self, kind: str, operator: Operator, values: Mapping[int, Tensor]) -> bool:
        """Returns whether all tensors have real values, and images along the first axis."""
        inputs = [int(i) for i in operator.inputs if i >= 0]
        sources = [t for t in inputs if t in values]
        computed = sources + [int(t) for t in operator.outputs]
        if not sources or any(self._graph.shape(tensor)[:1] != (1,) for tensor in computed):
            return False
        if not all(map(self._graph.is_real, computed)):
            return False
        constants = [t for t in inputs if t not in values and self._graph.holds_reals(t)]
        if constants and kind not in BROADCASTING:
            return False
        if kind == "MEAN":
            axes = self._graph.constant(inputs[1])
            return axes is not None and bool((axes % len(self._graph.shape(inputs[0])) > 0).all())
        rank = max(len(self._graph.shape(t)) for t in computed)
        return all(
            len(self._graph.shape(t)) < rank or self._graph.shape(t)[0] == 1 for t in constants
        )

    def _by_litert(self, position: int, values: Mapping[int, Tensor]) -> list[Tensor]:
        """Runs one operator with LiteRT in float, image by image."""
        _, operator = self._graph.operators[position]
        inputs = list(dict.fromkeys(int(i) for i in operator.inputs if int(i) in values))
        if position not in self._runners:
            constants = {
                int(i): self.real_constant(int(i))
                for i in operator.inputs
                if i >= 0 and int(i) not in values and self._graph.holds_reals(int(i))
            }
            self._runners[position] = _interpreter(self._graph, position, inputs, constants)
        interpreter = self._runners[position]
        arrays = [
            np.reshape(np.asarray(values[t]), (self._count, *self._graph.shape(t))) for t in inputs
        ]
        # The runtime lists inputs and outputs in the order of the one-operator file.
        sources = [d["index"] for d in interpreter.get_input_details()]
        targets = [d["index"] for d in interpreter.get_output_details()]
        results: list[list[np.ndarray]] = [[] for _ in targets]
        for image in range(self._count):
            for index, array in zip(sources, arrays, strict=True):
                interpreter.set_tensor(index, array[image])
            interpreter.invoke()
            for outputs, index in zip(results, targets, strict=True):
                outputs.append(interpreter.get_tensor(index))
        return [np.concatenate([np.atleast_1d(o) for o in outputs]) for outputs in results]


def _interpreter(
    graph: Int8Graph, position: int, inputs: Sequence[int], constants: dict[int, np.ndarray]
) -> "Interpreter":
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind, _ = graph.operators[position]
    content = graph.one_operator_in_float(position, inputs, constants)
    # XNNPACK is not used, since its reciprocal square root of 0 is NaN, where the integer kernel
    # returns 127.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=resolver, num_threads=1
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise SimulationError(
            f"LiteRT can't run the operator {kind} in float: {first_line(error)}"
        ) from error
    return interpreter


def _exact_constants(graph: Int8Graph, floats: Int8Graph) -> dict[int, np.ndarray]:
    """Returns the constants of the int8 file with the values of the float file.

    The result is empty if the files have different operators.
    """
    pairs = [
        [op for op in each.operators if op[0] not in ("QUANTIZE", "DEQUANTIZE")]
        for each in (graph, floats)
    ]
    if [kind for kind, _ in pairs[0]] != [kind for kind, _ in pairs[1]]:
        return {}
    exact = {}
    for (_, operator), (_, source) in zip(*pairs, strict=True):
        for tensor, original in zip(operator.inputs, source.inputs, strict=False):
            if tensor < 0 or original < 0 or not graph.holds_reals(int(tensor)):
                continue
            values, stored = floats.constant(int(original)), graph.real_constant(int(tensor))
            if values is None or values.shape != stored.shape:
                continue
            if np.abs(values - stored).max() <= np.abs(values).max() / 100 + 1e-6:
                exact[int(tensor)] = values
    return exact
