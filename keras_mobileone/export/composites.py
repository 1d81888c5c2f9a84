"""Operations of TensorFlow that ONNX and Core ML compute by others, which their converters lack.

An exact GELU is computed by `Erfc`, for example, and a CELU by `Expm1`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Composite:
    """An operation that is computed as offset + factor · function(shift + x).

    Attributes:
        function: Another elementwise operation, by its name in ONNX. Core ML's is in lower case.
        shift, factor, offset: The constants.
    """

    function: str
    shift: float = 0.0
    factor: float = 1.0
    offset: float = 0.0


COMPOSITES = {
    "Erfc": Composite("Erf", factor=-1.0, offset=1.0),
    "Expm1": Composite("Exp", offset=-1.0),
    "Log1p": Composite("Log", shift=1.0),
}


@cache
def teach_tf2onnx() -> None:
    """Registers the operations that tf2onnx lacks, once in a process."""
    from tf2onnx.handler import tf_op

    for name, composite in COMPOSITES.items():
        tf_op(name)(type(name, (_OnnxHandler,), {"composite": composite}))


class _OnnxHandler:
    """Writes a composite in place of a node; the name of the method says since which opset."""

    composite: Composite

    @classmethod
    def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
        from tf2onnx.utils import make_name, map_onnx_to_numpy_type

        dtype = map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
        shape, kind, outputs = node.output_shapes[0], node.output_dtypes[0], node.output

        def add(function: str, *inputs: str) -> str:
            made = graph.make_node(function, list(inputs), shapes=[shape], dtypes=[kind])
            return made.output[0]

        def constant(value: float) -> str:
            return graph.make_const(make_name(node.name), np.array(value, dtype)).output[0]

        composite, value = cls.composite, node.input[0]
        graph.remove_node(node.name)
        if composite.shift:
            value = add("Add", value, constant(composite.shift))
        value = add(composite.function, value)
        if composite.factor != 1:
            value = add("Mul", value, constant(composite.factor))
        graph.make_node(
            "Add",
            [value, constant(composite.offset)],
            name=node.name,
            outputs=outputs,
            shapes=[shape],
            dtypes=[kind],
        )


@cache
def teach_coremltools() -> None:
    """Registers the operations that coremltools lacks, once in a process."""
    from coremltools.converters.mil import Builder, register_tf_op

    def operation(composite: Composite) -> Any:
        def convert(context: Any, node: Any) -> None:
            value = context[node.inputs[0]]
            value = getattr(Builder, composite.function.lower())(x=value)
            if composite.factor != 1:
                value = Builder.mul(x=value, y=np.float32(composite.factor))
            offset = np.float32(composite.offset)
            context.add(node.name, Builder.add(x=value, y=offset, name=node.name))

        return convert

    for name in ("Erfc", "Expm1"):  # it has Log1p
        convert = operation(COMPOSITES[name])
        convert.__name__ = name
        register_tf_op(convert, override=True)  # a later release may have them
