"""Represents the graph of a model as a flat list of layer calls that can be run and rewritten."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.folding import LINEAR_LAYERS, folded_weights, with_bias
from keras_mobileone.models.graph import call_copy, rebuild

Tensor = Any  # a backend tensor or an array


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer or operation.
        args, kwargs: Arguments of the call, with symbolic tensors.
        outputs: Symbolic tensors that the call returns.
    """

    layer: keras.Layer
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]

    @property
    def output(self) -> keras.KerasTensor:
        """The first of the returned tensors. Layers with a kernel return only one."""
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
    """A model of stock layers and its layer calls.

    Attributes:
        model: A copy without nested models, in which each activation is a separate layer.
        calls: Layer calls of `model` in an order in which they can run.
    """

    model: keras.Model
    calls: list[Call]

    def consumers(self, tensor: keras.KerasTensor) -> list[Call]:
        """Returns the calls that take `tensor`."""
        return [call for call in self.calls if any(t is tensor for t in call.inputs)]

    def times_called(self, layer: keras.Layer) -> int:
        """Returns how often `layer` is called."""
        return sum(call.layer is layer for call in self.calls)

    def run(self, images: Tensor) -> dict[int, Tensor]:
        """Computes the values of all tensors for a batch, by the id of the symbolic tensor."""
        values = {id(self.model.inputs[0]): images}
        self.resume(values, range(len(self.calls)))
        return values

    def resume(self, values: dict[int, Tensor], positions: range) -> None:
        """Computes the calls at `positions`, and adds their values to those that are known.

        Args:
            values: Values of the tensors that the calls take. It is changed.
            positions: Which of `calls` to compute.
        """

        def value(argument: Any) -> Any:
            return values[id(argument)] if keras.backend.is_keras_tensor(argument) else argument

        for call in self.calls[positions.start : positions.stop]:
            args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
            if isinstance(call.layer, keras.Layer):
                kwargs["training"] = False if _takes_training(call.layer) else None
                kwargs = {name: v for name, v in kwargs.items() if v is not None}
            outputs = keras.tree.flatten(call.layer(*args, **kwargs))
            values.update((id(t), v) for t, v in zip(call.outputs, outputs, strict=True))


def trace(model: keras.Model) -> Trace:
    """Lists the layer calls of a copy of a fused model, whose weights may be changed.

    Args:
        model: Functional or Sequential model.

    Returns:
        A `Trace`.

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
    """Returns whether an activation function is the identity."""
    return activation is None or activation is keras.activations.linear


def _takes_training(layer: keras.Layer) -> bool:
    return isinstance(layer, (keras.layers.Dropout, keras.layers.BatchNormalization))


def fold_batch_norms(traced: Trace) -> Trace:
    """Folds batch normalizations into the convolution or dense layer before them.

    A batch normalization remains if it cannot be folded, for example because its input is also used
    elsewhere. The outputs do not change.
    """
    folded = {}
    for call in traced.calls:
        following = traced.consumers(call.output)
        if call.is_linear and len(following) == 1 and _can_fold(traced, call, following[0]):
            folded[id(call.layer)] = following[0].layer
    if not folded:
        return traced
    norms = {id(norm) for norm in folded.values()}
    copies: dict[int, keras.Layer] = {}

    def call_folded(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if id(layer) in norms:
            return args[0]
        if id(layer) not in folded:
            return call_copy(copies, layer, args, kwargs)
        copy = with_bias(layer)
        output = copy(*args, **kwargs)
        copy.set_weights(folded_weights(layer, folded[id(layer)]))
        return output

    return trace(rebuild(traced.model, call_folded))


def _can_fold(traced: Trace, call: Call, following: Call) -> bool:
    norm, output = following.layer, call.output
    return (
        isinstance(norm, keras.layers.BatchNormalization)
        and norm.axis in (-1, len(output.shape) - 1)
        and traced.times_called(call.layer) == traced.times_called(norm) == 1
        and all(output is not other for other in traced.model.outputs)
    )
