"""Running the graph of a Keras model again with some of its layer calls replaced."""

from collections.abc import Callable, Iterator
from functools import partial

import keras
import numpy as np

from keras_mobileone.errors import InputTypeError, InputValueError


def rebuild(
    model: keras.Model, call: Callable, inputs=None, *, flatten: bool = False
) -> keras.Model:
    """A new Functional model made by replaying `model`'s graph.

    Args:
        model: A built Functional or Sequential model. Nested ones are replayed too, each once.
        call: `call(layer, *args, **kwargs)` stands for each layer call and returns its output.
            Operations that are not layers (`keras.ops` on symbolic tensors) come to it as well.
        inputs: Symbolic inputs in `model.input`'s structure; new ones by default.
        flatten: Replay nested models in place, once for each of their calls, so that `call` sees
            the tensors that really flow, and the result has no nested models.

    Returns:
        A `keras.Model` of no special class, not compiled. `model` is left as it was.

    Raises:
        TypeError: If `model` or a nested model is neither Functional nor Sequential.
        ValueError: If a Sequential model has not been built.
    """
    replicas = {}

    def dispatch(layer, *args, **kwargs):
        if not isinstance(layer, keras.Model):
            return call(layer, *args, **kwargs)
        if flatten:
            # Not by cloning: a model over tensors that are no inputs gets inputs of its own.
            flat = keras.Model(*inputs_and_outputs(layer))
            return flat._run_through_graph(
                args[0], operation_fn=lambda operation: partial(dispatch, operation)
            )
        if id(layer) not in replicas:
            replicas[id(layer)] = replay(layer)
        return replicas[id(layer)](*args, **kwargs)

    def replay(source, inputs=None):
        # A Functional of no special class over the same tensors: cloning it does not bring along
        # the model's own class or its compilation.
        flat = keras.Model(*inputs_and_outputs(source), name=source.name)
        return keras.models.clone_model(
            flat, input_tensors=inputs, clone_function=lambda layer: layer, call_function=dispatch
        )

    for source in (model, *nested_models(model)):
        require_graph(source)
    return replay(model, inputs)


def inputs_and_outputs(model: keras.Model) -> tuple:
    """The symbolic inputs and outputs of a Functional or Sequential model, as it is called."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def require_graph(model) -> None:
    """Raises unless `model` is a Functional or a built Sequential model."""
    if not isinstance(model, keras.Model):
        raise InputTypeError(f"Expected a Keras model. Received: {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise InputValueError(
            f"The Sequential model {model.name!r} has no input shape yet. "
            "Start it with keras.Input(...) or call it once."
        )
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise InputTypeError(
            "Expected a Functional or Sequential model, whose graph can be read. "
            f"Received: {model.name!r} of the subclassed type {type(model).__name__}."
        )


def nested_models(model: keras.Model) -> Iterator[keras.Model]:
    """Every model inside `model`, at any depth."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield layer
            yield from nested_models(layer)


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether the only output of a Functional model is a softmax, so that it gives probabilities.

    A nested model at the end is looked into.
    """
    operation = model.outputs[0]._keras_history.operation
    if isinstance(operation, keras.Model):
        return ends_in_softmax(operation)
    activation = getattr(operation, "activation", None)
    return isinstance(operation, keras.layers.Softmax) or activation is keras.activations.softmax


FREE_SIZE = 64  # pixels, stands in for a size the model leaves open


def random_input(model: keras.Model, batch: int = 2, seed: int = 0):
    """Standard normal arrays (zeros for integer inputs) in the structure of `model.input`."""
    rng = np.random.default_rng(seed)

    def draw(tensor):
        shape = [batch, *(FREE_SIZE if s is None else s for s in tensor.shape[1:])]
        if not keras.backend.is_float_dtype(tensor.dtype):
            return np.zeros(shape, tensor.dtype)
        return rng.standard_normal(shape).astype(tensor.dtype)

    return keras.tree.map_structure(draw, inputs_and_outputs(model)[0])


def call_copy(copies: dict, layer, args, kwargs, **changes):
    """Calls a copy of `layer` with its weights.

    Args:
        copies: The copies made so far, by the id of their source; a layer has one copy.
        layer: The source, a layer or a stateless operation.
        args, kwargs: What to call the copy with.
        **changes: Entries of the copy's configuration.
    """
    if not isinstance(layer, keras.Layer):
        return layer.__class__.from_config(layer.get_config())(*args, **kwargs)
    if id(layer) in copies:
        return copies[id(layer)](*args, **kwargs)
    copy = copies[id(layer)] = layer.__class__.from_config({**layer.get_config(), **changes})
    outputs = copy(*args, **kwargs)
    copy.set_weights(layer.get_weights())
    return outputs


def in_float32(model: keras.Model) -> keras.Model:
    """`model` itself if it computes in float32, else a copy of it that does."""
    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model
    replicas = {}
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(
            batch_shape=t.shape,
            dtype="float32" if keras.backend.is_float_dtype(t.dtype) else t.dtype,
            name=t.name,
        ),
        inputs_and_outputs(model)[0],
    )
    return rebuild(
        model,
        lambda layer, *args, **kwargs: call_copy(replicas, layer, args, kwargs, dtype="float32"),
        inputs,
    )
