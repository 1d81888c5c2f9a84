"""`fuse`: turns a train-time model into a deploy model of stock Keras layers."""

from typing import Any

import keras
import numpy as np

from keras_mobileone.compat import flatten_layers
from keras_mobileone.errors import InputValueError, VerificationError
from keras_mobileone.layers.block import MobileOneBlock
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.folding import call_folded, foldable_norms
from keras_mobileone.models.graph import (
    as_functional,
    call_copy,
    in_float32,
    inputs_and_outputs,
    random_input,
    rebuild,
)

Tensor = Any  # a tensor or variable of Keras' backend

VERIFY_TOLERANCE = 1e-4  # of the output's range


def fuse(model: keras.Model, verify: bool = True) -> keras.Model:
    """Folds every MobileOne block of `model` into one plain convolution.

    Batch normalization directly behind another convolution or dense layer, such as those of a head,
    is folded into it.

    Args:
        model: Functional or built Sequential model that contains `MobileOneBlock`s, at any depth of
            nested models. It is not changed.
        verify: Whether to run both models on random input and compare their outputs.

    Returns:
        A new Functional model of stock Keras layers, with the same inputs, outputs and layer
        names, but without the normalizations that were folded. After `model.save`,
        `keras.models.load_model` loads it where this package is not installed.

    Raises:
        TypeError: If `model` is not a Keras model, or is subclassed and has no graph.
        ValueError: If `model` contains no MobileOne block, or contains one inside a layer that is
            not a model (a wrapper such as `TimeDistributed`), where it can't be replaced.
        ArithmeticError: If `verify` finds outputs that differ by more than 1e-4 of their range.
            The message names the first layer that differs.

    Reference: section 3.2 of [MobileOne](https://arxiv.org/abs/2206.04040).

    Examples:
        >>> model = keras_mobileone.MobileOneS0(weights=None, input_shape=(64, 64, 3))
        >>> keras_mobileone.fuse(model).count_params()
        2078504
    """
    model = as_functional(model)
    if not has_blocks(model):
        raise InputValueError(
            f"Expected a model with MobileOne blocks. Received: {model.name!r}, which has none. "
            "It is already fused, or not a MobileOne."
        )
    replicas: dict[int, Any] = {}
    folded = foldable_norms(model)
    norms = {id(norm) for norm in folded.values()}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
        if id(layer) in norms:
            return args[0]
        if id(layer) in folded:
            return call_folded(layer, folded[id(layer)], *args, **kwargs)
        if isinstance(layer, MobileOneBlock):
            if id(layer) not in replicas:
                replicas[id(layer)] = layer.plain()
            return replicas[id(layer)](*args)
        return call_copy(replicas, layer, args, kwargs)

    fused = rebuild(model, call)
    left = [layer.name for layer in flatten_layers(fused) if isinstance(layer, MobileOneBlock)]
    if left:
        raise InputValueError(
            "Expected MobileOne blocks only in Functional and Sequential models, where they can be "
            f"fused. Received: blocks inside other layers, {', '.join(left)}. Replace those layers "
            "by models."
        )
    if verify:
        verify_equal(model, fused)
    return copy_attachment(model, fused)


def has_blocks(model: keras.Model) -> bool:
    """Returns whether `model` contains a `MobileOneBlock`, at any depth."""
    return any(isinstance(layer, MobileOneBlock) for layer in flatten_layers(model))


def verify_equal(
    model: keras.Model, fused: keras.Model, tolerance: float = VERIFY_TOLERANCE
) -> float:
    """Compares the inference outputs of two models on random input, in float32.

    Models with a lower compute precision are compared through float32 copies, so that the check
    detects wrong weights and not rounding.

    Args:
        model: The reference.
        fused: The model to compare with it.
        tolerance: Largest allowed difference, divided by the range of the reference output.

    Returns:
        The largest difference divided by the range of the reference output.

    Raises:
        ArithmeticError: If the difference exceeds `tolerance`. The message names the first layer
            that differs.
    """
    model, fused = in_float32(model), in_float32(fused)
    inputs = random_input(model)
    error = _relative_error(model(inputs, training=False), fused(inputs, training=False))
    if not error <= tolerance:
        layer, layer_error = _first_difference(model, fused, inputs, tolerance)
        raise VerificationError(
            f"The fused model differs from {model.name!r} by {error:.1e} of the output's range; "
            f"the limit is {tolerance:.0e}. The first layer that differs is {layer!r}, by "
            f"{layer_error:.1e}."
        )
    return error


def _relative_error(reference: Tensor, candidate: Tensor) -> float:
    """Returns the largest difference of any output, divided by the range of its reference."""
    worst = 0.0
    for a, b in zip(keras.tree.flatten(reference), keras.tree.flatten(candidate), strict=True):
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        spread = max(float(np.ptp(a)), float(np.finfo(np.float32).tiny))
        worst = max(worst, float(np.abs(a - b).max()) / spread)
        if not np.isfinite(b).all():
            return float("nan")
    return worst


def _first_difference(
    model: keras.Model, fused: keras.Model, inputs: Tensor, tolerance: float
) -> tuple[str, float]:
    """Returns name and error of the first layer whose outputs differ in both models."""
    names = [layer.name for layer in fused.layers]
    for layer in model.layers:
        if layer.name not in names:
            continue
        counterpart = fused.get_layer(layer.name)
        if isinstance(layer, keras.Model):
            nested_inputs = random_input(layer)
            error = _relative_error(layer(nested_inputs), counterpart(nested_inputs))
            if not error <= tolerance:
                return _first_difference(layer, counterpart, nested_inputs, tolerance)
            continue
        reference, candidate = (
            keras.Model(inputs_and_outputs(m)[0], m.get_layer(layer.name).output)(
                inputs, training=False
            )
            for m in (model, fused)
        )
        error = _relative_error(reference, candidate)
        if not error <= tolerance:
            return layer.name, error
    return "the output", float("nan")
