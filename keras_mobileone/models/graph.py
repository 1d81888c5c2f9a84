"""Replays the graph of a Keras model with some of its layer calls replaced."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_mobileone.compat import (
    flatten_layers,
    lambda_output_shape,
    producer,
    run_through_graph,
)
from keras_mobileone.errors import InputTypeError, InputValueError, first_line

Tensor = Any  # a symbolic tensor, a tensor of any backend, or a nested structure of tensors

FREE_SIZE = 64  # pixels, used for a size that the model leaves open


def as_functional(model: keras.Model) -> keras.Model:
    """Returns a Functional model that computes what `model` computes, with the same layers.

    Public functions convert the models of users with it, since the rest of the package reads the
    graph, which only Functional models have.

    Args:
        model: A Functional model, a built Sequential model, or a subclassed model that has been
            called or built and whose `call` accepts a symbolic tensor, as it does if it uses layers
            and `keras.ops`. Models of all three kinds may be nested in it.

    Returns:
        `model` itself if its graph can be read, otherwise a Functional model with the same name
        that shares its layers and weights.

    Raises:
        TypeError: If `model` is not a Keras model, or if it or a nested model is subclassed and
            its `call` fails on a symbolic tensor.
        ValueError: If a Sequential or subclassed model has no input shape yet.

    Examples:
        >>> base = km.MobileOneS0(weights=None, include_top=False, input_shape=(64, 64, 3))
        >>> rescaling = keras.layers.Rescaling(1 / 255)
        >>> model = keras.Sequential([keras.Input((64, 64, 3)), rescaling, base])
        >>> type(as_functional(model)).__name__
        'Functional'
    """
    if not isinstance(model, keras.Model):
        raise InputTypeError(f"Expected a Keras model. Received: {type(model).__name__}.")
    if not _has_graph(model):
        model = _traced(model, _known_inputs(model))
    require_input_shape(model)
    if all(_has_graph(nested) for nested in nested_models(model)):
        if not isinstance(model, keras.Sequential):
            return model
        return keras.Model(*inputs_and_outputs(model), name=model.name)
    traced: dict[int, keras.Model] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(layer, keras.Model):
            return layer(*args, **kwargs)
        if id(layer) not in traced:
            graph = layer if _has_graph(layer) else _traced(layer, _like(args[0]))
            traced[id(layer)] = as_functional(graph)
        return traced[id(layer)](*args, **kwargs)

    inputs = _like(inputs_and_outputs(model)[0])
    flat = keras.Model(*inputs_and_outputs(model))
    return keras.Model(inputs, run_through_graph(flat, inputs, call), name=model.name)


def output_names(model: keras.Model) -> list[str]:
    """Returns a unique name for each output of a model, in the order of the outputs.

    An output has the name of the layer or operation that produces it. If one layer produces several
    outputs, `model.output_names` repeats its name. Here the second is called `name_1`, the third
    `name_2`, so that no output is lost in a dictionary or a file.

    Args:
        model: A Functional or built Sequential model.

    Returns:
        The names.

    Examples:
        >>> image = keras.Input((4,))
        >>> dense = keras.layers.Dense(6, name="dense")(image)
        >>> split = keras.layers.Lambda(lambda x: keras.ops.split(x, 2, axis=-1), name="split")
        >>> halves = split(dense)
        >>> output_names(keras.Model(image, [*halves, dense]))
        ['split', 'split_1', 'dense']
    """
    return unique_names([producer(tensor).name for tensor in model.outputs])


def unique_names(names: list[str]) -> list[str]:
    """Returns `names` with a number appended to each repeated one, so that all are different."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in unique or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        unique.append(candidate)
    return unique


def rebuild(
    model: keras.Model,
    call: Callable,
    inputs: Tensor | None = None,
    *,
    flatten: bool = False,
) -> keras.Model:
    """Returns a new Functional model that is made by replaying the graph of `model`.

    Args:
        model: A built Functional or Sequential model. It is not changed. Nested models are replayed
            too, each of them once.
        call: Function that takes `(layer, *args, **kwargs)`, is called instead of each layer, and
            returns the output. It also receives operations that are not layers (`keras.ops` on
            symbolic tensors).
        inputs: Symbolic inputs in the structure of `model.input`; new ones by default.
        flatten: Whether to replay nested models in place, once for each of their calls, so that
            `call` receives the tensors of the whole model, and the result has no nested models. A
            layer whose name occurs several times is then named after its nested model too, as in
            `model_layer`; `call` must return the output of a copy of such a layer.

    Returns:
        A plain `keras.Model`, which is not compiled.

    Raises:
        TypeError: If `model` or a nested model is neither Functional nor Sequential.
        ValueError: If a Sequential model has not been built.
    """
    inputs = _like(inputs_and_outputs(model)[0]) if inputs is None else inputs
    if flatten:
        call = _FlatNames(model, inputs).naming(call)
    outputs = replay(model, call, inputs, flatten=flatten)
    return called(keras.Model(inputs, outputs, name=model.name))


