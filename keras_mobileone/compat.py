"""Everything this package uses of Keras and its companions that is not public.

A new release may change these names without notice. They stand here and nowhere else, each with the
reason why no public name does, and tests/test_compat.py fails when one of them is gone.
"""

from collections.abc import Callable
from typing import Any

import keras


def flatten_layers(layer: keras.Layer, include_self: bool = True) -> list[keras.Layer]:
    """A layer and all layers inside it, at any depth, each once.

    `keras.Model.layers` ends at layers that are not models: it misses the convolutions and the
    batch normalization inside a `MobileOneBlock` and a wrapper such as `TimeDistributed`.

    Args:
        layer: Any layer or model.
        include_self: Whether the list begins with `layer` itself.
    """
    return layer._flatten_layers(include_self=include_self)


def run_through_graph(model: keras.Model, inputs: Any, call: Callable) -> Any:
    """Evaluates the graph of a Functional model, with a function in place of each call.

    `keras.models.clone_model(…, call_function=…)` does the same, but always wraps the result in a
    new model, which refuses two layers of the same name.

    Args:
        model: A Functional model.
        inputs: Tensors in the structure of `model.input`.
        call: `call(operation, *args, **kwargs)` returns the output of one operation.
    """
    return model._run_through_graph(inputs, operation_fn=lambda op: op, call_fn=call)


def producer(tensor: Any) -> Any:
    """The layer or operation that a symbolic tensor is an output of.

    No public attribute of a `keras.KerasTensor` leads to its operation.
    """
    return tensor._keras_history.operation


def lambda_output_shape(layer: keras.layers.Lambda) -> Any:
    """The argument `output_shape` of a `Lambda` layer, as it was given.

    The layer's configuration holds it in a serialized form, which Keras refuses to read back.
    """
    return layer._output_shape


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """The position of a variable among those that an optimizer was built with.

    Keras' own optimizers find their slots by it. A dictionary by identity would not do, since
    `tf.distribute` hands the optimizer other objects for the same variables.
    """
    return optimizer._get_variable_index(variable)


def output_quantizer_variables(layer: Any) -> dict[str, Any]:
    """The variables `min_var` and `max_var` of a layer wrapped by tensorflow-model-optimization.

    They hold the range of the layer's quantized output, which the toolkit can only learn in
    training; it has no public way to set it from calibration.
    """
    return layer._output_quantizer_vars
