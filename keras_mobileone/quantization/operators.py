"""TFLite's operators on real numbers, and their rules for the scales of int8 tensors.

They simulate an integer model: an operator takes the real values that its integer inputs represent,
and its result is rounded to the values that its integer output can represent.
"""

from typing import Any

import numpy as np

Tensor = Any  # an array, or a tensor of TensorFlow, which is imported late
Operator = Any  # `OperatorT` of the TFLite schema

# Operators with a constant kernel, a scale for each output channel of the kernel, and an int32
# bias, with the positions of their input, kernel and bias.
LINEAR = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
# Operators whose integer inputs and outputs share one scale (TFLite's quantization specification).
# Those of COPYING take values from one input, those of JOINING from several.
COPYING = {
    *("AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS"),
    *("GATHER", "GATHER_ND", "MAX_POOL_2D", "MIRROR_PAD", "PAD", "REDUCE_MAX", "REDUCE_MIN"),
    *("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SLICE"),
    *("SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE"),
    *("TILE", "TOPK_V2", "TRANSPOSE", "UNPACK"),
}
JOINING = {"CONCATENATION", "MAXIMUM", "MINIMUM", "PACK", "PADV2"}
SAME_SCALE = COPYING | JOINING
# Operators whose output scale the specification prescribes. The converter sets it.
FIXED_SCALE = {"L2_NORMALIZATION", "LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH"}
# Operators whose inputs and outputs may have any scales.
FREE_SCALE = {
    *("ABS", "ADD", "BATCH_MATMUL", "DEQUANTIZE", "DIV", "ELU", "EXP", "GELU", "HARD_SWISH"),
    *("LEAKY_RELU", "LOG", "MEAN", "MUL", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1"),
    *("RSQRT", "SQRT", "SQUARED_DIFFERENCE", "SUB", "SUM", *LINEAR),
}
KNOWN = SAME_SCALE | FIXED_SCALE | FREE_SCALE


def attribute(operator: Operator, name: str, default: Any = None) -> Any:
    """Returns an option of an operator, such as `strideH`."""
    return getattr(operator.builtinOptions, name, default)


def channel_axis(kind: str) -> int:
    """Returns the axis of the output channels of a kernel in TFLite's layout."""
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
        kind: Name of the operator.
        operator: Operator in the flatbuffer, which has strides and padding.
        value: Input of shape (batch, height, width, in) or (batch, in).
        kernel: Kernel in TFLite's layout: (out, height, width, in), (1, height, width, channels) or
            (out, in).
        bias: Bias of shape (out,), or a number.
        shape: Shape of the output in the file. Only TRANSPOSE_CONV needs it.

    Returns:
        The output for the whole batch.
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
    """Returns the dilation of a convolution along height and width."""
    return attribute(operator, "dilationHFactor", 1), attribute(operator, "dilationWFactor", 1)


def activate(code: int, value: Tensor) -> Tensor:
    """Applies a fused activation of TFLite: NONE, RELU, RELU_N1_TO_1 or RELU6."""
    import tensorflow as tf

    if code == 1:
        return tf.nn.relu(value)
    limits = {0: None, 2: (-1.0, 1.0), 3: (0.0, 6.0)}[code]
    return value if limits is None else tf.clip_by_value(value, *limits)


def batched(
    kind: str, operator: Operator, values: list[Tensor], constants: list[np.ndarray]
) -> Tensor | None:
    """Computes one of the most frequent operators for a whole batch with TensorFlow.

    Args:
        kind: Name of the operator.
        operator: Operator in the flatbuffer, which has the options.
        values: Inputs as tensors whose first axis is the batch.
        constants: Integer constants (axes, paddings, shapes) as arrays.

    Returns:
        The output, or None for any other operator.
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
        "RESIZE_BILINEAR": lambda: tf.raw_ops.ResizeBilinear(
            images=values[0],
            size=constants[0],
            align_corners=attribute(operator, "alignCorners"),
            half_pixel_centers=attribute(operator, "halfPixelCenters"),
        ),
        "STRIDED_SLICE": lambda: _strided_slice(operator, values[0], *constants),
        "MAX_POOL_2D": lambda: _pool(tf.nn.max_pool2d, operator, values[0]),
        "AVERAGE_POOL_2D": lambda: _pool(tf.nn.avg_pool2d, operator, values[0]),
    }
    if kind not in functions:
        return None
    return activate(attribute(operator, "fusedActivationFunction", 0), functions[kind]())


def _strided_slice(
    operator: Operator, value: Tensor, begin: np.ndarray, end: np.ndarray, strides: np.ndarray
) -> Tensor:
    """Slices all axes but the first, of which the file, for one image, takes the whole."""
    import tensorflow as tf

    names = ("beginMask", "endMask", "ellipsisMask", "newAxisMask", "shrinkAxisMask")
    begin_mask, end_mask, *others = (attribute(operator, name, 0) for name in names)
    return tf.strided_slice(value, begin, end, strides, begin_mask | 1, end_mask | 1, *others)


def _pool(function: Any, operator: Operator, value: Tensor) -> Tensor:
    size = attribute(operator, "filterHeight"), attribute(operator, "filterWidth")
    strides = attribute(operator, "strideH"), attribute(operator, "strideW")
    return function(value, size, strides, ("SAME", "VALID")[attribute(operator, "padding")])
