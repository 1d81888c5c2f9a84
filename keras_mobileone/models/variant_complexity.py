"""Counts parameters and multiply-accumulates of a `Variant` without building the network."""

from typing import NamedTuple

from keras_mobileone.variants import BlockSpec, Variant

IMAGE_CHANNELS = 3


class Complexity(NamedTuple):
    """Number of parameters and multiply-accumulates of a model.

    Attributes:
        trainable: Number of trainable parameters.
        non_trainable: Number of other parameters, such as the moving statistics of batch
            normalization.
        macs: Multiply-accumulates for one image: those of convolutions, dense layers and products
            of two tensors, and one for each value that a global average pooling sums, as fvcore
            counts. Biases, normalization, activations and all other elementwise operations count as
            free.
        dense_macs: The part of `macs` in dense layers, such as the classifier.
    """

    trainable: int
    non_trainable: int
    macs: int
    dense_macs: int

    @property
    def feature_macs(self) -> int:
        """The part of `macs` that is not in dense layers, which is the work of the backbone."""
        return self.macs - self.dense_macs


def variant_complexity(
    variant: Variant, deploy: bool = False, image_size: int = 224, classes: int = 1000
) -> Complexity:
    """Computes the complexity of the network of a variant, as `model_complexity` counts it.

    Args:
        variant: The architecture, which is counted with its classifier.
        deploy: Whether to count the fused network instead of the train-time network.
        image_size: Side of the square RGB image in pixels.
        classes: Number of classes of the classifier.

    Returns:
        A `Complexity`, equal to that of the built network.

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
    """Counts the values in the only kernel of a fused block, and its norms, which are none."""
    return block.kernel_size**2 * _pairs(block, channels), 0


def _branches(block: BlockSpec, channels: int) -> tuple[int, int]:
    """Counts the values in the kernels of all branches of a block, and the norms."""
    scale = block.kernel_size > 1
    skip = block.skip and channels == block.filters and block.strides == 1
    values = block.num_conv_branches * block.kernel_size**2 + scale
    return values * _pairs(block, channels), block.num_conv_branches + scale + skip


def _pairs(block: BlockSpec, channels: int) -> int:
    """Counts the pairs of an input and an output channel that a kernel connects."""
    return block.filters if block.depthwise else channels * block.filters


def _squeeze_and_excitation(block: BlockSpec) -> tuple[int, int]:
    """Counts the values in the two kernels of squeeze-and-excitation, and in its two biases."""
    reduced = max(1, int(block.filters * block.se_ratio))
    return 2 * block.filters * reduced, reduced + block.filters
