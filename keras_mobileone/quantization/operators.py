"""What TFLite's operators compute on real numbers, and how they bind the scales of int8 tensors.

An integer model is simulated with these: an operator gets the real values that its integer inputs
stand for, and its result is put on the grid of its integer output.
"""

from typing import Any

import numpy as np

Tensor = Any  # of TensorFlow, which is imported late, or an array
Operator = Any  # `OperatorT` of the TFLite schema

# Operators with a constant kernel, one scale for each of its output channels, and a bias in int32;
# for each the positions of its input, kernel and bias.
LINEAR = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
# Operators whose integer inputs and outputs share one scale (TFLite's quantization specification).
# The values of the first come from one input; those of the second from several.
COPYING = {
    *("AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS"),
    *("GATHER", "GATHER_ND", "MAX_POOL_2D", "MIRROR_PAD", "PAD", "REDUCE_MAX", "REDUCE_MIN"),
    *("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SLICE"),
    *("SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE"),
    *("TILE", "TOPK_V2", "TRANSPOSE", "UNPACK"),
}
JOINING = {"CONCATENATION", "MAXIMUM", "MINIMUM", "PACK", "PADV2"}
SAME_SCALE = COPYING | JOINING
# Operators whose output scale the specification fixes, as the converter has set it.
FIXED_SCALE = {"L2_NORMALIZATION", "LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH"}
# Operators that take any scales.
FREE_SCALE = {
    *("ABS", "ADD", "BATCH_MATMUL", "DEQUANTIZE", "DIV", "ELU", "EXP", "GELU", "HARD_SWISH"),
    *("LEAKY_RELU", "LOG", "MEAN", "MUL", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1"),
    *("RSQRT", "SQRT", "SQUARED_DIFFERENCE", "SUB", "SUM", *LINEAR),
}
KNOWN = SAME_SCALE | FIXED_SCALE | FREE_SCALE


def attribute(operator: Operator, name: str, default: Any = None) -> Any:
    """An option of an operator, such as `strideH`."""
    return getattr(operator.builtinOptions, name, default)


def channel_axis(kind: str) -> int:
    """Axis of a kernel's output channels in TFLite's layout."""
    return 3 if kind == "DEPTHWISE_CONV_2D" else 0


def linear(
    kind: str,
    operator: Operator,
    value: Tensor,
    kernel: np.ndarray,
    bias: np.ndarray | float,
    shape: tuple[int, ...],
) -> Tensor:
    """Computes the output of an operator of `LINEAR` before its activation.

    Args:
        kind: The operator's name.
        operator: The flatbuffer's operator, for strides and padding.
        value: (batch, height, width, in) or (batch, in).
        kernel: In TFLite's layout: (out, height, width, in), (1, height, width, channels) or
            (out, in).
        bias: (out,).
        shape: Of the output, as the file has it; read for TRANSPOSE_CONV.
    """
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel, tf.float32)
    if kind == "FULLY_CONNECTED":
        value = tf.reshape(value, (-1, kernel.shape[1]))
        return tf.matmul(value, kernel, transpose_b=True) + bias
    strides = [1, attribute(operator, "strideH"), attribute(operator, "strideW"), 1]
    padding = ("SAME", "VALID")[attribute(operator, "padding")]
    if kind == "TRANSPOSE_CONV":
        kernel = tf.transpose(kernel, (1, 2, 0, 3))
        size = (len(value), *shape[1:])
        return tf.nn.conv2d_transpose(value, kernel, size, strides, padding) + bias
    dilations = list(dilation(operator))
    if kind == "CONV_2D":
        kernel = tf.transpose(kernel, (1, 2, 3, 0))
        return tf.nn.conv2d(value, kernel, strides, padding, dilations=dilations) + bias
    channels = value.shape[-1]
    kernel = tf.reshape(kernel, (*kernel.shape[1:3], channels, -1))
    return tf.nn.depthwise_conv2d(value, kernel, strides, padding, dilations=dilations) + bias


def dilation(operator: Operator) -> tuple[int, int]:
    """Dilation of a convolution over height and width."""
    return attribute(operator, "dilationHFactor", 1), attribute(operator, "dilationWFactor", 1)


def activate(code: int, value: Tensor) -> Tensor:
    """Applies a fused activation of TFLite: NONE, RELU, RELU_N1_TO_1 or RELU6."""
    import tensorflow as tf

    limits = {0: None, 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}[code]
    return value if limits is None else tf.clip_by_value(value, *limits)


def batched(
    kind: str, operator: Operator, values: list[Tensor], constants: list[np.ndarray]
) -> Tensor | None:
    """Computes a frequent operator for a whole batch with TensorFlow.

    Args:
        kind: The operator's name.
        operator: The flatbuffer's operator, for its options.
        values: Its inputs as tensors, the batch first.
        constants: Its integer constants (axes, paddings, shapes) as arrays.

    Returns:
        The output, or None for an operator that is not among these.
    """
    import tensorflow as tf

    functions = {
        "PAD": lambda: tf.pad(values[0], constants[0]),
        "MEAN": lambda: tf.reduce_mean(
            values[0], constants[0].tolist(), attribute(operator, "keepDims")
        ),
        "RESHAPE": lambda: tf.reshape(values[0], (-1, *constants[0][1:])),
        "LOGISTIC": lambda: tf.sigmoid(values[0]),
        "SOFTMAX": lambda: tf.nn.softmax(values[0] * attribute(operator, "beta", 1.0)),
        "RELU": lambda: tf.nn.relu(values[0]),
        "RELU6": lambda: tf.nn.relu6(values[0]),
        "HARD_SWISH": lambda: values[0] * tf.nn.relu6(values[0] + 3) / 6,
        "TANH": lambda: tf.tanh(values[0]),
        "ADD": lambda: values[0] + values[1],
        "SUB": lambda: values[0] - values[1],
        "MUL": lambda: values[0] * values[1],
        "CONCATENATION": lambda: tf.concat(values, attribute(operator, "axis")),
        "MAX_POOL_2D": lambda: _pool(tf.nn.max_pool2d, operator, values[0]),
        "AVERAGE_POOL_2D": lambda: _pool(tf.nn.avg_pool2d, operator, values[0]),
    }
    if kind not in functions:
        return None
    return activate(attribute(operator, "fusedActivationFunction", 0), functions[kind]())


def _pool(function: Any, operator: Operator, value: Tensor) -> Tensor:
    size = attribute(operator, "filterHeight"), attribute(operator, "filterWidth")
    strides = attribute(operator, "strideH"), attribute(operator, "strideW")
    return function(value, size, strides, ("SAME", "VALID")[attribute(operator, "padding")])
