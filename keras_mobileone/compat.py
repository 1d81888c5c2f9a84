"""The private names of Keras and its companion packages that this package uses.

A new release may change these names without notice. They are used here and nowhere else, each with
the reason why no public name serves, and tests/test_compat.py fails if one of them is gone.
"""

from collections.abc import Callable
from typing import Any

import keras


def flatten_layers(layer: keras.Layer, include_self: bool = True) -> list[keras.Layer]:
    """Returns a layer and all layers inside it, at any depth, each of them once.

    `keras.Model.layers` does not look into layers that are not models. It misses the convolutions
    and the batch normalization inside a `MobileOneBlock` or a wrapper such as `TimeDistributed`.

    Args:
        layer: Any layer or model.
        include_self: Whether the list begins with `layer` itself.
    """
    return layer._flatten_layers(include_self=include_self)


def run_through_graph(model: keras.Model, inputs: Any, call: Callable) -> Any:
    """Evaluates the graph of a Functional model through a function that calls each operation.

    `keras.models.clone_model(…, call_function=…)` does the same, but always wraps the result in a
    new model, which refuses two layers with the same name.

    Args:
        model: A Functional model.
        inputs: Tensors in the structure of `model.input`.
        call: A function that takes `(operation, *args, **kwargs)` and returns the output of the
            operation.

    Returns:
        The results in the structure of `model.output`.
    """
    return model._run_through_graph(inputs, operation_fn=lambda op: op, call_fn=call)


def producer(tensor: Any) -> Any:
    """Returns the layer or operation that a symbolic tensor is an output of.

    No public attribute of a `keras.KerasTensor` leads to its operation.
    """
    return tensor._keras_history.operation


def lambda_output_shape(layer: keras.layers.Lambda) -> Any:
    """Returns the argument `output_shape` of a `Lambda` layer as it was passed.

    The layer's configuration holds it in a serialized form, which Keras refuses to read back.
    """
    return layer._output_shape


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Returns the position of a variable among those that an optimizer was built with.

    Keras' own optimizers find their slots by this position. A dictionary by identity would not
    work, since `tf.distribute` passes other objects for the same variables to the optimizer.
    """
    return optimizer._get_variable_index(variable)


def output_quantizer_variables(layer: Any) -> dict[str, Any]:
    """Returns the output range variables of a layer wrapped by tensorflow-model-optimization.

    The variables `min_var` and `max_var` hold the range of the layer's quantized output. The
    toolkit learns it in training and has no public way to set it from calibration.
    """
    return layer._output_quantizer_vars
