"""Mobile-Former (arXiv 2108.05895) in Keras, for latency only, without trained weights.

    python benchmarks/mobile_former.py    compares the numbers of operations and parameters

The network consists of a MobileNet and a transformer of a few tokens in parallel, with a bridge in
each direction in every block. It follows the paper and its authors' code
(github.com/AAboys/MobileFormer). There are two differences, which do not change the number of
operations: Keras' `same` pads stride 2 on other sides, and the classifier has no dropout. The 26M
network, whose 1×1 convolutions are in groups, is left out.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from keras_mobileone import model_complexity
from keras_mobileone.benchmarking.baselines import Peer

HEADS, FORMER_HEADS = 2, 4
SOURCE = "github.com/AAboys/MobileFormer"


@dataclass(frozen=True)
class Block:
    """One block of the network.

    Attributes:
        expansion: Channels of the first depthwise convolution divided by those of the input.
        filters: Number of output channels.
        strides: Strides of the first depthwise convolution. A block of stride 2 has two depthwise
            convolutions.
        second: Channels of the second depthwise convolution divided by `filters`.
    """

    expansion: int
    filters: int
    strides: int = 1
    second: int = 4


@dataclass(frozen=True)
class MobileFormer:
    """A network of the family, with its published properties.

    Attributes:
        name: Name of the network in the paper.
        tokens, token_size: Number of tokens, and size of each token.
        stem: Number of channels of the stem.
        first: The first block, which has no transformer: `expansion`, `filters`, `strides`.
        blocks: The other blocks.
        head: Number of features before the classifier.
        macs, parameters, top1: Published values, in millions and percent.
    """

    name: str
    tokens: int
    token_size: int
    stem: int
    first: tuple[int, int, int]
    blocks: tuple[Block, ...]
    head: int
    macs: float
    parameters: float
    top1: float


def _deep(widths: Any, expansions: Any) -> tuple[Block, ...]:
    """Returns the eleven blocks of the larger networks: stages of 2, 2, 4 and 3."""
    a, b, c, d, e = widths
    return (
        Block(6, a, 2),
        Block(expansions[0], a),
        Block(6, b, 2),
        Block(expansions[1], b),
        Block(6, c, 2),
        Block(4, c),
        Block(6, d),
        Block(6, d),
        Block(6, e, 2),
        Block(6, e),
        Block(6, e),
    )


VARIANTS = {
    variant.name: variant
    for variant in (
        MobileFormer(
            *("508M", 6, 192, 24, (2, 24, 1), _deep((40, 72, 128, 176, 240), (3, 3)), 1920),
            *(508, 14.0, 79.3),
        ),
        MobileFormer(
            *("294M", 6, 192, 16, (2, 16, 1), _deep((24, 48, 96, 128, 192), (4, 4)), 1920),
            *(294, 11.4, 77.9),
        ),
        MobileFormer(
            *("214M", 6, 192, 12, (2, 12, 1), _deep((20, 40, 80, 112, 160), (3, 4)), 1600),
            *(214, 9.4, 76.7),
        ),
        MobileFormer(
            *("151M", 6, 192, 12, (2, 12, 1), _deep((16, 32, 64, 88, 128), (3, 3)), 1280),
            *(151, 7.6, 75.2),
        ),
    )
}


def build(name: str, input_shape: Any = (224, 224, 3), classes: int = 1000) -> keras.Model:
    """Returns a network of `VARIANTS` as a new Keras model that returns logits."""
    variant = VARIANTS[name]
    images = keras.Input(input_shape)
    tokens = Tokens(variant.tokens, variant.token_size)(images)
    x = layers.ReLU(6)(_convolve(images, variant.stem, 3, strides=2))
    x = _lite_block(x, *variant.first)
    for block in variant.blocks:
        x, tokens = _block(x, tokens, block)
    tokens = _to_tokens(x, tokens)
    x = layers.ReLU(6)(_convolve(x, 6 * x.shape[-1]))
    x = layers.Activation("hard_silu")(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(variant.head)(layers.Concatenate()([x, tokens[:, 0]]))
    x = layers.Activation("hard_silu")(layers.BatchNormalization()(x))
    return keras.Model(images, layers.Dense(classes)(x), name=f"mobile_former_{name.lower()}")


class Tokens(layers.Embedding):
    """The learned initial tokens, (batch, tokens, token_size), which do not depend on the image."""

    def call(self, images: Any) -> Any:
        return ops.tile(self.embeddings[None], (ops.shape(images)[0], 1, 1))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0], self.input_dim, self.output_dim

    def compute_output_spec(self, images: Any) -> Any:
        return keras.KerasTensor(self.compute_output_shape(images.shape), self.compute_dtype)


def _block(x: Any, tokens: Any, block: Block) -> Any:
    tokens = _former(_to_tokens(x, tokens))
    if block.strides == 1:
        y = _dynamic_relu(_convolve(x, block.expansion * x.shape[-1]), tokens)
        y = _dynamic_relu(_depthwise(y), tokens)
        y = _convolve(y, block.filters)
        if block.filters == x.shape[-1]:
            y = layers.Add()([y, x])
    else:
        y = _dynamic_relu(_depthwise(x, block.expansion, block.strides), tokens)
        shortcut = _convolve(y, block.filters)
        y = _dynamic_relu(_depthwise(shortcut, block.second), tokens)
        y = layers.Add()([_convolve(y, block.filters), shortcut])
    return _to_features(y, tokens), tokens


def _lite_block(x: Any, expansion: Any, filters: Any, strides: Any) -> Any:
    y = _convolve(layers.ReLU(6)(_depthwise(x, expansion, strides)), filters)
    return layers.Add()([y, x]) if y.shape == x.shape else y


def _convolve(x: Any, filters: Any, kernel_size: Any = 1, strides: Any = 1) -> Any:
    x = layers.Conv2D(filters, kernel_size, strides, "same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def _depthwise(x: Any, expansion: Any = 1, strides: Any = 1) -> Any:
    x = layers.DepthwiseConv2D(3, strides, "same", expansion, use_bias=False)(x)
    return layers.BatchNormalization()(x)


def _to_tokens(x: Any, tokens: Any) -> Any:
    """Applies the bridge from image to tokens: tokens attend to positions, the keys and values."""
    query = _split(layers.Dense(x.shape[-1])(tokens), HEADS)
    positions = _split(layers.Reshape((-1, x.shape[-1]))(x), HEADS)
    found = _merge(_attend(query, positions, positions))
    gate = layers.Dense(x.shape[-1], activation="hard_sigmoid")(tokens)
    found = layers.Dense(tokens.shape[-1])(found * gate * 2.0)
    return _normalize(layers.Add()([tokens, found]))


def _former(tokens: Any) -> Any:
    """Applies the transformer layer: self-attention of the tokens, then a network of two layers."""
    size = tokens.shape[-1]
    split = _split(tokens, FORMER_HEADS)
    query = _split(layers.Dense(size)(tokens), FORMER_HEADS)
    found = layers.Dense(size)(_merge(_attend(query, split, split)))
    tokens = _normalize(layers.Add()([tokens, found]))
    hidden = layers.Dense(2 * size, activation="gelu")(tokens)
    return _normalize(layers.Add()([tokens, layers.Dense(size)(hidden)]))


def _to_features(x: Any, tokens: Any) -> Any:
    """Applies the bridge from tokens to image: the positions attend to the tokens."""
    channels = x.shape[-1]
    query = _split(layers.Reshape((-1, channels))(x), HEADS)
    key = _split(layers.Dense(channels)(tokens), HEADS)
    value = _split(layers.Dense(channels)(tokens), HEADS)
    found = layers.Reshape(x.shape[1:])(_merge(_attend(query, key, value)))
    return layers.Add()([x, found])


def _dynamic_relu(x: Any, tokens: Any) -> Any:
    """Returns max(a₁x, a₂x) by channel, with slopes from the first token (arXiv 2003.10027)."""
    channels, size = x.shape[-1], tokens.shape[-1]
    hidden = layers.Dense(size // 4, activation="relu")(tokens[:, 0])
    slopes = layers.Dense(2 * channels, activation="hard_sigmoid")(hidden)
    slopes = layers.Reshape((1, 1, 2 * channels))(slopes)
    first, second = slopes[..., :channels] * 2.0, slopes[..., channels:] * 2.0 - 1.0
    return layers.Maximum()([x * first, x * second])


def _attend(query: Any, key: Any, value: Any) -> Any:
    """Returns the attention of (batch, heads, rows, channels) tensors."""
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * query.shape[-1] ** -0.5
    return ops.matmul(ops.softmax(scores, axis=-1), value)


def _split(x: Any, heads: Any) -> Any:
    """Reshapes (batch, rows, channels) to (batch, heads, rows, channels / heads)."""
    rows, channels = x.shape[1:]
    return layers.Permute((2, 1, 3))(layers.Reshape((rows, heads, channels // heads))(x))


def _merge(x: Any) -> Any:
    """Inverts `_split`."""
    heads, rows, channels = x.shape[1:]
    return layers.Reshape((rows, heads * channels))(layers.Permute((2, 1, 3))(x))


def _normalize(x: Any) -> Any:
    return layers.LayerNormalization(epsilon=1e-5)(x)


def peer(name: str) -> Peer:
    """Returns the network for the comparison, as in MobileOne's paper."""
    return Peer(f"MobileFormer{name}", partial(build, name), VARIANTS[name].top1, SOURCE)


def main() -> None:
    """Prints the counted and the published parameters and multiply-accumulates."""
    for name, variant in VARIANTS.items():
        found = model_complexity(build(name), strict=True)
        macs, parameters = found.macs / 1e6, found.trainable / 1e6
        print(
            f"{name}: {macs:.1f} M MACs, published {variant.macs:g}; "
            f"{parameters:.2f} M parameters, published {variant.parameters:g}"
        )


if __name__ == "__main__":
    main()
