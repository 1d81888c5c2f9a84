"""A fused Keras 3 model rebuilt in tf-keras, and the rules by which tfmot quantizes it.

tensorflow-model-optimization (tfmot) accepts only Keras 2 models, and its default rules do not fit
these networks: depthwise kernels share one range over all channels, kernels before a ReLU layer are
not quantized during training, and `Multiply` and `Identity` are refused. This module therefore
defines its own `QuantizeConfig`s and its own scheme. Wrapping, training and the moving ranges of
the activations are tfmot's.
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

Layer = Any  # of tf-keras, which is imported late
Tensor = Any  # of TensorFlow, which is imported late
PROBED_AT_ONCE = 16  # images whose activations are held in memory together
PREFIX = "quant_"  # of the names of wrapped layers
LEGACY_VARIABLE = "TF_USE_LEGACY_KERAS"

# Whether kernels are rounded as the model is traced; not for the converter, which does it itself.
_ROUND_KERNELS = ContextVar("round_kernels", default=True)

# The layers that are rebuilt, with the arguments that are carried over. Weights, names and the
# activations (which `trace` has split off) go another way.
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
# Layers whose output has the range of their input, in TFLite as well.
SAME_RANGE = (
    *("ZeroPadding2D", "MaxPooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "Identity"),
    *("Dropout", "Flatten", "Reshape"),
)
# TFLite computes these and a following ReLU in one operator: nothing is quantized in between.
FUSED_WITH_RELU = ("Conv2D", "DepthwiseConv2D", "Dense", "Add", "Multiply")
# TFLite prescribes the ranges of these outputs.
FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}


def packages() -> tuple[Any, Any]:
    """tfmot and tf-keras, with Keras 3 left as what TensorFlow calls Keras.

    Raises:
        ImportError: If one is missing; names the extra to install.
    """
    import tensorflow as tf

    # tfmot sets the variable for good, which would make tf.keras, here and in processes started
    # from here, Keras 2. `tf.keras` is found at its first use: let that be before.
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
    """Name of the function that an activation layer applies, or "" for other layers."""
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
            reason = "takes ReLU without slope and threshold, open or up to 6"
        elif kind == "Conv2D" and layer.groups != 1:
            reason, kind = "takes Conv2D with one group", f"Conv2D with groups={layer.groups}"
        elif traced.times_called(layer) > 1:
            reason, kind = "takes layers called once", f"{kind}, called again"
        if reason:
            raise InputValueError(
                f"Quantization-aware training {reason}. "
                f"Received: layer {layer.name!r} of {traced.model.name!r}, {kind}. "
                "Replace it, or leave it outside of the model."
            )


def input_layer(traced: Trace) -> str:
    """Name for the layer that rounds the input, different from all others."""
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
    """The tf-keras layer that corresponds to a Keras 3 layer, without its weights."""
    import tensorflow as tf

    config = layer.get_config()
    arguments = {name: config[name] for name in ARGUMENTS[_kind(layer)]}
    if isinstance(layer, keras.layers.Activation):
        function = _activation(layer)
        arguments["activation"] = tf.nn.relu6 if function == "relu6" else function
    return getattr(keras2.layers, _kind(layer))(name=layer.name, **arguments)


def output_rule(call: Call, traced: Trace) -> str | None:
    """How the output of a layer is quantized.

    Returns:
        `"range"` with a range that is learned, the name of an activation with the range TFLite
        prescribes for it, or None where the value has no tensor of its own in the file.
    """
    kind, consumers = _kind(call.layer), traced.consumers(call.output)
    leaves = any(call.output is output for output in traced.model.outputs)
    activation = _activation(call.layer)
    if activation in FIXED_RANGES:
        # An output of the model is not rounded: a probability of 0 has no logarithm.
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
    """The smallest and largest value of the outputs of the layers called `names`."""
    import tensorflow as tf

    _, keras2 = packages()
    probe = keras2.Model(model.inputs, [model.get_layer(name).output for name in names])

    @tf.function(reduce_retracing=True)
    def limits(images: Tensor) -> Tensor:
        outputs = tf.nest.flatten(probe(images, training=False))
        return tf.stack([(tf.reduce_min(x), tf.reduce_max(x)) for x in outputs])

    starts = range(0, len(images), PROBED_AT_ONCE)
    found = np.array([limits(tf.constant(images[i : i + PROBED_AT_ONCE])) for i in starts])
    return {
        name: (float(low), float(high))
        for name, low, high in zip(names, found[..., 0].min(0), found[..., 1].max(0), strict=True)
    }


def set_range(layer: Layer, low: float, high: float) -> None:
    """Sets the range of a wrapped layer's output. It always includes 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    variables = output_quantizer_variables(layer)
    variables["min_var"].assign(low)
    variables["max_var"].assign(max(high, low + 1e-6))


@cache
def config_class() -> type:
    """The `QuantizeConfig` of all layers. Its base class exists only once tfmot is imported."""
    tfmot, _ = packages()
    quantizers = tfmot.quantization.keras.quantizers
    base: Any = tfmot.quantization.keras.QuantizeConfig

    class LayerConfig(base):
        """Quantizes a layer's kernel, if it has one, and its output, by `output_rule`."""

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
    """The quantizer of kernels: int8 for each output channel, −127 … 127."""
    import tensorflow as tf

    tfmot, _ = packages()

    base: Any = tfmot.quantization.keras.quantizers.Quantizer

    class KernelQuantizer(base):
        """Quantizes a kernel by its own current range for each output channel.

        tfmot's quantizer keeps the range of the last step, and takes the last axis for the
        channels, which for a depthwise kernel (height, width, channels, 1) is one range for all.
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
    """tfmot's 8-bit scheme without its transformation of the graph.

    That transformation replaces the rule of a convolution before a ReLU layer by a rule that does
    not quantize weights.
    """
    tfmot, _ = packages()

    class AsAnnotated:
        def apply(self, model: Any, layer_quantize_map: Any) -> tuple[Any, Any]:
            return model, layer_quantize_map

    base: Any = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme

    class Scheme(base):
        def get_layout_transformer(self) -> AsAnnotated:
            return AsAnnotated()

    return Scheme()


@contextmanager
def kernels_unrounded() -> Iterator[None]:
    """Context in which traced models leave their kernels unrounded: the converter rounds them."""
    token = _ROUND_KERNELS.set(False)
    try:
        yield
    finally:
        _ROUND_KERNELS.reset(token)
