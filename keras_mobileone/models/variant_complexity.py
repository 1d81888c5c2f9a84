"""Parameters and multiply-accumulates of a `Variant`, by arithmetic: no network is built."""

from typing import NamedTuple

from keras_mobileone.variants import BlockSpec, Variant

IMAGE_CHANNELS = 3


class Complexity(NamedTuple):
    """Size and work of a model.

    Attributes:
        trainable: Trainable parameters.
        non_trainable: The others, such as the moving statistics of batch normalization.
        macs: Multiply-accumulates for one image: convolutions, dense layers, products of two
            tensors, and one for each value that a global average pooling adds up, which is how
            fvcore counts. Biases, normalization, activations and everything else that works value
            by value count as free.
        dense_macs: The part of `macs` in dense layers, which is the classifier.
    """

    trainable: int
    non_trainable: int
    macs: int
    dense_macs: int

    @property
    def feature_macs(self) -> int:
        """`macs` without the classifier: the work of the backbone."""
        return self.macs - self.dense_macs


def variant_complexity(
    variant: Variant, deploy: bool = False, image_size: int = 224, classes: int = 1000
) -> Complexity:
    """Counts what `model_complexity` counts on the network of a variant.

    Args:
        variant: The network, with its classifier.
        deploy: Count the fused network instead of the one that is trained.
        image_size: Side of the square RGB image in pixels.
        classes: Outputs of the classifier.

    Returns:
        The counts, equal to those of the built network.

    Examples:
        >>> variant_complexity(km.VARIANTS["s0"], deploy=True).trainable
        2078504
    """
    channels, side = IMAGE_CHANNELS, image_size
    trainable = non_trainable = macs = 0
    for block in variant.blocks():
        side = -(-side // block.strides)
        kernels, norms = _fused(block, channels) if deploy else _branches(block, channels)
        trainable += kernels + (block.filters if deploy else 2 * block.filters * norms)
        non_trainable += 2 * block.filters * norms
        macs += kernels * side**2
        if block.se_ratio:
            weights, biases = _squeeze_and_excitation(block)
            trainable += weights + biases
            macs += weights + block.filters * side**2
        channels = block.filters
    dense_macs = channels * classes
    return Complexity(
        trainable=trainable + dense_macs + classes,
        non_trainable=non_trainable,
        macs=macs + channels * side**2 + dense_macs,
        dense_macs=dense_macs,
    )


def _fused(block: BlockSpec, channels: int) -> tuple[int, int]:
    """Values in the only kernel of a fused block, and its number of norms: none."""
    return block.kernel_size**2 * _pairs(block, channels), 0


def _branches(block: BlockSpec, channels: int) -> tuple[int, int]:
    """Values in the kernels of all branches of a block, and the number of their norms."""
    scale = block.kernel_size > 1
    skip = channels == block.filters and block.strides == 1
    values = block.num_conv_branches * block.kernel_size**2 + scale
    return values * _pairs(block, channels), block.num_conv_branches + scale + skip


def _pairs(block: BlockSpec, channels: int) -> int:
    """Pairs of an input and an output channel that a kernel connects."""
    return block.filters if block.depthwise else channels * block.filters


def _squeeze_and_excitation(block: BlockSpec) -> tuple[int, int]:
    """Values in the two kernels of squeeze-and-excitation, and in its two biases."""
    reduced = max(1, int(block.filters * block.se_ratio))
    return 2 * block.filters * reduced, reduced + block.filters
