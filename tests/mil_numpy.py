"""Runs the ML Program of a saved Core ML package in NumPy, with the weights of the package."""

import logging

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def run_package(path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a package by name.

    Args:
        path: The `.mlpackage` directory.
        image: uint8 (height, width, 3) for an image input, and otherwise the value of the
            multi-array.

    Results are rounded to the dtype that the program states for each operation, so that a float16
    program computes with the precision of float16. Sums inside an operation are in float32.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    package = ct.models.MLModel(str(path), skip_model_load=True)
    spec = package.get_spec()
    program = load(spec, spec.specificationVersion, package.weights_dir)
    function = program.functions["main"]
    (name,) = function.inputs
    if spec.description.input[0].type.HasField("imageType"):
        image = image.transpose(2, 0, 1)[None]  # the layout in which Core ML passes an image
    values = {name: np.asarray(image, np.float32)}
    for operation in function.operations:
        _run(operation, values)
    return {output.name: values[output.name] for output in function.outputs}


def _run(operation, values):
    def value(argument):
        return None if argument is None else _value(argument, values)

    if operation.op_type == "const":
        values[operation.outputs[0].name] = operation.val.val
        return
    inputs = {key: value(argument) for key, argument in operation.inputs.items()}
    results = OPERATIONS[operation.op_type](**inputs)
    results = results if isinstance(results, tuple) else (results,)
    for output, result in zip(operation.outputs, results, strict=True):
        dtype = {"fp16": np.float16, "fp32": np.float32}.get(_dtype(output))
        values[output.name] = result if dtype is None else np.asarray(result).astype(dtype)


def _value(argument, values):
    if argument.name in values:
        return values[argument.name]
    return argument.val


def _dtype(variable) -> str:
    from coremltools.converters.mil.mil import types

    kind = variable.sym_type
    kind = kind.get_primitive() if types.is_tensor(kind) else kind
    return {types.fp16: "fp16", types.fp32: "fp32"}.get(kind, "other")


def _f(x):
    return np.asarray(x).astype(np.float32)


def conv(x, weight, strides, pad_type, groups, pad=None, dilations=None, bias=None):
    """Computes an NCHW convolution with a weight of shape (out, in / groups, height, width)."""
    x, weight = _f(x), _f(weight)
    height, width = weight.shape[2:]
    if pad_type == "custom":
        x = np.pad(x, [(0, 0), (0, 0), tuple(pad[:2]), tuple(pad[2:])])
    elif pad_type == "same":
        assert tuple(strides) == (1, 1) and height % 2 and width % 2
        x = np.pad(x, [(0, 0), (0, 0), (height // 2,) * 2, (width // 2,) * 2])
    else:
        assert pad_type == "valid"
    assert dilations is None or set(np.ravel(dilations)) == {1}
    windows = sliding_window_view(x, (height, width), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    if groups == 1:
        y = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
    else:
        assert groups == x.shape[1] == weight.shape[0]
        y = np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    return y if bias is None else y + _f(bias)[:, None, None]


def batch_norm(x, mean, variance, gamma, beta, epsilon):
    """Normalizes the channels of an NCHW tensor."""
    scale = _f(gamma) / np.sqrt(_f(variance) + _f(epsilon))
    return _f(x) * scale[:, None, None] + (_f(beta) - _f(mean) * scale)[:, None, None]


def pad(x, pad, mode, constant_val):
    """Pads the last axes."""
    assert mode == "constant"
    pairs = np.reshape(pad, (-1, 2))
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + [tuple(pair) for pair in pairs]
    return np.pad(x, pairs, constant_values=constant_val)


def matmul(x, y, transpose_x, transpose_y):
    """Multiplies matrices."""
    x, y = (_f(a).swapaxes(-1, -2) if t else _f(a) for a, t in ((x, transpose_x), (y, transpose_y)))
    return x @ y


def softmax(x, axis):
    """Computes a softmax over one axis."""
    exponentials = np.exp(_f(x) - _f(x).max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def classify(probabilities, classes):
    """Returns the best label, and the probability of each label."""
    probabilities = np.ravel(probabilities)
    return classes.ls[int(probabilities.argmax())], probabilities


def affine_dequantize(quantized_data, zero_point, scale, axis):
    """Returns the values of 8-bit weights."""
    shape = [-1 if i == axis else 1 for i in range(quantized_data.ndim)]
    zero_point = np.reshape(zero_point, shape if np.size(zero_point) > 1 else ())
    return (_f(quantized_data) - _f(zero_point)) * np.reshape(_f(scale), shape)


def lut_to_dense(indices, lut, shape):
    """Returns weights from a table, whose `indices` are packed with the lowest bits first."""
    bits = int(np.log2(len(lut)))
    unpacked = np.unpackbits(np.asarray(indices, np.uint8), bitorder="little")
    count = int(np.prod(shape))
    unpacked = unpacked[: count * bits].reshape(count, bits)
    return lut[unpacked @ (1 << np.arange(bits))].reshape(shape)


OPERATIONS = {
    "conv": conv,
    "batch_norm": batch_norm,
    "pad": pad,
    "softmax": softmax,
    "classify": classify,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_lut_to_dense": lut_to_dense,
    "cast": lambda x, dtype: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-_f(x))),
    "mul": lambda x, y: _f(x) * _f(y),
    "add": lambda x, y: _f(x) + _f(y),
    "transpose": lambda x, perm: x.transpose(perm),
    "reduce_mean": lambda x, axes, keep_dims: _f(x).mean(tuple(axes), keepdims=bool(keep_dims)),
    "linear": lambda x, weight, bias: _f(x) @ _f(weight).T + _f(bias),
    "matmul": matmul,
    "reshape": lambda x, shape: x.reshape(shape),
}
