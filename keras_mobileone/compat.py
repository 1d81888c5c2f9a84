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
def convertible_operations() -> Iterator[None]:
    """Makes models that are traced within free of operators that converters do not have.

    With TensorFlow, Keras computes `keras.ops.argmax` and `argmin` with operations on bits, to tell
    -0.0 from 0.0, and grouped convolutions in a function for XLA, because of their gradients on a
    CPU. TFLite, Core ML, ONNX and OpenVINO lack the first, and Core ML and ONNX the second. Within,
    each is one operator of TensorFlow. There is no public setting for this.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn, numpy

    argmax, argmin, conv = originals = numpy.argmax, numpy.argmin, nn.conv

    def index(convertible: Callable, original: Callable) -> Callable:
        def found(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
            if axis is None:
                return original(x, axis, keepdims)
            indices = convertible(x, axis, output_type=tf.int32)
            return tf.expand_dims(indices, axis) if keepdims else indices

        return found

    def grouped(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
    ) -> Any:
        channels_last = (data_format or keras.config.image_data_format()) == "channels_last"
        if not channels_last or inputs.shape[-1] == kernel.shape[-2]:
            return conv(inputs, kernel, strides, padding, data_format, dilation_rate)
        return tf.nn.convolution(inputs, kernel, strides, padding.upper(), dilations=dilation_rate)

    numpy.argmax, numpy.argmin = index(tf.argmax, argmax), index(tf.argmin, argmin)
    nn.conv = grouped
    try:
        yield
    finally:
        numpy.argmax, numpy.argmin, nn.conv = originals


def prepare_tf2onnx() -> None:
    """Lets tf2onnx (1.17) run with NumPy 2, as Keras does before it exports a model to ONNX."""
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()


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
