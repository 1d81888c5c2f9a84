"""Builds a network of thirty convolutions in many forms, to measure activations and blocks.

Section 3.1 of the paper (arXiv 2206.04040) times such a network without describing it. This network
has a stem, fourteen pairs of a depthwise 3×3 and a pointwise 1×1 convolution as in MobileOne, and a
last pointwise convolution, each with batch normalization and an activation. The forms differ in one
aspect only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from keras_mobileone import MobileOneBlock, fuse

STEM = 32
# Filters, pairs, stride of the first pair.
STAGES = ((32, 1, 1), (64, 3, 2), (128, 4, 2), (256, 5, 2), (512, 1, 2))
LAST = 512
CONVOLUTIONS = 2 + 2 * sum(pairs for _, pairs, _ in STAGES)
EXCITE_RATIO = 1 / 4  # in blocks, as in MobileNetV3
SE_RELU_RATIO = 1 / 16  # after every convolution, as in Hu et al. (arXiv 1709.01507)
# Dynamic ReLU (arXiv 2003.10027): the number of lines, the scales of slopes and offsets, and the
# reduction.
LINES, SLOPE_SCALE, OFFSET_SCALE, REDUCTION = 2, 1.0, 0.5, 8


def build(
    activation: str = "ReLU",
    *,
    skips: bool = False,
    excite: bool = False,
    input_shape: Any = (224, 224, 3),
) -> keras.Model:
    """Returns the network in one form, as a new Keras model that returns 1000 logits.

    Args:
        activation: Key of `ACTIVATIONS`.
        skips: Whether to add a residual connection around each pair that keeps the shape.
        excite: Whether to add squeeze-and-excitation after each depthwise convolution.
        input_shape: (height, width, channels).
    """
    activate = ACTIVATIONS[activation]

    def convolve(x: Any, layer: Any, strides: Any = 1) -> Any:
        if strides > 1:
            x = layers.ZeroPadding2D()(x)  # MobileOne's padding
        return activate(layers.BatchNormalization()(layer(x)))

    def depthwise(x: Any, strides: Any) -> Any:
        padding = "same" if strides == 1 else "valid"
        layer = layers.DepthwiseConv2D(3, strides, padding, use_bias=False)
        x = convolve(x, layer, strides)
        return squeeze_excite(x, EXCITE_RATIO) if excite else x

    def pointwise(x: Any, filters: Any) -> Any:
        return convolve(x, layers.Conv2D(filters, 1, use_bias=False))

    images = keras.Input(input_shape)
    x = convolve(images, layers.Conv2D(STEM, 3, 2, use_bias=False), 2)
    for filters, strides in _pairs():
        y = pointwise(depthwise(x, strides), filters)
        x = layers.Add()([x, y]) if skips and x.shape == y.shape else y
    return _classify(images, pointwise(x, LAST))


def build_branches(
    num_conv_branches: int, *, fused: bool = False, input_shape: Any = (224, 224, 3)
) -> keras.Model:
    """Returns the network of MobileOne blocks, at train time or fused."""
    images = keras.Input(input_shape)
    block = partial(MobileOneBlock, num_conv_branches=num_conv_branches)
    x = MobileOneBlock(STEM, strides=2)(images)
    for filters, strides in _pairs():
        x = block(x.shape[-1], strides=strides, depthwise=True)(x)
        x = block(filters, kernel_size=1)(x)
    model = _classify(images, block(LAST, kernel_size=1)(x))
    return fuse(model) if fused else model


def _pairs() -> Any:
    for filters, pairs, strides in STAGES:
        for index in range(pairs):
            yield filters, strides if index == 0 else 1


def _classify(images: Any, x: Any) -> keras.Model:
    return keras.Model(images, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))


def squeeze_excite(x: Any, ratio: Any) -> Any:
    """Returns x · sigmoid(W₂ relu(W₁ mean(x)))."""
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(max(4, int(channels * ratio)), 1, activation="relu")(y)
    return layers.Multiply()([x, layers.Conv2D(channels, 1, activation="sigmoid")(y)])


def dynamic_relu(x: Any, by_channel: bool) -> Any:
    """Returns the maximum of `LINES` lines whose slopes and offsets depend on the input's mean.

    In Dynamic ReLU-A all channels share the lines. In B each channel has its own lines.
    """
    channels = x.shape[-1] if by_channel else 1
    y = layers.GlobalAveragePooling2D()(x)
    y = layers.Dense(max(4, x.shape[-1] // REDUCTION), activation="relu")(y)
    y = layers.Dense(2 * LINES * channels, activation="sigmoid")(y)
    y = layers.Reshape((1, 1, 2 * LINES, channels))(y * 2.0 - 1.0)
    lines = []
    for k in range(LINES):
        # Without a contribution of the input, the first line is the identity and the others are 0,
        # which is a ReLU.
        slope = y[..., k, :] * SLOPE_SCALE + (1.0 if k == 0 else 0.0)
        offset = y[..., LINES + k, :] * OFFSET_SCALE
        lines.append(x * slope + offset)
    return layers.Maximum()(lines)


def _elementwise(function: str | Callable) -> Callable:
    return lambda x: layers.Activation(function)(x)


ACTIVATIONS: dict[str, Callable] = {
    "ReLU": lambda x: layers.ReLU()(x),
    "Leaky ReLU": lambda x: layers.LeakyReLU(0.01)(x),
    "PReLU": lambda x: layers.PReLU(shared_axes=(1, 2))(x),
    "hard-swish": _elementwise("hard_silu"),
    "SiLU": _elementwise("silu"),
    "GELU": _elementwise(partial(ops.gelu, approximate=False)),
    "GELU (tanh)": _elementwise(partial(ops.gelu, approximate=True)),
    "SE-ReLU": lambda x: layers.ReLU()(squeeze_excite(x, SE_RELU_RATIO)),
    "Dynamic ReLU-A": lambda x: dynamic_relu(x, by_channel=False),
    "Dynamic ReLU-B": lambda x: dynamic_relu(x, by_channel=True),
}
BLOCKS: dict[str, Callable[..., keras.Model]] = {
    "plain": build,
    "skip connections": partial(build, skips=True),
    "squeeze-and-excitation": partial(build, excite=True),
    "1 convolution branch, unfused": partial(build_branches, 1),
    "4 convolution branches, unfused": partial(build_branches, 4),
    "4 convolution branches, fused": partial(build_branches, 4, fused=True),
}
