"""Which operators of a TFLite file the GPU delegate takes.

`tf.lite.experimental.Analyzer` was made to answer this, but its check was removed: TensorFlow 2.21
calls every file compatible (https://github.com/tensorflow/tensorflow/issues/77042). The rules here
are those that the check had, for the operators of image networks.
"""

from keras_mobileone.litert import flatbuffer

# The operators that the delegate knows, from `CheckGpuDelegateCompatibility` in TensorFlow's
# `tensorflow/lite/tools/versioning/gpu_compatibility.cc`. It takes some of them only with certain
# types, shapes or constants.
# fmt: off
GPU_OPERATORS = frozenset((
    "ABS", "ADD", "ADD_N", "ATAN2", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CEIL",
    "CONCATENATION", "CONV_2D", "COS", "CUMSUM", "DENSIFY", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE",
    "DEQUANTIZE", "DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "FLOOR",
    "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GELU", "GREATER", "GREATER_EQUAL",
    "HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGISTIC", "LSTM",
    "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "ONE_HOT",
    "PACK", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD",
    "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
    "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT",
    "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STABLEHLO_CLAMP", "STRIDED_SLICE", "SUB",
    "SUM", "TANH", "TILE", "TRANSPOSE", "TRANSPOSE_CONV",
))
# fmt: on
# Operators of which the delegate takes only tensors with 3 or 4 dimensions.
SLICING = ("SLICE", "STRIDED_SLICE")


def gpu_warnings(content: bytes) -> tuple[str, ...]:
    """Lists what keeps the GPU delegate from running a whole TFLite file.

    What the delegate does not take runs on the CPU, and the way there and back costs time.

    Args:
        content: Content of the file.

    Returns:
        One line for each kind of operator; empty if the delegate knows all of them. A phone can
        still refuse a file without warnings, or compute it wrongly.
    """
    model = flatbuffer.parse(content)
    names = flatbuffer.operator_names(model)
    warnings = [
        f"The GPU delegate does not know {name}."
        for name in flatbuffer.operator_counts(content)
        if name not in GPU_OPERATORS
    ]
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = names[operator.opcodeIndex]
            tensors = [graph.tensors[index] for index in operator.inputs]
            shapes = [() if t.shape is None else tuple(map(int, t.shape)) for t in tensors]
            if name in SLICING and len(shapes[0]) not in (3, 4):
                warnings.append(f"The GPU delegate does not know {name} of the shape {shapes[0]}.")
            if name == "DEPTHWISE_CONV_2D" and shapes[0][3] not in (1, shapes[1][3]):
                warnings.append(
                    f"The GPU delegate does not know {name} with several outputs for a channel."
                )
    return tuple(dict.fromkeys(warnings))
