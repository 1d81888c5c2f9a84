"""MobileNetV4-Conv (arXiv 2404.10518) in Keras, for latency only, without trained weights.

    python benchmarks/mobilenet_v4.py    compares the numbers of operations and parameters

The networks are those of the authors' specification in
github.com/tensorflow/models (official/vision/modeling/backbones/mobilenet.py). There is one
difference, which does not change the number of operations: convolutions of stride 2 pad every side
alike, as in timm, whose weights are the only published ones.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import layers
from peer_layers import convolve, depthwise
from published_counts import Published, compare

from keras_mobileone.benchmarking.baselines import Peer

SOURCE = "arXiv 2404.10518"
LAST, HEAD = 960, 1280  # channels before and after the global average
FUSED_EXPANSION = 4


@dataclass(frozen=True)
class Bottleneck:
    """A universal inverted bottleneck.

    Attributes:
        start: Kernel size of the depthwise convolution before the expansion, or 0 for none.
        middle: Kernel size of the one between expansion and projection, or 0 for none. It has the
            stride if there is one.
        filters: Number of output channels.
        expansion: Channels inside divided by those of the input.
        strides: Strides of the block.
    """

    start: int
    middle: int
    filters: int
    expansion: int
    strides: int = 1


@dataclass(frozen=True)
class MobileNetV4:
    """A network of the family.

    Attributes:
        convolutions: Filters, kernel size and strides of the first convolutions.
        fused: Output channels of the fused inverted bottleneck behind them, or None.
        blocks: The universal inverted bottlenecks, in order.
        published: Its published properties.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    fused: int | None
    blocks: tuple[Bottleneck, ...]
    published: Published


SMALL = MobileNetV4(
    convolutions=((32, 3, 2), (32, 3, 2), (32, 1, 1), (96, 3, 2), (64, 1, 1)),
    fused=None,
    blocks=(
        Bottleneck(5, 5, 96, 3, strides=2),
        *[Bottleneck(0, 3, 96, 2)] * 4,
        Bottleneck(3, 0, 96, 4),
        Bottleneck(3, 3, 128, 6, strides=2),
        Bottleneck(5, 5, 128, 4),
        Bottleneck(0, 5, 128, 4),
        Bottleneck(0, 5, 128, 3),
        *[Bottleneck(0, 3, 128, 4)] * 2,
    ),
    published=Published(pixels=224, parameters=3.77, macs=190, top1=73.8),
)
MEDIUM = MobileNetV4(
    convolutions=((32, 3, 2),),
    fused=48,
    blocks=(
        Bottleneck(3, 5, 80, 4, strides=2),
        Bottleneck(3, 3, 80, 2),
        Bottleneck(3, 5, 160, 6, strides=2),
        *[Bottleneck(3, 3, 160, 4)] * 2,
        Bottleneck(3, 5, 160, 4),
        Bottleneck(3, 3, 160, 4),
        Bottleneck(3, 0, 160, 4),
        Bottleneck(0, 0, 160, 2),
        Bottleneck(3, 0, 160, 4),
        Bottleneck(5, 5, 256, 6, strides=2),
        Bottleneck(5, 5, 256, 4),
        *[Bottleneck(3, 5, 256, 4)] * 2,
        Bottleneck(0, 0, 256, 4),
        Bottleneck(3, 0, 256, 4),
        Bottleneck(3, 5, 256, 2),
        Bottleneck(5, 5, 256, 4),
        *[Bottleneck(0, 0, 256, 4)] * 2,
        Bottleneck(5, 0, 256, 2),
    ),
    # The paper's accuracy is that at 256 pixels; timm's weights reach 79.1 at 224.
    published=Published(pixels=256, parameters=9.72, macs=1100, top1=79.9),
)
VARIANTS = {"ConvS": SMALL, "ConvM": MEDIUM}


def build(name: str, pixels: int | None = None, classes: int = 1000) -> keras.Model:
    """Returns a network of `VARIANTS` as a new Keras model that returns logits.

    Args:
        name: Key of `VARIANTS`.
        pixels: Height and width of the images. None: the published size.
        classes: Number of classes.
    """
    variant = VARIANTS[name]
    pixels = pixels or variant.published.pixels
    images = x = keras.Input((pixels, pixels, 3))
    for filters, kernel_size, strides in variant.convolutions:
        x = convolve(x, filters, kernel_size, strides, "relu")
    if variant.fused:
        x = convolve(x, FUSED_EXPANSION * x.shape[-1], 3, 2, "relu")
        x = convolve(x, variant.fused)
    for block in variant.blocks:
        x = _bottleneck(x, block)
    x = convolve(x, LAST, activation="relu")
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Flatten()(convolve(x, HEAD, activation="relu"))
    return keras.Model(images, layers.Dense(classes)(x), name=f"mobilenet_v4_{name.lower()}")


def _bottleneck(x: Any, block: Bottleneck) -> Any:
    y = x
    if block.start:
        y = depthwise(y, block.start, 1 if block.middle else block.strides)
    y = convolve(y, block.expansion * x.shape[-1], activation="relu")
    if block.middle:
        y = depthwise(y, block.middle, block.strides, activation="relu")
    y = convolve(y, block.filters)
    return layers.Add()([x, y]) if y.shape == x.shape else y


def peer(name: str) -> Peer:
    """Returns a network of `VARIANTS` for the comparison."""
    published = VARIANTS[name].published
    build_it = partial(build, name)
    return Peer(f"MobileNetV4{name}", build_it, published.top1, SOURCE, published.pixels)


if __name__ == "__main__":
    for key, one in VARIANTS.items():
        print(compare(key, build(key), one.published))
