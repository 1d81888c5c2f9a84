"""FastViT-T8 (arXiv 2303.14189) in its fused form in Keras, for latency only, without weights.

    python benchmarks/fastvit.py    compares the numbers of operations and parameters

The network follows the authors' code (github.com/apple/ml-fastvit). Its smallest variants have no
attention: every token mixer is a depthwise convolution once it is fused. The scale of each channel
before a residual sum is part of the convolution before it here.

The paper gives T8 3.6 million parameters. The network that its authors have released, with the
accuracy below, has 4.0 million, also in timm's count of its weights.
"""

from functools import partial
from typing import Any

import keras
from keras import layers
from peer_layers import convolve, depthwise, pooled_logits, squeeze_excite
from published_counts import Published, compare

from keras_mobileone.benchmarking.baselines import Peer

SOURCE = "github.com/apple/ml-fastvit"
WIDTHS, DEPTHS = (48, 96, 192, 384), (2, 2, 4, 2)
EXPANSION = 3
PATCH = 7  # kernel size of the convolutions that halve the image and of those in a block
HEAD = 2  # channels before the classifier divided by those of the last stage
REDUCTION = 16  # of the squeeze-and-excitation before the classifier
# Accuracy without distillation.
T8 = Published(pixels=256, parameters=4.0, macs=700, top1=76.2)


def build(pixels: int = T8.pixels, classes: int = 1000) -> keras.Model:
    """Returns the network as a new Keras model that returns logits.

    Args:
        pixels: Height and width of the images.
        classes: Number of classes.
    """
    images = keras.Input((pixels, pixels, 3))
    x = convolve(images, WIDTHS[0], 3, 2, "gelu")
    x = depthwise(x, strides=2, activation="gelu")
    x = convolve(x, WIDTHS[0], activation="gelu")
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        if stage:
            x = depthwise(x, PATCH, 2, multiplier=width // x.shape[-1])
            x = convolve(x, width, activation="gelu")
        for _ in range(depth):
            x = _block(x)
    x = depthwise(x, multiplier=HEAD)
    x = layers.Activation("gelu")(squeeze_excite(x, x.shape[-1] // REDUCTION))
    return keras.Model(images, pooled_logits(x, classes), name="fastvit_t8")


def _block(x: Any) -> Any:
    x = depthwise(x)
    y = depthwise(x, PATCH)
    y = convolve(y, EXPANSION * x.shape[-1], activation="gelu")
    return layers.Add()([x, convolve(y, x.shape[-1])])


def peer() -> Peer:
    """Returns the network for the comparison."""
    return Peer("FastViTT8", partial(build), T8.top1, SOURCE, T8.pixels)


if __name__ == "__main__":
    print(compare("T8", build(), T8))
