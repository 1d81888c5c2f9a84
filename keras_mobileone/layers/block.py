"""`MobileOneBlock`, the trainable multi-branch layer, and the stock layers that it folds into."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_mobileone.checks import require_channels_last
from keras_mobileone.errors import InputValueError
from keras_mobileone.layers import one_pass, reparameterization
from keras_mobileone.layers.batch_norm import FusedBatchNorm

Tensor = Any  # a tensor or variable of Keras' backend
Shape = tuple[Any, ...]  # an unknown size is None
Activation = str | Callable[[Tensor], Tensor] | None

# The authors leave both at PyTorch's defaults: eps 1e-5 and momentum 0.1, which is 0.9 in Keras'
# convention. Keras' default epsilon of 1e-3 gives wrong outputs with the authors' weights.
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
NORM_SUFFIX = "_norm"
CONV_SUFFIX = "_conv"

_FOLDED = ContextVar("folded", default=False)


@contextmanager
def folded_inference() -> Iterator[None]:
    """Within this context, inference calls fold the branches on the fly.

    The outputs are the same at a fraction of the cost, which speeds up validation during training.
    Outside this context, inference runs the branches, so that `fuse` can be checked against them.
    """
    token = _FOLDED.set(True)
    try:
        yield
    finally:
        _FOLDED.reset(token)


class PlainBlock:
    """The deploy form of a block: a short chain of stock Keras layers.

    The layers are zero padding (at stride 2 only), a convolution, optional squeeze-and-excitation,
    and an activation. The last layer has the name of the block, so that features have the same name
    before and after fusing.

    Args:
        name: Name of the block, which is the prefix of the names of its other layers.
        filters: Number of output channels.
        kernel_size: Side of the square kernel, which must be odd.
        strides: Stride along both axes.
        depthwise: Whether to use a depthwise convolution instead of a dense one.
        se_ratio: Bottleneck channels of the squeeze-and-excitation divided by `filters`; 0 for no
            squeeze-and-excitation.
        activation: Keras activation identifier, or None.
        trainable: Whether the layers that have weights are trainable.
        dtype: Dtype policy of the layers.
        dilation_rate: Distance of the taps of the kernel in pixels. Only 1 is possible at stride 2.
        normalized: Whether batch normalization, and no bias, follows the convolution. Its layer has
            the suffix `"_norm"`, and `fuse` folds it. Blocks for training that have one branch,
            such as those of heads, use it.
        synchronized: Whether the batch normalization has the statistics of all replicas.
    """

    def __init__(
        self,
        name: str,
        filters: int,
        kernel_size: int,
        strides: int,
        depthwise: bool,
        se_ratio: float = 0.0,
        activation: Activation = None,
        trainable: bool = True,
        dtype: Any = None,
        dilation_rate: int = 1,
        normalized: bool = False,
        synchronized: bool = False,
    ) -> None:
        activation = keras.activations.get(activation)
        linear = activation is keras.activations.linear
        common = {"trainable": trainable, "dtype": dtype}
        margin = (kernel_size - 1) // 2 * dilation_rate
        # At stride 1, "same" pads `margin` on each side. At stride 2 it would pad only on the right
        # and at the bottom, unlike the code that trained the weights, so the padding is explicit.
        explicit_pad = strides > 1 and margin > 0
        self.pad = (
            layers.ZeroPadding2D(margin, name=f"{name}_pad", dtype=dtype) if explicit_pad else None
        )
        self.conv = convolution(
            filters,
            kernel_size,
            strides,
            depthwise,
            padding="valid" if explicit_pad else "same",
            name=name if linear and not se_ratio else f"{name}{CONV_SUFFIX}",
            dilation_rate=dilation_rate,
            use_bias=not normalized,
            **common,
        )
        self.norm = None
        if normalized:
            self.norm = layers.BatchNormalization(
                momentum=BATCH_NORM_MOMENTUM,
                epsilon=BATCH_NORM_EPSILON,
                synchronized=synchronized,
                name=f"{name}{NORM_SUFFIX}",
                **common,
            )
        self.se = None
        if se_ratio:
            self.se = SqueezeExcite(
                filters, se_ratio, f"{name}_se", name if linear else f"{name}_se", **common
            )
        self.activation = None
        if not linear:
            relu = activation is keras.activations.relu
            self.activation = (
                layers.ReLU(name=name, dtype=dtype)
                if relu
                else layers.Activation(activation, name=name, dtype=dtype)
            )

    def __call__(self, inputs: Tensor) -> Tensor:
        x = inputs if self.pad is None else self.pad(inputs)
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.se is not None:
            x = self.se(x)
        return x if self.activation is None else self.activation(x)


class SqueezeExcite:
    """Squeeze-and-excitation as stock layers: x · sigmoid(W₂ relu(W₁ mean(x) + b₁) + b₂).

    Args:
        filters: Number of input channels.
        ratio: Bottleneck channels divided by `filters`.
        prefix: Prefix of the names of the inner layers.
        name: Name of the last layer, which multiplies.
        **common: `trainable` and `dtype` of the layers.
    """

    def __init__(self, filters: int, ratio: float, prefix: str, name: str, **common: Any) -> None:
        self.pool = layers.GlobalAveragePooling2D(
            keepdims=True, name=f"{prefix}_pool", dtype=common.get("dtype")
        )
        self.reduce = layers.Conv2D(
            max(1, int(filters * ratio)), 1, activation="relu", name=f"{prefix}_reduce", **common
        )
        self.expand = layers.Conv2D(
            filters, 1, activation="sigmoid", name=f"{prefix}_expand", **common
        )
        self.multiply = layers.Multiply(name=name, dtype=common.get("dtype"))

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.multiply([inputs, self.expand(self.reduce(self.pool(inputs)))])

    @property
    def convolutions(self) -> tuple[layers.Layer, layers.Layer]:
        """The two layers that have weights."""
        return self.reduce, self.expand


def convolution(
    filters: int, kernel_size: int, strides: int, depthwise: bool, **kwargs: Any
) -> layers.Layer:
    """Returns a `DepthwiseConv2D` layer if `depthwise`, else a `Conv2D` layer."""
    if depthwise:
        return layers.DepthwiseConv2D(kernel_size, strides=strides, **kwargs)
    return layers.Conv2D(filters, kernel_size, strides=strides, **kwargs)


@keras.saving.register_keras_serializable(package="keras_mobileone")
class MobileOneBlock(layers.Layer):
    """Trainable multi-branch block of MobileOne.

    The block sums `num_conv_branches` convolutions with batch normalization, a 1×1 "scale"
    convolution with batch normalization (if the kernel is larger than 1×1), and a batch-normalized
    "skip" of the input (if it has the shape of the output). Optional squeeze-and-excitation and an
    activation follow. `fuse` folds all branches into one convolution.

    Reference: [MobileOne: An Improved One millisecond Mobile Backbone](
    https://arxiv.org/abs/2206.04040), figure 3.

    Args:
        filters: Number of output channels. For a depthwise block, it must be the number of input
            channels.
        kernel_size: Side of the square kernel, which must be odd. At stride 1 the padding keeps the
            size of the image.
        strides: Stride along both axes.
        depthwise: Whether to use depthwise convolutions, with one filter for each channel, instead
            of dense ones.
        num_conv_branches: Number k of convolution branches, at least 1.
        se_ratio: Bottleneck channels of the squeeze-and-excitation divided by `filters`; 0 for no
            squeeze-and-excitation.
        activation: Keras activation identifier, or None.
        synchronized: Whether to compute batch statistics over all replicas of a `tf.distribute`
            strategy.
        one_pass: Whether to train all branches through one convolution where that is faster (see
            `layers.one_pass`). Outputs, gradients and moving statistics are the same up to
            rounding. None: only with a backend for which the gain was measured, TensorFlow.
        dilation_rate: Distance of the taps of the kernel in pixels. The block trains branch by
            branch if it is not 1, and its stride must then be 1.
        skip: Whether to add the skip branch where it is possible. A block whose stride of 2 was
            replaced by 1, to keep the size of the features, has none.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype` and `trainable`.

    Input shape:
        `(batch, height, width, channels)`, floating point.

    Output shape:
        `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Raises:
        ValueError: If an argument is out of range, if the input of a depthwise block does not have
            `filters` channels, or if Keras is set to channels first.

    Examples:
        >>> block = MobileOneBlock(32, num_conv_branches=4)
        >>> tuple(block(keras.ops.ones((1, 8, 8, 32))).shape)
        (1, 8, 8, 32)
        >>> [type(layer).__name__ for layer in block.fuse().layers]
        ['InputLayer', 'Conv2D', 'ReLU']
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        depthwise: bool = False,
        num_conv_branches: int = 1,
        se_ratio: float = 0.0,
        activation: Activation = "relu",
        synchronized: bool = False,
        one_pass: bool | None = None,
        dilation_rate: int = 1,
        skip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_channels_last()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputValueError(
                "`kernel_size` must be odd, so that smaller branches can be centered in it. "
                f"Received: kernel_size={kernel_size}."
            )
        if filters < 1 or strides < 1 or num_conv_branches < 1 or not 0 <= se_ratio <= 1:
            raise InputValueError(
                "`filters`, `strides` and `num_conv_branches` must be at least 1 and `se_ratio` "
                f"must lie in [0, 1]. Received: filters={filters}, strides={strides}, "
                f"num_conv_branches={num_conv_branches}, se_ratio={se_ratio}."
            )
        if dilation_rate < 1 or (dilation_rate > 1 and strides > 1):
            raise InputValueError(
                "`dilation_rate` must be at least 1, and 1 if `strides` is larger than 1. "
                f"Received: dilation_rate={dilation_rate}, strides={strides}."
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.depthwise = depthwise
        self.num_conv_branches = num_conv_branches
        self.se_ratio = se_ratio
        self.activation = keras.activations.get(activation)
        self.synchronized = synchronized
        self.one_pass = one_pass
        self.dilation_rate = dilation_rate
        self.skip = skip

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        if self.depthwise and channels != self.filters:
            raise InputValueError(
                "`filters` of a depthwise block must be the number of its input channels. "
                f"Received: filters={self.filters} with {channels} input channels in block "
                f"{self.name!r}."
            )
        height, width = (None if s is None else s + 2 * self._margin for s in input_shape[1:3])
        padded = (input_shape[0], height, width, channels)
        output_shape = self.compute_output_shape(input_shape)

        self.conv_layers, self.conv_norms = [], []
        for i in range(self.num_conv_branches):
            self.conv_layers.append(
                self._conv(self.kernel_size, self.strides, f"conv{i}", shape=padded)
            )
            self.conv_norms.append(self._norm(f"conv{i}_norm", output_shape))
        self.scale_layer: layers.Layer | None = None
        self.scale_norm: layers.BatchNormalization | None = None
        self.skip_norm: layers.BatchNormalization | None = None
        self.se: SqueezeExcite | None = None
        if self.kernel_size > 1:
            # The convolution is not strided, see `_branch_by_branch`.
            self.scale_layer = self._conv(1, 1, "scale", shape=(*output_shape[:3], channels))
            self.scale_norm = self._norm("scale_norm", output_shape)
        if self.skip and channels == self.filters and self.strides == 1:
            self.skip_norm = self._norm("skip_norm", output_shape)
        if self.se_ratio:
            self.se = SqueezeExcite(
                self.filters, self.se_ratio, "se", "se", dtype=self.dtype_policy
            )
            self.se_reduce, self.se_expand = self.se.convolutions
            self.se_reduce.build((output_shape[0], 1, 1, self.filters))
            self.se_expand.build((output_shape[0], 1, 1, self.se_reduce.filters))
        self.built = True

    @property
    def _margin(self) -> int:
        return (self.kernel_size - 1) // 2 * self.dilation_rate

    def _conv(self, kernel_size: int, strides: int, name: str, shape: Shape) -> layers.Layer:
        conv = convolution(
            self.filters,
            kernel_size,
            strides,
            self.depthwise,
            use_bias=False,
            dilation_rate=self.dilation_rate if kernel_size > 1 else 1,
            name=name,
            dtype=self.dtype_policy,
        )
        conv.build(shape)
        return conv

    def _norm(self, name: str, shape: Shape) -> layers.BatchNormalization:
        norm = FusedBatchNorm(
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            synchronized=self.synchronized,
            name=name,
            dtype=self.dtype_policy,
        )
        norm.build(shape)
        return norm

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if training and self._in_one_pass(inputs.shape):
            x = self._one_pass(inputs)
        elif not training and _FOLDED.get():
            x = self._folded(inputs)
        else:
            x = self._branch_by_branch(inputs, training)
        if self.se is not None:
            x = self.se(x)
        return self.activation(x)

    def _in_one_pass(self, input_shape: Shape) -> bool:
        """Returns whether the branches train through one convolution, because that is faster."""
        # A frozen norm uses its moving statistics, which need no moments of the input.
        wanted = one_pass.is_measured() if self.one_pass is None else self.one_pass
        if not wanted or self.dilation_rate > 1:
            return False
        if not all(norm.trainable for _, norm in self._branches()):
            return False
        *image, channels = input_shape
        branches = self.num_conv_branches
        if self.depthwise:
            values = None if None in image else math.prod(image)
            return one_pass.depthwise_pays(values, self.kernel_size, self.strides, branches)
        return one_pass.dense_pays(channels, self.filters, self.kernel_size, branches)

    def _one_pass(self, inputs: Tensor) -> Tensor:
        window: one_pass.DenseWindow | one_pass.DepthwiseWindow
        if self.depthwise:
            window = one_pass.DepthwiseWindow(inputs, self.synchronized)
        else:
            window = one_pass.DenseWindow(inputs, self.kernel_size, self.strides, self.synchronized)
        return one_pass.fold_branches(window, self._kernels_and_norms(window.dtype))

    def _folded(self, inputs: Tensor) -> Tensor:
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        kernel, bias = one_pass.fold_moving(self._kernels_and_norms(dtype), dtype)
        kernel, bias = (ops.cast(value, inputs.dtype) for value in (kernel, bias))
        padded = self._padded(inputs)
        settings = {"padding": "valid", "dilation_rate": self.dilation_rate}
        if self.depthwise:
            outputs = ops.depthwise_conv(padded, kernel[..., None], self.strides, **settings)
        else:
            outputs = ops.conv(padded, kernel, self.strides, **settings)
        return outputs + bias

    def _kernels_and_norms(self, dtype: str) -> list[tuple[Tensor, layers.BatchNormalization]]:
        """Returns kernel and norm of each branch, with all kernels padded to the block's size.

        A kernel has shape (side, side, in, filters), or (side, side, filters) if depthwise.
        """
        identity = reparameterization.identity_kernel(self.filters, self.depthwise)
        pairs = []
        for conv, norm in self._branches():
            kernel = ops.convert_to_tensor(identity, dtype) if conv is None else conv.kernel
            if self.depthwise and conv is not None:
                kernel = kernel[..., 0]
            margin = (self.kernel_size - kernel.shape[0]) // 2
            pads = [(margin, margin)] * 2 + [(0, 0)] * (len(kernel.shape) - 2)
            pairs.append((ops.pad(kernel, pads) if margin else kernel, norm))
        return pairs

    def _branches(self) -> list[tuple[layers.Layer | None, layers.BatchNormalization]]:
        """Returns convolution and norm of each branch, with None for the skip's convolution."""
        pairs = list(zip(self.conv_layers, self.conv_norms, strict=True))
        pairs += [(self.scale_layer, self.scale_norm), (None, self.skip_norm)]
        return [(conv, norm) for conv, norm in pairs if norm is not None]

    def _branch_by_branch(self, inputs: Tensor, training: bool | None) -> Tensor:
        padded: Tensor = self._padded(inputs)
        x: Tensor = None
        for conv, norm in zip(self.conv_layers, self.conv_norms, strict=True):
            branch = norm(conv(padded), training=training)
            x = branch if x is None else x + branch
        if self.scale_layer is not None and self.scale_norm is not None:
            # Picking pixels and then convolving at stride 1 equals a strided 1×1 convolution. For
            # an input of 3 channels, oneDNN computes the weight gradient of the strided convolution
            # out of bounds on AVX-512 processors, so that training crashes at random.
            picked = one_pass.pick_pixels(inputs, self.strides)
            x = x + self.scale_norm(self.scale_layer(picked), training=training)
        if self.skip_norm is not None:
            x = x + self.skip_norm(inputs, training=training)
        return x

    def _padded(self, inputs: Tensor) -> Tensor:
        m = self._margin
        return ops.pad(inputs, [(0, 0), (m, m), (m, m), (0, 0)]) if m else inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        height, width = (None if s is None else -(-s // self.strides) for s in (height, width))
        return batch, height, width, self.filters

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "depthwise": self.depthwise,
            "num_conv_branches": self.num_conv_branches,
            "se_ratio": self.se_ratio,
            "activation": keras.activations.serialize(self.activation),
            "synchronized": self.synchronized,
            "one_pass": self.one_pass,
            "dilation_rate": self.dilation_rate,
            "skip": self.skip,
        }

    def folded_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel and bias of the convolution that equals the block's branches at inference.

        Returns:
            kernel: float64, shape (kernel_size, kernel_size, in, filters), or (kernel_size,
                kernel_size, filters, 1) for a depthwise block, as the stock Keras layer expects.
            bias: float64, shape (filters,).
        """
        branches = [
            reparameterization.Branch(self._kernel(conv), _batch_norm(norm))
            for conv, norm in self._branches()
        ]
        kernel, bias = reparameterization.fold(branches, self.kernel_size)
        return (kernel[..., None] if self.depthwise else kernel), bias

    def _kernel(self, conv: layers.Layer | None) -> np.ndarray:
        if conv is None:
            return reparameterization.identity_kernel(self.filters, self.depthwise)
        kernel = ops.convert_to_numpy(conv.kernel)
        return kernel[..., 0] if self.depthwise else kernel

    def plain(self) -> PlainBlock:
        """Returns the fused block: stock layers with weights, which can be called in any graph."""
        if not self.built:
            raise InputValueError(
                f"Block {self.name!r} has no weights yet. Call it on an input before fusing it."
            )
        block = PlainBlock(
            self.name,
            self.filters,
            self.kernel_size,
            self.strides,
            self.depthwise,
            self.se_ratio,
            self.activation,
            self.trainable,
            self.dtype_policy,
            self.dilation_rate,
        )
        block.conv.build((None, None, None, self.conv_layers[0].input_spec.axes[-1]))
        block.conv.set_weights(self.folded_weights())
        if self.se is not None and block.se is not None:
            sources = self.se.convolutions
            for source, target in zip(sources, block.se.convolutions, strict=True):
                target.build((None, 1, 1, source.kernel.shape[2]))
                target.set_weights(source.get_weights())
        return block

    def fuse(self) -> keras.Model:
        """Returns a Functional model of stock Keras layers with the block's inference output.

        The model takes any batch and image size. The block itself does not change. See
        `keras_mobileone.fuse` for whole models.

        Returns:
            A `keras.Model` with input shape `(batch, height, width, channels)`.

        Raises:
            ValueError: If the block has not been built.
        """
        block = self.plain()
        channels = self.conv_layers[0].input_spec.axes[-1]
        inputs = keras.Input((None, None, channels), dtype=self.compute_dtype)
        return keras.Model(inputs, block(inputs), name=f"{self.name}_fused")


def _batch_norm(norm: layers.BatchNormalization) -> reparameterization.BatchNormParameters:
    values = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    gamma, beta, mean, variance = (ops.convert_to_numpy(value) for value in values)
    return reparameterization.BatchNormParameters(gamma, beta, mean, variance, norm.epsilon)