def called(model: keras.Model) -> keras.Model:
    """Calls `model` once on symbolic inputs, and returns it.

    A Functional model works without this call, but `keras.Model.export(…, format="onnx")` refuses
    models that have never been called.
    """
    model(_like(inputs_and_outputs(model)[0]))
    return model


def replay(model: keras.Model, call: Callable, inputs: Tensor, *, flatten: bool = False) -> Tensor:
    """Replays the graph of `model` on other symbolic inputs and returns the outputs.

    It does not make a model of them, so that `call` may use the layers of `model` themselves even
    if two nested models have layers of the same name.

    Args:
        model, call, inputs, flatten: As in `rebuild`.
    """
    for source in (model, *nested_models(model)):
        require_graph(source)
    replicas: dict[int, keras.Model] = {}

    def dispatch(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(layer, keras.Model):
            return call(layer, *args, **kwargs)
        if flatten:
            return run(layer, args[0])
        if id(layer) not in replicas:
            inner = _like(inputs_and_outputs(layer)[0])
            replicas[id(layer)] = keras.Model(inner, run(layer, inner), name=layer.name)
        return replicas[id(layer)](*args, **kwargs)

    def run(source: keras.Model, inputs: Tensor) -> Tensor:
        # A model with the same tensors is needed, since a Sequential model has no graph.
        return run_through_graph(keras.Model(*inputs_and_outputs(source)), inputs, dispatch)

    return run(model, inputs)


class _FlatNames:
    """Unique names for the layers and operations of a flattened model.

    Args:
        model: The model to flatten.
        inputs: Symbolic inputs of the result.
    """

    def __init__(self, model: keras.Model, inputs: Tensor) -> None:
        self.owners = {id(op): prefix for op, prefix in _operations(model, "")}
        self.counts = Counter(op.name for op, _ in _operations(model, ""))
        starts = [producer(tensor) for tensor in keras.tree.flatten(inputs)]
        self.seen = {id(op) for op in starts}
        self.taken = {op.name for op in starts}

    def naming(self, call: Callable) -> Callable:
        """Wraps `call` so that each layer and operation that it adds gets a unique name."""

        def named(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
            outputs = call(layer, *args, **kwargs)
            prefix = self.owners[id(layer)] if self.counts[layer.name] > 1 else ""
            pending = [producer(tensor) for tensor in keras.tree.flatten(outputs)]
            while pending:
                op = pending.pop()
                if id(op) in self.seen:
                    continue
                self.seen.add(id(op))
                if op is not layer:
                    self.rename(op, f"{prefix}{op.name}")
                pending += [producer(tensor) for tensor in keras.tree.flatten(op.input)]
            return outputs

        return named

    def rename(self, op: Any, name: str) -> None:
        """Renames a layer or operation, and appends a number if the name is taken."""
        *_, name = unique_names([*self.taken, name])
        self.taken.add(name)
        if name != op.name:
            op.name = name


def _operations(model: keras.Model, prefix: str) -> Iterator[tuple[Any, str]]:
    """Yields the layers and operations of a model, at any depth, with prefixes for their names."""
    graph = keras.Model(*inputs_and_outputs(model))
    for op in graph.operations:
        if isinstance(op, keras.Model):
            yield from _operations(op, f"{prefix}{op.name}_")
        elif not isinstance(op, keras.layers.InputLayer):
            yield op, prefix


def inputs_and_outputs(model: keras.Model) -> tuple[Tensor, Tensor]:
    """Returns the symbolic inputs and outputs of a model in the structure of its `call`.

    Args:
        model: A Functional or built Sequential model.
    """
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _like(tensors: Tensor, dtype: Callable[[str], str] = str) -> Tensor:
    """Returns new symbolic inputs with the shapes and names of `tensors`.

    Args:
        tensors: Symbolic tensors in any structure.
        dtype: Function that maps the dtype of a tensor to that of the new input.
    """
    return keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=dtype(t.dtype), name=t.name), tensors
    )


def require_graph(model: keras.Model) -> None:
    """Raises an error unless `model` is a Functional or a built Sequential model."""
    if not isinstance(model, keras.Model):
        raise InputTypeError(f"Expected a Keras model. Received: {type(model).__name__}.")
    require_input_shape(model)
    if not _has_graph(model):
        raise InputTypeError(
            "Expected a Functional or Sequential model, whose graph can be read. "
            f"Received: {model.name!r} of the subclassed type {type(model).__name__}."
        )


def require_input_shape(model: keras.Model) -> None:
    """Raises ValueError if `model` is Sequential and has no input shape yet."""
    if isinstance(model, keras.Sequential) and not getattr(model, "inputs", None):
        raise InputValueError(
            f"The Sequential model {model.name!r} has no input shape yet. "
            "Begin it with keras.Input(...) or call it once."
        )


