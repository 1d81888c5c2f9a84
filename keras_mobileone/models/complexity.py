"""Counts parameters and multiply-accumulates of any Keras model."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers

from keras_mobileone.errors import InputValueError
from keras_mobileone.layers.block import MobileOneBlock
from keras_mobileone.models.graph import as_functional, inputs_and_outputs, replay
from keras_mobileone.models.variant_complexity import Complexity

Tensor = Any  # a tensor or variable of Keras' backend

# Layers with weights that need at most one operation for each value. They count as free, like all
# elementwise layers.
FREE_WITH_WEIGHTS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.Embedding,
)
# Operations that multiply without weights and are not counted: layers, and functions of keras.ops
# by the names of their classes, which Keras does not export.
UNCOUNTED_LAYERS = (layers.Dot, layers.Attention)
UNCOUNTED_FUNCTIONS = {
    *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv", "DotProductAttention"),
    *("Dot", "Inner", "Outer", "Tensordot", "Vdot", "Kron", "Correlate"),
}


def model_complexity(
    model: keras.Model,
    input_shape: tuple[int, int, int] | None = None,
    *,
    strict: bool = False,
) -> Complexity:
    """Counts the parameters and multiply-accumulates of `model`.

    Args:
        model: Functional or built Sequential model. A layer that is called twice counts twice. The
            layers that count are `MobileOneBlock`, `Conv2D`, `DepthwiseConv2D`, `SeparableConv2D`,
            `Dense` and `GlobalAveragePooling2D`, and `keras.ops.matmul` and `keras.ops.einsum` of
            two tensors. All others count as free.
        input_shape: (height, width, channels) of the only input, if the model leaves it open.
        strict: Whether to raise an error for a layer or operation that multiplies and is not one of
            these, instead of leaving it out. Such layers are those with weights other than
            normalization, `PReLU` and `Embedding`; such operations are Keras' products. The
            operations inside the `call` of a layer without weights are never counted.

    Returns:
        A `Complexity`.

    Raises:
        TypeError: If `model` is not a Keras model, or is subclassed and has no graph.
        ValueError: If the input size is open and `input_shape` is not given or, with `strict`, if
            the work of a layer or operation can't be counted.

    Examples:
        >>> model_complexity(keras_mobileone.MobileOneS0(weights=None, deploy=True))
        Complexity(trainable=2078504, non_trainable=0, macs=275160576, dense_macs=1024000)
    """
    model = as_functional(model)
    inputs, _ = inputs_and_outputs(model)
    if input_shape is not None:
        if len(model.inputs) != 1:
            raise InputValueError(
                f"`input_shape` is for a model with one input. Received: {model.name!r} with "
                f"{len(model.inputs)}. Build it with fixed sizes."
            )
        inputs = keras.Input(input_shape, dtype=model.inputs[0].dtype)
    elif any(None in tensor.shape[1:] for tensor in model.inputs):
        raise InputValueError(
            f"The work of {model.name!r} depends on its input size, which is open. "
            "Received: input_shape=None. Pass input_shape=(height, width, channels)."
        )
    macs = dense_macs = 0

    def call(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal macs, dense_macs
        outputs = layer(*args, **kwargs)
        work = _macs(layer, args, outputs)
        if work is None and strict:
            raise InputValueError(
                "Expected layers and operations whose work `model_complexity` can count. "
                f"Received: {layer.name!r} of type {type(layer).__name__} in {model.name!r}. "
                "Pass strict=False to count only the others."
            )
        macs += work or 0
        dense_macs += (work or 0) if isinstance(layer, layers.Dense) else 0
        return outputs

    replay(model, call, inputs, flatten=True)
    sizes = _size(model.trainable_variables), _size(model.non_trainable_variables)
    return Complexity(*sizes, macs, dense_macs)


def _size(variables: Iterable[Tensor]) -> int:
    return sum(math.prod(v.shape) for v in variables if "seed_generator" not in v.path)


def _macs(operation: Any, inputs: Sequence[Tensor], outputs: Tensor) -> int | None:
    """Counts one call for one image; None if the operation multiplies in an unknown way."""
    if not isinstance(operation, keras.Layer):
        return _function_macs(operation, inputs, outputs)
    if isinstance(operation, MobileOneBlock):
        return _block_macs(operation, outputs)
    if isinstance(operation, (layers.Conv2D, layers.DepthwiseConv2D)):
        return math.prod(outputs.shape[1:3]) * _kernel_macs(operation)
    if isinstance(operation, layers.SeparableConv2D):
        kernels = (operation.depthwise_kernel, operation.pointwise_kernel)
        return math.prod(outputs.shape[1:3]) * sum(math.prod(k.shape) for k in kernels)
    if isinstance(operation, layers.Dense):
        return math.prod(outputs.shape[1:-1]) * math.prod(operation.kernel.shape)
    if isinstance(operation, layers.GlobalAveragePooling2D):
        return math.prod(inputs[0].shape[1:])
    unknown = operation.weights and not isinstance(operation, FREE_WITH_WEIGHTS)
    return None if unknown or isinstance(operation, UNCOUNTED_LAYERS) else 0


def _block_macs(block: MobileOneBlock, outputs: Tensor) -> int:
    convs = [*block.conv_layers, *filter(None, [block.scale_layer])]
    macs = math.prod(outputs.shape[1:3]) * sum(_kernel_macs(conv) for conv in convs)
    if block.se is not None:
        macs += math.prod(outputs.shape[1:]) + sum(map(_kernel_macs, block.se.convolutions))
    return macs


def _function_macs(function: Any, inputs: Sequence[Tensor], outputs: Tensor) -> int | None:
    """Counts one call of a function of `keras.ops` on symbolic tensors."""
    name = type(function).__name__
    if name == "Matmul":
        return math.prod(_sizes_of_one_image(outputs)) * inputs[0].shape[-1]
    if name == "Einsum":
        return _einsum_macs(function.subscripts, inputs)
    return None if name in UNCOUNTED_FUNCTIONS else 0


def _einsum_macs(subscripts: str, inputs: Sequence[Tensor]) -> int | None:
    """Multiplies the sizes of all indices of two tensors; a single tensor needs no products."""
    terms = subscripts.replace(" ", "").split("->")[0].split(",")
    if len(terms) == 1:
        return 0
    if len(terms) > 2 or "." in subscripts:
        return None
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, inputs, strict=True):
        sizes |= dict(zip(term, _sizes_of_one_image(tensor), strict=True))
    return math.prod(sizes.values())


def _sizes_of_one_image(tensor: Tensor) -> list[int]:
    """Returns the shape of a tensor with open sizes, such as the batch, replaced by 1."""
    return [1 if size is None else size for size in tensor.shape]


def _kernel_macs(conv: keras.Layer) -> int:
    """Returns the multiply-accumulates of a convolution for one output pixel."""
    return math.prod(conv.kernel.shape)
