"""What TFLite's operators compute, in TensorFlow, on real numbers.

The integer model is simulated with these: an operator gets the real values that its integer inputs
stand for, and its result is put on the grid of its integer output.
"""

import numpy as np


def attribute(operator, name, default=None):
    """An option of an operator, e.g. `strideH`."""
    return getattr(operator.builtinOptions, name, default)


def linear(kind: str, operator, value, kernel, bias):
    """Pre-activation of CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED.

    Args:
        kind: The operator's name.
        operator: The flatbuffer's operator, for strides and padding.
        value: (batch, height, width, in) or (batch, in).
        kernel: In TFLite's layout: (out, height, width, in), (1, height, width, channels) or
            (out, in).
        bias: (out,).
    """
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel, tf.float32)
    if kind == "FULLY_CONNECTED":
        value = tf.reshape(value, (-1, kernel.shape[1]))
        return tf.matmul(value, kernel, transpose_b=True) + bias
    strides = [1, attribute(operator, "strideH"), attribute(operator, "strideW"), 1]
    padding = ("SAME", "VALID")[attribute(operator, "padding")]
    dilations = [
        attribute(operator, "dilationHFactor", 1),
        attribute(operator, "dilationWFactor", 1),
    ]
    if kind == "CONV_2D":
        kernel = tf.transpose(kernel, (1, 2, 3, 0))
        return tf.nn.conv2d(value, kernel, strides, padding, dilations=dilations) + bias
    channels = value.shape[-1]
    kernel = tf.reshape(kernel, (*kernel.shape[1:3], channels, -1))
    return tf.nn.depthwise_conv2d(value, kernel, strides, padding, dilations=dilations) + bias


def activate(code: int, value):
    """TFLite's fused activations: NONE, RELU, RELU_N1_TO_1, RELU6."""
    import tensorflow as tf

    limits = {0: None, 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}[code]
    return value if limits is None else tf.clip_by_value(value, *limits)


def elementwise(kind: str, operator, values: list, constants: list):
    """Every other operator that integer image classifiers use.

    Args:
        kind: The operator's name.
        operator: The flatbuffer's operator, for its options.
        values: Its inputs as tensors.
        constants: Its integer constants (axes, paddings, shapes) as arrays.

    Raises:
        NotImplementedError: For an operator that is not known here.
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
        "QUANTIZE": lambda: values[0],
        "DEQUANTIZE": lambda: values[0],
    }
    if kind not in functions:
        raise NotImplementedError(kind)
    return activate(attribute(operator, "fusedActivationFunction", 0), functions[kind]())


def _pool(function, operator, value):
    size = attribute(operator, "filterHeight"), attribute(operator, "filterWidth")
    strides = attribute(operator, "strideH"), attribute(operator, "strideW")
    return function(value, size, strides, ("SAME", "VALID")[attribute(operator, "padding")])
