"""Adapts a model for an export: probabilities instead of logits, a different image size."""

from typing import Any

import keras

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.graph import ends_in_softmax, inputs_and_outputs, rebuild


def with_softmax(model: keras.Model) -> keras.Model:
    """Returns a classifier that outputs probabilities, made from one that may output logits.

    Args:
        model: Functional or Sequential classifier with one output of shape (batch, classes).

    Returns:
        `model` itself if it ends in a softmax, else a model that shares its layers and appends one.

    Raises:
        ValueError: If the output of the model has a different shape, or there are several outputs.

    Examples:
        >>> logits = km.MobileOneS0(
        ...     weights=None, classes=10, classifier_activation=None, deploy=True
        ... )
        >>> with_softmax(logits).layers[-1].name
        'probabilities'
    """
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise InputValueError(
            "Expected a classifier with one output of shape (batch, classes) to append a softmax "
            f"to. Received: {model.name!r} with output shape {shape}."
        )
    if ends_in_softmax(model):
        return model
    inputs, outputs = inputs_and_outputs(model)
    outputs = keras.layers.Softmax(name="probabilities", dtype="float32")(outputs)
    return copy_attachment(model, keras.Model(inputs, outputs, name=model.name))


def at_size(model: keras.Model, size: int) -> keras.Model:
    """Returns a model that shares the layers of `model` and takes square images of a given size.

    Args:
        model: Functional or Sequential model with one image input.
        size: Height and width of the images in pixels.

    Returns:
        `model` itself if it already takes this size, else a new model.

    Raises:
        ValueError: If the model has several inputs, or a layer that fits only one image size.

    Examples:
        >>> model = km.MobileOneS0(weights=None, classes=10, deploy=True)
        >>> at_size(model, 96).input_shape
        (None, 96, 96, 3)
    """
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise InputValueError(
            f"Expected a model with one image input. Received: {model.name!r} with inputs of shape "
            f"{[tuple(tensor.shape) for tensor in model.inputs]}."
        )
    image = model.inputs[0]
    if tuple(image.shape[1:3]) == (size, size):
        return model
    resized = keras.Input((size, size, image.shape[3]), dtype=image.dtype, name=image.name)
    try:
        return copy_attachment(model, rebuild(model, call_layer, resized))
    except ValueError as error:
        raise InputValueError(
            f"Expected a model whose layers fit images of {size}×{size} pixels. Received: "
            f"{model.name!r}, built for {tuple(image.shape[1:3])} ({error}). Leave out the size."
        ) from error


def call_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer with the given arguments."""
    return layer(*args, **kwargs)
