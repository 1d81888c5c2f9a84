"""Parameters and multiply-accumulates of any Keras model."""

import math
from typing import NamedTuple

import keras

from keras_mobileone.graph import rebuild, require_graph
from keras_mobileone.layers import MobileOneBlock


class Complexity(NamedTuple):
    """Size and work of a model.

    Attributes:
        trainable: Trainable parameters.
        non_trainable: The others, such as the moving statistics of batch normalization.
        macs: Multiply-accumulates for one image: convolutions, dense layers, and one for each
            value that a global average pooling adds up, which is how fvcore counts. Bias,
            normalization and activation are free.
        dense_macs: The part of `macs` in dense layers: the classifier.
    """

    trainable: int
    non_trainable: int
    macs: int
    dense_macs: int

    @property
    def feature_macs(self) -> int:
        """`macs` without the classifier: what the backbone costs."""
        return self.macs - self.dense_macs


def complexity(model: keras.Model, input_shape: tuple[int, int, int] | None = None) -> Complexity:
    """Counts the parameters and multiply-accumulates of `model`.

    Args:
        model: Functional or built Sequential model. A layer called twice counts twice. Counted are
            MobileOneBlock, Conv2D, DepthwiseConv2D, SeparableConv2D, Dense and global average
            pooling; other layers do not count.
        input_shape: (height, width, channels) of its single input, where the model leaves it open.

    Raises:
        ValueError: If the size of the input is open and `input_shape` is not given.

    Example:

    >>> complexity(keras_mobileone.MobileOneS0(weights=None, deploy=True))
    Complexity(trainable=2078504, non_trainable=0, macs=275160576, dense_macs=1024000)
    """
    inputs = None
    require_graph(model)
    if input_shape is not None:
        if len(model.inputs) != 1:
            raise ValueError(
                f"`input_shape` is for a model with one input. Received: {model.name!r} with "
                f"{len(model.inputs)}. Build it with fixed sizes."
            )
        inputs = keras.Input(input_shape, dtype=model.inputs[0].dtype)
    elif any(None in tensor.shape[1:] for tensor in model.inputs):
        raise ValueError(
            f"The input size of {model.name!r} is open, and so is its work. "
            "Received: input_shape=None. Pass input_shape=(height, width, channels)."
        )
    macs = dense_macs = 0

    def call(layer, *args, **kwargs):
        nonlocal macs, dense_macs
        outputs = layer(*args, **kwargs)
        work = _layer_macs(layer, args[0], outputs) if isinstance(layer, keras.Layer) else 0
        macs += work
        dense_macs += work if isinstance(layer, keras.layers.Dense) else 0
        return outputs

    rebuild(model, call, inputs, flatten=True)
    sizes = _size(model.trainable_variables), _size(model.non_trainable_variables)
    return Complexity(*sizes, macs, dense_macs)


def _size(variables) -> int:
    return sum(math.prod(v.shape) for v in variables if "seed_generator" not in v.path)


def _layer_macs(layer, inputs, outputs) -> int:
    if isinstance(layer, MobileOneBlock):
        convs = [*layer.conv_layers, *filter(None, [layer.scale_layer])]
        macs = math.prod(outputs.shape[1:3]) * sum(_kernel_macs(conv) for conv in convs)
        if layer.se is not None:
            macs += math.prod(outputs.shape[1:]) + sum(map(_kernel_macs, layer.se.convolutions))
        return macs
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        return math.prod(outputs.shape[1:3]) * _kernel_macs(layer)
    if isinstance(layer, keras.layers.SeparableConv2D):
        kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
        return math.prod(outputs.shape[1:3]) * sum(math.prod(k.shape) for k in kernels)
    if isinstance(layer, keras.layers.Dense):
        return math.prod(outputs.shape[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return math.prod(inputs.shape[1:])
    return 0


def _kernel_macs(conv) -> int:
    """Multiply-accumulates of a convolution for one output pixel."""
    return math.prod(conv.kernel.shape)
