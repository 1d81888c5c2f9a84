"""Folds batch normalization into the convolution or dense layer before it."""

from collections import Counter
from typing import Any

import keras
import numpy as np

from keras_mobileone.compat import run_through_graph
from keras_mobileone.models.graph import inputs_and_outputs, nested_models

Tensor = Any  # a symbolic tensor of Keras
LINEAR_LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def foldable_norms(model: keras.Model) -> dict[int, keras.layers.BatchNormalization]:
    """Finds the batch normalizations that can be folded into the layer before them.

    Such a layer is linear, is called once, and only the normalization takes its output.

    Args:
        model: A Functional or built Sequential model, with nested models at any depth.

    Returns:
        The normalization by the `id` of the layer that it can be folded into.
    """
    pairs: list[tuple[keras.Layer, keras.layers.BatchNormalization]] = []
    times_called: Counter[int] = Counter()
    sources = {id(source): source for source in (model, *nested_models(model))}
    for source in sources.values():
        calls: list[tuple[Any, list[Tensor], Tensor]] = []

        def record(layer: Any, *args: Any, calls: list = calls, **kwargs: Any) -> Tensor:
            outputs = layer(*args, **kwargs)
            tensors = keras.tree.flatten((args, kwargs))
            inputs = [tensor for tensor in tensors if keras.backend.is_keras_tensor(tensor)]
            calls.append((layer, inputs, outputs))
            return outputs

        graph = keras.Model(*inputs_and_outputs(source))
        results = keras.tree.flatten(run_through_graph(graph, graph.input, record))
        times_called.update(id(layer) for layer, _, _ in calls)
        consumers = Counter(id(tensor) for _, inputs, _ in calls for tensor in inputs)
        consumers.update(id(tensor) for tensor in results)
        producers = {id(output): layer for layer, _, output in calls if is_linear_layer(layer)}
        for norm, inputs, _ in calls:
            if (
                is_channel_norm(norm)
                and id(inputs[0]) in producers
                and consumers[id(inputs[0])] == 1
            ):
                pairs.append((producers[id(inputs[0])], norm))
    return {
        id(layer): norm
        for layer, norm in pairs
        if times_called[id(layer)] == times_called[id(norm)] == 1
    }


def is_linear_layer(layer: Any) -> bool:
    """Returns whether a layer is a convolution or dense layer without an activation."""
    if not isinstance(layer, LINEAR_LAYERS):
        return False
    return layer.activation is None or layer.activation is keras.activations.linear


def is_channel_norm(layer: Any) -> bool:
    """Returns whether a layer is a batch normalization of the last axis of an image or a vector."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return list(axes) in ([-1], [layer.input_spec.ndim - 1])


def call_folded(
    layer: keras.Layer, norm: keras.layers.BatchNormalization, *args: Any, **kwargs: Any
) -> Tensor:
    """Calls a copy of `layer` that has a bias, with `norm` folded into its weights."""
    copy = with_bias(layer)
    output = copy(*args, **kwargs)
    copy.set_weights(folded_weights(layer, norm))
    return output


def with_bias(layer: keras.Layer) -> keras.Layer:
    """Returns a new layer with the configuration of `layer` and a bias."""
    return layer.__class__.from_config({**layer.get_config(), "use_bias": True})


def folded_weights(
    layer: keras.Layer, norm: keras.layers.BatchNormalization
) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a layer with the batch normalization after it folded in.

    Returns:
        kernel: float64, with the shape of the layer's kernel.
        bias: float64, shape (channels,).
    """
    kernel, *bias = (weight.astype(np.float64) for weight in layer.get_weights())
    mean, variance = (
        keras.ops.convert_to_numpy(w).astype(np.float64)
        for w in (norm.moving_mean, norm.moving_variance)
    )
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * keras.ops.convert_to_numpy(norm.gamma).astype(np.float64)
    shift = keras.ops.convert_to_numpy(norm.beta).astype(np.float64) if norm.center else 0.0
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    factors = scale.reshape(kernel.shape[-2:]) if depthwise else scale
    return kernel * factors, ((bias[0] if bias else 0.0) - mean) * scale + shift
