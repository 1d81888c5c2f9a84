"""Rebuilds a fused Keras 3 model in tf-keras, and defines the rules by which tfmot quantizes it.

tensorflow-model-optimization (tfmot) accepts only Keras 2 models, and its default rules do not fit
these networks: depthwise kernels have one range for all channels, kernels before a ReLU layer are
not quantized during training, and `Multiply` and `Identity` are refused. This module therefore
defines its own `QuantizeConfig` and its own scheme. It uses tfmot for wrapping, training and the
moving ranges of the activations.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_mobileone.compat import output_quantizer_variables
from keras_mobileone.errors import InputValueError, MissingPackageError
from keras_mobileone.quantization.trace import Call, Trace

if TYPE_CHECKING:
    import tf_keras

Layer = Any  # a layer of tf-keras, which is imported late
Tensor = Any  # a tensor of TensorFlow, which is imported late
PROBED_AT_ONCE = 16  # number of images whose activations are in memory at the same time
PREFIX = "quant_"  # prefix of the names of wrapped layers
LEGACY_VARIABLE = "TF_USE_LEGACY_KERAS"

# Whether kernels are rounded when the model is traced. The converter rounds them itself.
_ROUND_KERNELS = ContextVar("round_kernels", default=True)

# The layers that can be rebuilt, with the arguments that are copied. Weights, names and activations
# (which `trace` makes separate layers) are copied separately.
ARGUMENTS = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "dilation_rate", "use_bias"),
    "DepthwiseConv2D": (
        *("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier", "use_bias"),
    ),
    "Dense": ("units", "use_bias"),
    "ReLU": ("max_value",),
    "Activation": (),
    "Softmax": ("axis",),
    "ZeroPadding2D": ("padding",),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "GlobalMaxPooling2D": ("keepdims",),
    "Add": (),
    "Multiply": (),
    "Concatenate": ("axis",),
    "Identity": (),
    "Dropout": ("rate",),
    "Flatten": (),
    "Reshape": ("target_shape",),
}
ACTIVATIONS = ("linear", "relu", "relu6", "sigmoid", "tanh", "softmax")
KERNELS = {"Conv2D": "kernel", "DepthwiseConv2D": "depthwise_kernel", "Dense": "kernel"}
# Layers whose output has the range of their input, as in TFLite.
SAME_RANGE = (
    *("ZeroPadding2D", "MaxPooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "Identity"),
    *("Dropout", "Flatten", "Reshape"),
)
# TFLite computes these layers and a following ReLU in one operator, without quantizing in between.
FUSED_WITH_RELU = ("Conv2D", "DepthwiseConv2D", "Dense", "Add", "Multiply")
# TFLite prescribes the ranges of these outputs.
FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}


def packages() -> tuple[Any, Any]:
    """Imports tfmot and tf-keras without changing that `tf.keras` is Keras 3.

    Returns:
        The modules `tensorflow_model_optimization` and `tf_keras`.

    Raises:
        ImportError: If one is not installed. The message names the extra to install.
    """
    import tensorflow as tf

    # tfmot sets the environment variable permanently, which would make `tf.keras` Keras 2 in this
    # process and its child processes. TensorFlow resolves `tf.keras` at its first use, which must
    # therefore be before the import of tfmot.
    _ = tf.keras.__name__
    before = os.environ.get(LEGACY_VARIABLE)
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras
    except ImportError as error:
        raise MissingPackageError(
            "Quantization-aware training needs tensorflow-model-optimization and tf-keras. "
            "Install them with `pip install keras-mobileone[qat]`."
        ) from error
    finally:
        os.environ.pop(LEGACY_VARIABLE, None)
        if before is not None:
            os.environ[LEGACY_VARIABLE] = before
    return tfmot, tf_keras


def _kind(layer: keras.Layer) -> str:
    return type(layer).__name__


def _activation(layer: keras.Layer) -> str:
    """Returns the name of the function that an activation layer applies, or "" for other layers."""
    if isinstance(layer, keras.layers.Activation):
        return layer.activation.__name__
    return {"ReLU": "relu", "Softmax": "softmax"}.get(_kind(layer), "")


def require_rules(traced: Trace) -> None:
    """Raises ValueError for the first layer that cannot be rebuilt in tf-keras."""
    for call in traced.calls:
        layer, kind = call.layer, _kind(call.layer)
        reason = None
        if kind not in ARGUMENTS or type(layer) is not getattr(keras.layers, kind, None):
            reason = f"takes {', '.join(ARGUMENTS)}"
        elif kind == "Activation" and _activation(layer) not in ACTIVATIONS:
            reason, kind = f"takes {', '.join(ACTIVATIONS)}", f"activation {_activation(layer)}"
        elif kind == "ReLU" and (
            layer.negative_slope or layer.threshold or layer.max_value not in (None, 6)
        ):
            reason = "takes ReLU without slope and threshold, unbounded or up to 6"
        elif kind == "Conv2D" and layer.groups != 1:
            reason, kind = "takes Conv2D with one group", f"Conv2D with groups={layer.groups}"
        elif traced.times_called(layer) > 1:
            reason, kind = "takes layers that are called once", f"{kind}, which is called again"
        if reason:
            raise InputValueError(
                f"Quantization-aware training {reason}. "
                f"Received: layer {layer.name!r} of {traced.model.name!r}, {kind}. "
                "Replace it, or leave it outside of the model."
            )


def input_layer(traced: Trace) -> str:
    """Returns a name for the layer that rounds the input, different from all other names."""
    name, taken = "input", {call.layer.name for call in traced.calls}
    while name in taken:
        name += "_"
    return name


def rebuild_in_tf_keras(traced: Trace, keras2: Any) -> "tf_keras.Model":
    """Rebuilds a traced model in tf-keras, with the same weights and names."""
    source = traced.model.inputs[0]
    image = keras2.Input(batch_shape=source.shape, name=source.name)
    tensors = {id(source): keras2.layers.Activation("linear", name=input_layer(traced))(image)}
    for call in traced.calls:
        inputs = [tensors[id(tensor)] for tensor in call.inputs]
        layer = _tf_keras_layer(call.layer, keras2)
        tensors[id(call.output)] = layer(inputs if len(inputs) > 1 else inputs[0])
        layer.set_weights(call.layer.get_weights() if call.layer.weights else [])
    outputs = [tensors[id(tensor)] for tensor in traced.model.outputs]
    return keras2.Model(image, outputs if len(outputs) > 1 else outputs[0], name=traced.model.name)


def _tf_keras_layer(layer: keras.Layer, keras2: Any) -> Layer:
    """Makes the tf-keras layer that corresponds to a Keras 3 layer, without its weights."""
    import tensorflow as tf

    config = layer.get_config()
    arguments = {name: config[name] for name in ARGUMENTS[_kind(layer)]}
    if isinstance(layer, keras.layers.Activation):
        function = _activation(layer)
        arguments["activation"] = tf.nn.relu6 if function == "relu6" else function
    return getattr(keras2.layers, _kind(layer))(name=layer.name, **arguments)


def output_rule(call: Call, traced: Trace) -> str | None:
    """Returns the rule by which the output of a layer is quantized.

    Returns:
        `"range"` for a learned range, the name of an activation for the range that TFLite
        prescribes for it, or None if the file has no separate tensor for the output.
    """
    kind, consumers = _kind(call.layer), traced.consumers(call.output)
    leaves = any(call.output is output for output in traced.model.outputs)
    activation = _activation(call.layer)
    if activation in FIXED_RANGES:
        # An output of the model is not rounded, since a probability of 0 has no logarithm.
        return activation if consumers and not leaves else None
    if kind in SAME_RANGE or activation == "linear":
        return None
    followers = {_activation(consumer.layer) for consumer in consumers}
    if kind in FUSED_WITH_RELU and not leaves and followers and followers <= {"relu", "relu6"}:
        return "range" if len(consumers) > 1 else None
    return "range"


def activation_ranges(
    model: "tf_keras.Model", names: list[str], images: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Returns the smallest and the largest value of the outputs of the layers called `names`."""
    import tensorflow as tf

    _, keras2 = packages()
    probe = keras2.Model(model.inputs, [model.get_layer(name).output for name in names])

    @tf.function(reduce_retracing=True)
    def limits(images: Tensor) -> Tensor:
        outputs = tf.nest.flatten(probe(images, training=False))
        return tf.stack([(tf.reduce_min(x), tf.reduce_max(x)) for x in outputs])

    starts = range(0, len(images), PROBED_AT_ONCE)
    ranges = np.array([limits(tf.constant(images[i : i + PROBED_AT_ONCE])) for i in starts])
    return {
        name: (float(low), float(high))
        for name, low, high in zip(names, ranges[..., 0].min(0), ranges[..., 1].max(0), strict=True)
    }


