"""A model's graph as a flat list of layer calls, which can be run and rewritten."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.graph import call_copy, rebuild

Tensor = Any  # a backend tensor or an array
LINEAR_LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer or operation.
        args, kwargs: Its arguments; symbolic tensors stand for the values that flow.
        outputs: The symbolic tensors it returns.
    """

    layer: keras.Layer
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]

    @property
    def output(self) -> keras.KerasTensor:
        """The first of the tensors it returns; layers with a kernel return one."""
        return self.outputs[0]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The symbolic tensors among the arguments."""
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [value for value in flat if keras.backend.is_keras_tensor(value)]

    @property
    def is_linear(self) -> bool:
        """Whether this is a convolution or a dense layer."""
        return isinstance(self.layer, LINEAR_LAYERS)


@dataclass(frozen=True)
class Trace:
    """A model of stock layers, taken apart.

    Attributes:
        model: A flat copy, in which each activation is a layer of its own.
        calls: Its layer calls in an order in which they can run.
    """

    model: keras.Model
    calls: list[Call]

    def consumers(self, tensor: keras.KerasTensor) -> list[Call]:
        """The calls that take `tensor`."""
        return [call for call in self.calls if any(t is tensor for t in call.inputs)]

    def times_called(self, layer: keras.Layer) -> int:
        """How often `layer` occurs."""
        return sum(call.layer is layer for call in self.calls)

    def run(self, images: Tensor) -> dict[int, Tensor]:
        """Values of all tensors for a batch of images, by the symbolic tensor's id."""
        values = {id(self.model.inputs[0]): images}

        def value(argument: Any) -> Any:
            return values[id(argument)] if keras.backend.is_keras_tensor(argument) else argument

        for call in self.calls:
            args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
            if isinstance(call.layer, keras.Layer):
                kwargs["training"] = False if _takes_training(call.layer) else None
                kwargs = {name: v for name, v in kwargs.items() if v is not None}
            found = keras.tree.flatten(call.layer(*args, **kwargs))
            values.update((id(t), v) for t, v in zip(call.outputs, found, strict=True))
        return values


def trace(model: keras.Model) -> Trace:
    """Takes a fused model apart. Copies the layers, so that their weights may be changed.

    Raises:
        ValueError: If the model has several inputs.
    """
    if len(model.inputs) != 1:
        raise InputValueError(
            f"Expected a model with one input. Received: {model.name!r} with {len(model.inputs)}."
        )
    copies: dict[int, keras.Layer] = {}
    activations: dict[int, keras.Layer] = {}
    calls: list[Call] = []

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        splits = isinstance(layer, LINEAR_LAYERS) and not is_linear(layer.activation)
        changes = {"activation": "linear"} if splits else {}
        output = call_copy(copies, layer, args, kwargs, **changes)
        calls.append(Call(copies.get(id(layer), layer), args, kwargs, keras.tree.flatten(output)))
        if not splits:
            return output
        if id(layer) not in activations:
            name = f"{layer.name}_activation"
            activations[id(layer)] = keras.layers.Activation(layer.activation, name=name)
        activated = activations[id(layer)](output)
        calls.append(Call(activations[id(layer)], (output,), {}, [activated]))
        return activated

    flat = rebuild(model, call, flatten=True)
    return Trace(flat, calls)


def is_linear(activation: Callable | None) -> bool:
    """Whether an activation function does nothing."""
    return activation is None or activation is keras.activations.linear


def _takes_training(layer: keras.Layer) -> bool:
    return isinstance(layer, (keras.layers.Dropout, keras.layers.BatchNormalization))
