"""Runs the ML Program of a saved Core ML package in NumPy, with the weights of the package."""

import logging
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def run_package(path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a package by name.

    Args:
        path: The `.mlpackage` directory.
        image: uint8 (height, width, 3) for an image input, and otherwise the value of the
            multi-array.

    Results are rounded to the dtype that the program states for each operation, so that a float16
    program computes with the precision of float16. Sums inside an operation are in float32. The
    suppression of boxes of a pipeline follows NonMaximumSuppression.proto of coremltools.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    package = ct.models.MLModel(str(path), skip_model_load=True)
    whole = package.get_spec()
    spec = whole.pipeline.models[0] if whole.pipeline.models else whole
    program = load(spec, spec.specificationVersion, package.weights_dir)
    function = program.functions["main"]
    (name,) = function.inputs
    if spec.description.input[0].type.HasField("imageType"):
        image = image.transpose(2, 0, 1)[None]  # the layout in which Core ML passes an image
    values = {name: np.asarray(image, np.float32)}
    for operation in function.operations:
        _run(operation, values)
    outputs = {output.name: values[output.name] for output in function.outputs}
    return suppress(whole.pipeline.models[1], outputs) if whole.pipeline.models else outputs


def suppress(spec, values) -> dict[str, np.ndarray]:
    """Picks the best box of each class, again and again, that no better one overlaps too much."""
    settings = spec.nonMaximumSuppression
    assert settings.pickTop.perClass
    scores = _f(values[settings.confidenceInputFeatureName])
    boxes = _f(values[settings.coordinatesInputFeatureName])
    assert scores.shape == (len(boxes), len(settings.stringClassLabels.vector))
    candidates = np.flatnonzero(scores.sum(1) >= settings.confidenceThreshold)
    kept = []
    for row in candidates[np.argsort(-scores[candidates].max(1), kind="stable")]:
        rivals = [k for k in kept if scores[k].argmax() == scores[row].argmax()]
        if all(_overlap(boxes[k], boxes[row]) <= settings.iouThreshold for k in rivals):
            kept.append(row)
    return {
        settings.confidenceOutputFeatureName: scores[kept],
        settings.coordinatesOutputFeatureName: boxes[kept],
    }


def _overlap(a, b) -> float:
    """Returns the intersection over union of two boxes of center x, center y, width, height."""
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(a[2:]) + np.prod(b[2:]) - shared)


def _run(operation, values):
    def value(argument):
        if isinstance(argument, (tuple, list)):
            return [_value(part, values) for part in argument]
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
    rates = (1, 1) if dilations is None else tuple(dilations)
    height, width = (1 + r * (s - 1) for r, s in zip(rates, weight.shape[2:], strict=True))
    if pad_type == "custom":
        x = np.pad(x, [(0, 0), (0, 0), tuple(pad[:2]), tuple(pad[2:])])
    elif pad_type == "same":
        assert tuple(strides) == (1, 1) and height % 2 and width % 2
        x = np.pad(x, [(0, 0), (0, 0), (height // 2,) * 2, (width // 2,) * 2])
    else:
        assert pad_type == "valid"
    windows = sliding_window_view(x, (height, width), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: rates[0], :: rates[1]]
    if groups == 1:
        y = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
    elif groups == x.shape[1] == weight.shape[0]:
        y = np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    else:
        pairs = zip(*(np.split(a, groups, k) for a, k in ((windows, 1), (weight, 0))), strict=True)
        y = np.concatenate([np.einsum("nchwij,ocij->nohw", *pair) for pair in pairs], 1)
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


def upsample_bilinear(x, scale_factor_height, scale_factor_width, align_corners):
    """Enlarges NCHW features, with the grid that coremltools documents for this operation."""
    assert not align_corners
    for axis, factor in ((2, scale_factor_height), (3, scale_factor_width)):
        size = x.shape[axis]
        grid = ((np.arange(int(size * factor)) + 0.5) / factor - 0.5).clip(0, size - 1)
        low = np.floor(grid).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = np.float32(grid - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = _f(x)
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


def slice_by_index(
    x,
    begin,
    end,
    stride=None,
    begin_mask=None,
    end_mask=None,
    squeeze_mask=None,
):
    """Cuts a part of a tensor."""
    none = [False] * x.ndim
    part = []
    for axis in range(x.ndim):
        if (none if squeeze_mask is None else squeeze_mask)[axis]:
            part.append(int(begin[axis]))
            continue
        start = None if (none if begin_mask is None else begin_mask)[axis] else begin[axis]
        stop = None if (none if end_mask is None else end_mask)[axis] else end[axis]
        part.append(slice(start, stop, None if stride is None else stride[axis]))
    return x[tuple(part)]


def concat(values, axis, interleave=False):
    """Joins tensors along an axis."""
    assert not interleave
    return np.concatenate(values, axis)


def split(x, axis, num_splits=None, split_sizes=None):
    """Cuts a tensor into parts along an axis."""
    parts = num_splits if split_sizes is None else np.cumsum(split_sizes)[:-1]
    return tuple(np.split(x, parts, axis))


def reduce_argmax(x, axis, keep_dims):
    """Returns the index of the largest value along an axis, the first of equal ones."""
    return np.argmax(x, int(axis), keepdims=bool(keep_dims)).astype(np.int32)


def reduce_argmin(x, axis, keep_dims):
    """Returns the index of the smallest value along an axis, the first of equal ones."""
    return np.argmin(x, int(axis), keepdims=bool(keep_dims)).astype(np.int32)


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
    "upsample_bilinear": upsample_bilinear,
    "slice_by_index": slice_by_index,
    "concat": concat,
    "split": split,
    "reduce_argmax": reduce_argmax,
    "reduce_argmin": reduce_argmin,
    "softmax": softmax,
    "classify": classify,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_lut_to_dense": lut_to_dense,
    "cast": lambda x, dtype: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-_f(x))),
    "mul": lambda x, y: _f(x) * _f(y),
    "add": lambda x, y: _f(x) + _f(y),
    "sub": lambda x, y: _f(x) - _f(y),
    "real_div": lambda x, y: _f(x) / _f(y),
    "exp": lambda x: np.exp(_f(x)),
    "log": lambda x, epsilon: np.log(_f(x) + epsilon),
    "erf": lambda x: np.vectorize(math.erf)(_f(x)),
    "square": lambda x: _f(x) * _f(x),
    "maximum": lambda x, y: np.maximum(x, y),
    "minimum": lambda x, y: np.minimum(x, y),
    "squeeze": lambda x, axes: np.squeeze(x, tuple(axes)),
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "transpose": lambda x, perm: x.transpose(perm),
    "reduce_mean": lambda x, axes, keep_dims: _f(x).mean(tuple(axes), keepdims=bool(keep_dims)),
    "linear": lambda x, weight, bias: _f(x) @ _f(weight).T + _f(bias),
    "matmul": matmul,
    "reshape": lambda x, shape: x.reshape(shape),
}