def set_range(layer: Layer, low: float, high: float) -> None:
    """Sets the range of a wrapped layer's output, extended to include 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    variables = output_quantizer_variables(layer)
    variables["min_var"].assign(low)
    variables["max_var"].assign(max(high, low + 1e-6))


def learned_range(layer: Layer) -> tuple[float, float]:
    """Returns the range of a wrapped layer's output."""
    variables = output_quantizer_variables(layer)
    return float(variables["min_var"]), float(variables["max_var"])


@cache
def config_class() -> type:
    """Returns the class of `QuantizeConfig` for all layers.

    It is defined in a function because its base class needs tfmot, which is imported late.
    """
    tfmot, _ = packages()
    quantizers = tfmot.quantization.keras.quantizers
    base: Any = tfmot.quantization.keras.QuantizeConfig

    class LayerConfig(base):
        """Quantizes the kernel of a layer, if any, and its output, by `output_rule`."""

        def __init__(self, kernel: str | None = None, output: str | None = None):
            self.kernel = kernel
            self.output = output

        def get_weights_and_quantizers(self, layer: Layer) -> list[tuple[Tensor, Any]]:
            if not self.kernel:
                return []
            quantizer = kernel_quantizer()(depthwise=self.kernel == KERNELS["DepthwiseConv2D"])
            return [(getattr(layer, self.kernel), quantizer)]

        def set_quantize_weights(self, layer: Layer, quantize_weights: list[Tensor]) -> None:
            if self.kernel:
                for weight in quantize_weights:
                    setattr(layer, self.kernel, weight)

        def get_activations_and_quantizers(self, layer: Layer) -> list:
            return []

        def set_quantize_activations(self, layer: Layer, quantize_activations: list) -> None:
            pass

        def get_output_quantizers(self, layer: Layer) -> list:
            if self.output == "range":
                return [quantizers.MovingAverageQuantizer(8, False, False, False)]
            if self.output:
                low, high = FIXED_RANGES[self.output]
                return [quantizers.FixedQuantizer(8, low, high, False)]
            return []

        def get_config(self) -> dict[str, str | None]:
            return {"kernel": self.kernel, "output": self.output}

    return LayerConfig


