"""RepViT (arXiv 2307.09283) in its deploy form in Keras, for latency only, without weights.

    python benchmarks/repvit.py    compares the numbers of operations and parameters

The networks follow the paper and its authors' code (github.com/THU-MIG/RepViT). The deploy form has
one depthwise convolution where training has three branches, and one linear classifier where
training has two behind a batch normalization.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import layers
from peer_layers import convolve, depthwise, pooled_logits, squeeze_excite
from published_counts import Published, compare

from keras_mobileone.benchmarking.baselines import Peer

# The accuracy is that of 300 epochs with distillation.
SOURCE = "github.com/THU-MIG/RepViT, with distillation"
EXPANSION = 2
DEPTHS = (2, 2, 14, 2)  # blocks of each stage, besides those that halve the image


@dataclass(frozen=True)
class RepViT:
    """A network of the family.

    Attributes:
        widths: Channels of each stage.
        published: Its published properties.
    """

    widths: tuple[int, int, int, int]
    published: Published


VARIANTS = {
    "M0.9": RepViT((48, 96, 192, 384), Published(pixels=224, parameters=5.1, macs=800, top1=78.7)),
    "M1.0": RepViT(
        (56, 112, 224, 448), Published(pixels=224, parameters=6.8, macs=1100, top1=80.0)
    ),
}


def build(name: str, pixels: int | None = None, classes: int = 1000) -> keras.Model:
    """Returns a network of `VARIANTS` as a new Keras model that returns logits.

    Args:
        name: Key of `VARIANTS`.
        pixels: Height and width of the images. None: the published size.
        classes: Number of classes.
    """
    variant = VARIANTS[name]
    pixels = pixels or variant.published.pixels
    images = keras.Input((pixels, pixels, 3))
    x = convolve(images, variant.widths[0] // 2, 3, 2, "gelu")
    x = convolve(x, variant.widths[0], 3, 2)
    for stage, (width, depth) in enumerate(zip(variant.widths, DEPTHS, strict=True)):
        if stage:
            x = _block(x, excite=False)
            x = _mix_channels(convolve(depthwise(x, strides=2), width))
        for index in range(depth):
            x = _block(x, excite=index % 2 == 0)
    name = f"repvit_{name.lower().replace('.', '_')}"
    return keras.Model(images, pooled_logits(x, classes), name=name)


def _block(x: Any, excite: bool) -> Any:
    x = depthwise(x)
    if excite:
        x = squeeze_excite(x, _multiple_of_8(x.shape[-1] / 4))
    return _mix_channels(x)


def _mix_channels(x: Any) -> Any:
    y = convolve(x, EXPANSION * x.shape[-1], activation="gelu")
    return layers.Add()([x, convolve(y, x.shape[-1])])


def _multiple_of_8(channels: float) -> int:
    """Returns the next multiple of 8, at least 8; halves are rounded up."""
    return max(8, int(channels + 4) // 8 * 8)


def peer(name: str) -> Peer:
    """Returns a network of `VARIANTS` for the comparison."""
    published = VARIANTS[name].published
    return Peer(f"RepViT{name}", partial(build, name), published.top1, SOURCE, published.pixels)


if __name__ == "__main__":
    for key, one in VARIANTS.items():
        print(compare(key, build(key), one.published))
