"""Layers that the networks built here share: convolutions with batch normalization, gates.

The converter folds each batch normalization into the convolution before it. A convolution that the
authors fuse from several branches is therefore one of these too: its file has one convolution.
"""

from typing import Any

from keras import layers


def convolve(
    x: Any, filters: int, kernel_size: int = 1, strides: int = 1, activation: str | None = None
) -> Any:
    """Applies a convolution with batch normalization; see `_padded` for its padding."""
    x, padding = _padded(x, kernel_size, strides)
    x = layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False)(x)
    return _normalized(x, activation)


def depthwise(
    x: Any,
    kernel_size: int = 3,
    strides: int = 1,
    multiplier: int = 1,
    activation: str | None = None,
) -> Any:
    """Applies a depthwise convolution with batch normalization; see `_padded` for its padding."""
    x, padding = _padded(x, kernel_size, strides)
    x = layers.DepthwiseConv2D(kernel_size, strides, padding, multiplier, use_bias=False)(x)
    return _normalized(x, activation)


def squeeze_excite(x: Any, hidden: int) -> Any:
    """Multiplies each channel by a gate, which a bottleneck of `hidden` channels computes."""
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(hidden, 1, activation="relu")(gate)
    gate = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)
    return layers.Multiply()([x, gate])


def pooled_logits(x: Any, classes: int) -> Any:
    """Returns the logits of a linear classifier of the channels' means."""
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


def _padded(x: Any, kernel_size: int, strides: int) -> tuple[Any, str]:
    """Pads as PyTorch does, by half a kernel on every side, and returns Keras' padding as well.

    At stride 1 this is Keras' `same`, which pads other sides at stride 2.
    """
    if strides == 1 or kernel_size == 1:
        return x, "same"
    return layers.ZeroPadding2D(kernel_size // 2)(x), "valid"


def _normalized(x: Any, activation: str | None) -> Any:
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x