@cache
def kernel_quantizer() -> type:
    """Returns the class of the quantizer of kernels: int8 for each output channel, −127 … 127."""
    import tensorflow as tf

    tfmot, _ = packages()

    base: Any = tfmot.quantization.keras.quantizers.Quantizer

    class KernelQuantizer(base):
        """Quantizes a kernel with its current range for each output channel.

        tfmot's quantizer uses the range of the last step. It takes the last axis for the channels,
        so that a depthwise kernel (height, width, channels, 1) has one range for all channels.
        """

        def __init__(self, depthwise: bool):
            self.depthwise = depthwise

        def build(self, tensor_shape: Any, name: str, layer: Layer) -> dict[str, Tensor]:
            return {}

        def __call__(
            self, inputs: Tensor, training: Any, weights: dict[str, Tensor], **kwargs: Any
        ) -> Tensor:
            if not _ROUND_KERNELS.get():
                return tf.identity(inputs)
            shape = (*inputs.shape[:2], 1, -1) if self.depthwise else inputs.shape
            kernel = tf.reshape(inputs, shape)
            limit = tf.reduce_max(tf.abs(kernel), axis=list(range(len(shape) - 1)))
            limit = tf.stop_gradient(tf.maximum(limit, 1e-9))
            rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
                kernel, -limit, limit, num_bits=8, narrow_range=True
            )
            return tf.reshape(rounded, inputs.shape)

        def get_config(self) -> dict[str, bool]:
            return {"depthwise": self.depthwise}

    return KernelQuantizer


def scheme() -> Any:
    """Returns tfmot's 8-bit scheme without its transformation of the graph.

    That transformation gives a convolution before a ReLU layer a rule that does not quantize its
    weights.
    """
    tfmot, _ = packages()

    class AsAnnotated:
        """A transformation of the graph that changes nothing."""

        def apply(self, model: Any, layer_quantize_map: Any) -> tuple[Any, Any]:
            return model, layer_quantize_map

    base: Any = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme

    class Scheme(base):
        """The 8-bit scheme, in which each layer keeps the rule of its annotation."""

        def get_layout_transformer(self) -> AsAnnotated:
            return AsAnnotated()

    return Scheme()


@contextmanager
def kernels_unrounded() -> Iterator[None]:
    """Within this context, models are traced without rounding kernels, for the converter."""
    token = _ROUND_KERNELS.set(False)
    try:
        yield
    finally:
        _ROUND_KERNELS.reset(token)