def _has_graph(model: keras.Model) -> bool:
    """Returns whether a model is Functional or Sequential."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def _known_inputs(model: keras.Model) -> Tensor:
    """Returns a symbolic input of the shape that a subclassed model was built or called with."""
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None or not all(side is None or isinstance(side, int) for side in shape):
        raise InputValueError(
            f"The subclassed model {model.name!r} has no single input shape yet. "
            "Call it once on a batch of images, or build it with model.build((None, 224, 224, 3))."
        )
    return keras.Input(shape[1:], dtype=model.input_dtype)


def _traced(model: keras.Model, inputs: Tensor) -> keras.Model:
    """Makes a Functional model of a subclassed one by calling it on symbolic inputs."""
    try:
        outputs = model.call(inputs)
        return keras.Model(inputs, outputs, name=model.name)
    except Exception as error:  # the `call` of a user's model may raise any type
        raise InputTypeError(
            "Expected a Functional or Sequential model, or a subclassed one whose `call` accepts a "
            f"symbolic tensor. Received: {model.name!r} of type {type(model).__name__}, whose "
            f"`call` fails with: {first_line(error)} "
            "Use keras.layers and keras.ops in it, or build the model with the functional API."
        ) from error


def nested_models(model: keras.Model) -> Iterator[keras.Model]:
    """Yields every model inside `model`, at any depth."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield layer
            yield from nested_models(layer)


def ends_in_softmax(model: keras.Model) -> bool:
    """Returns whether the first output of a Functional model comes from a softmax.

    If the model ends in a nested model, the output of that model decides.
    """
    operation = producer(model.outputs[0])
    if isinstance(operation, keras.Model):
        return ends_in_softmax(operation)
    activation = getattr(operation, "activation", None)
    return isinstance(operation, keras.layers.Softmax) or activation is keras.activations.softmax


def random_input(model: keras.Model, batch: int = 2, seed: int = 0) -> Tensor:
    """Returns standard normal arrays (zeros for integer inputs) in the structure of `model.input`.

    Args:
        model: A Functional or built Sequential model.
        batch: Size of the batch.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(tensor: Any) -> np.ndarray:
        shape = [batch, *(FREE_SIZE if s is None else s for s in tensor.shape[1:])]
        if not keras.backend.is_float_dtype(tensor.dtype):
            return np.zeros(shape, tensor.dtype)
        return rng.standard_normal(shape).astype(tensor.dtype)

    return keras.tree.map_structure(draw, inputs_and_outputs(model)[0])


def call_copy(
    copies: dict[int, keras.Layer], layer: Any, args: Iterable, kwargs: dict, **changes: Any
) -> Tensor:
    """Calls a copy of `layer` that has the same weights.

    If a layer without weights can't be made from its configuration, the layer itself is called.

    Args:
        copies: The copies made so far, by the id of their source. Each layer has one copy.
        layer: The source, a layer or a stateless operation.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        **changes: Entries to change in the configuration of the copy.

    Returns:
        The output of the call.

    Raises:
        TypeError: If a layer with weights can't be made from its configuration. The message names
            the layer.
    """
    if not isinstance(layer, keras.Layer):
        return type(layer).from_config(layer.get_config())(*args, **kwargs)
    if id(layer) in copies:
        return copies[id(layer)](*args, **kwargs)
    copy = copies[id(layer)] = _copy(layer, changes)
    outputs = copy(*args, **kwargs)
    if copy is not layer:
        copy.set_weights(layer.get_weights())
    return outputs


def _copy(layer: keras.Layer, changes: dict) -> keras.Layer:
    """Makes a layer with the configuration of `layer` and `changes`, without its weights."""
    if isinstance(layer, keras.layers.Lambda):
        # The configuration contains the function as code, which Keras refuses to load.
        return type(layer)(
            layer.function,
            output_shape=lambda_output_shape(layer),
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            **{"dtype": layer.dtype_policy, **changes},
        )
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except Exception as error:  # the constructor of a user's layer may raise any type
        if not layer.weights:
            return layer
        raise InputTypeError(
            f"Expected layers that can be made from their configuration. Received: {layer.name!r} "
            f"of type {type(layer).__name__}, whose `from_config` fails with: {first_line(error)} "
            "Return every argument of its constructor from `get_config`."
        ) from error


def in_float32(model: keras.Model) -> keras.Model:
    """Returns `model` itself if it computes in float32, else a copy that does."""
    if all(layer.compute_dtype == "float32" for layer in flatten_layers(model)):
        return model
    replicas: dict[int, keras.Layer] = {}
    return rebuild(
        model,
        lambda layer, *args, **kwargs: call_copy(replicas, layer, args, kwargs, dtype="float32"),
        _like(
            inputs_and_outputs(model)[0],
            lambda dtype: "float32" if keras.backend.is_float_dtype(dtype) else dtype,
        ),
    )
