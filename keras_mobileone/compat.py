"""The private names of Keras and related packages that this package uses.

A new release may change these names without notice. They are used only in this module, and each
docstring gives the reason why no public name suffices. tests/test_compat.py fails if one of them is
missing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


def flatten_layers(layer: keras.Layer, include_self: bool = True) -> list[keras.Layer]:
    """Returns a layer and all layers inside it, at any depth, each of them once.

    `keras.Model.layers` does not list the layers inside layers that are not models, such as the
    convolutions and the batch normalization of a `MobileOneBlock` or a wrapper.

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
    """Returns the layer or operation that produced a symbolic tensor.

    A `keras.KerasTensor` has no public attribute for its operation.
    """
    return tensor._keras_history.operation


def lambda_output_shape(layer: keras.layers.Lambda) -> Any:
    """Returns the argument `output_shape` of a `Lambda` layer as it was passed.

    The configuration of the layer contains it in a serialized form, which Keras refuses to load.
    """
    return layer._output_shape


@contextmanager
def convertible_argmax() -> Iterator[None]:
    """Makes `keras.ops.argmax` and `argmin` one operator each in the models that are traced within.

    With TensorFlow, Keras computes them with operations on bits, to tell -0.0 from 0.0, which
    neither TFLite nor Core ML, ONNX and OpenVINO have. There is no public setting for this.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from keras.src.backend.tensorflow import numpy as implementation

    originals = {name: getattr(implementation, name) for name in ("argmax", "argmin")}

    def extremum(name: str) -> Callable:
        def index(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
            if axis is None:
                return originals[name](x, axis, keepdims)
            found = getattr(tf, name)(x, axis, output_type=tf.int32)
            return tf.expand_dims(found, axis) if keepdims else found

        return index

    for name in originals:
        setattr(implementation, name, extremum(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(implementation, name, original)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Returns the position of a variable in the list that an optimizer was built with.

    Keras' optimizers find their slots by this position. A dictionary by identity would not work,
    since `tf.distribute` passes different objects for the same variables to the optimizer.
    """
    return optimizer._get_variable_index(variable)


def output_quantizer_variables(layer: Any) -> dict[str, Any]:
    """Returns the output range variables of a layer wrapped by tensorflow-model-optimization.

    The variables `min_var` and `max_var` are the range of the quantized output of the layer. The
    toolkit learns it during training and has no public way to set it from calibration.
    """
    return layer._output_quantizer_vars
