"""Training all branches of a block through one convolution, exactly.

A branch b is γ_b · (W_bᵀq − mean_b) / √(var_b + ε) + β_b, where q is the window of the input that a
kernel sees at a position. Over a batch, with m the mean of q over images and positions and Σ its
covariance,

    mean_b = W_bᵀ m        var_b = diag(W_bᵀ Σ W_b)

and so for the 1×1 and the skip branch, whose kernels are zero beside their centre. The statistics
of every branch follow from two moments of the input, none needs its own output, and all of them sum
up to one convolution:

    Σ_b branch_b = Kᵀ (q − m) + Σ_b β_b        K = Σ_b W_b · γ_b / √(var_b + ε)

Gradients come from the same expressions. Neither the outputs of the branches nor their gradients
are ever stored. `DenseWindow` and `DepthwiseWindow` are the two kinds
of moments; benchmarks/one_pass.md derives them.
"""

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_mobileone.norms import track

TAPS = 3  # side of the kernel of a depthwise window
LAGS = 2 * TAPS - 1  # distances of two taps along one axis, -2 to 2

# Measured with TensorFlow on CPUs: what the batch normalization of a value costs, in
# multiplications of a convolution; and the values of a channel, times branches, from which on the
# depthwise moments pay, whose cost is in part the same for any number of values.
NORM_COST = 32
DEPTHWISE_WORK = 2**13


def fold_branches(window, branches: Iterable[tuple]):
    """What the branches of a block give in training mode, as one convolution.

    The moving statistics of the norms are updated as by a training step.

    Args:
        window: `DenseWindow` or `DepthwiseWindow` of the block's input.
        branches: Pairs of a kernel, of the block's full size in the layout of Keras, and its
            `BatchNormalization`.

    Returns:
        The sum of the branches' outputs.
    """
    kernels, norms = zip(*branches, strict=True)
    filters = norms[0].gamma.shape[0]
    # (branches, taps · channels, filters), or (branches, taps, channels) when depthwise.
    weights = _stack([ops.reshape(kernel, (-1, filters)) for kernel in kernels], window.dtype)
    gamma = _stack([norm.gamma for norm in norms], window.dtype)
    beta = _stack([norm.beta for norm in norms], window.dtype)
    mean, variance = window.statistics(weights)
    scale = gamma / ops.sqrt(variance + norms[0].epsilon)
    for i, norm in enumerate(norms):
        track(norm, mean[i], variance[i])
    return window.convolve(ops.sum(weights * scale[:, None], axis=0), ops.sum(beta, axis=0))


def dense_pays(channels: int, filters: int, kernel_size: int, branches: int) -> bool:
    """Whether a dense block trains faster in one pass: by multiplications at each position."""
    window = kernel_size**2 * channels
    one_pass = 2 * window**2 + 3 * window * filters
    kernels = branches * window + (channels if kernel_size > 1 else 0)
    return one_pass < 3 * kernels * filters + NORM_COST * branches * filters


def depthwise_pays(values: int | None, kernel_size: int, strides: int, branches: int) -> bool:
    """Whether a depthwise block of `values` in each channel (None if unknown) does."""
    if kernel_size != TAPS or strides != 1:
        return False
    return values is None or values * branches >= DEPTHWISE_WORK


def pick_pixels(inputs, strides: int):
    """Every `strides`-th pixel of (batch, height, width, channels) along both axes.

    By pooling single pixels, which on TensorFlow is several times faster than a strided slice.
    """
    return inputs if strides == 1 else ops.average_pool(inputs, 1, strides, padding="valid")


class DenseWindow:
    """Moments of the windows of a dense convolution: all channels of all taps together.

    Args:
        inputs: (batch, height, width, channels), any floating point.
        kernel_size: Side of the kernel, odd.
        strides: Of the convolution.
        synchronized: Moments over all replicas of a `tf.distribute` strategy.
    """

    def __init__(self, inputs, kernel_size: int, strides: int, synchronized: bool):
        self._windows = _windows(inputs, kernel_size, strides)
        # Statistics in float32 at least, also in mixed precision.
        self.dtype = keras.backend.result_type(inputs.dtype, "float32")
        flat = ops.reshape(self._windows, (-1, self._windows.shape[-1]))
        total = ops.sum(ops.cast(flat, self.dtype), axis=0)
        total, count = _over_replicas((total, ops.shape(flat)[0]), synchronized)
        count = ops.cast(count, self.dtype)
        self._mean = total / count
        # Of the centred input, not of squares less the squared mean, which would lose a small
        # variance beside a large mean.
        (products,) = _over_replicas((_scatter(flat, self._mean),), synchronized)
        self._covariance = products / count

    def statistics(self, weights):
        """Mean and variance of the outputs of `weights` (branches, taps · channels, filters)."""
        branches, _, filters = weights.shape
        flat = ops.reshape(ops.transpose(weights, (1, 0, 2)), (-1, branches * filters))
        mean = ops.matmul(self._mean, flat)
        # Without a matrix of filters by filters.
        variance = ops.sum(flat * ops.matmul(self._covariance, flat), axis=0)
        return [ops.reshape(value, (branches, filters)) for value in (mean, variance)]

    def convolve(self, weights, bias):
        """The convolution of the windows less the mean of its outputs, plus `bias`."""
        bias = bias - ops.matmul(self._mean, weights)
        kernel = ops.cast(weights, self._windows.dtype)[None, None]
        outputs = ops.conv(self._windows, kernel, padding="valid")
        return outputs + ops.cast(bias, outputs.dtype)


class DepthwiseWindow:
    """Moments of the 3×3 windows of each channel, at stride 1.

    A window is that of z = x - c, plus c times that of an image of ones, both padded with zeros. c
    is the mean of the channel: products of x itself would lose a small variance beside it.

    Args:
        inputs: x (batch, height, width, channels), any floating point.
        synchronized: Moments over all replicas of a `tf.distribute` strategy.
    """

    def __init__(self, inputs, synchronized: bool):
        self.inputs = inputs
        self.dtype = keras.backend.result_type(inputs.dtype, "float32")
        images, height, width, _ = ops.shape(inputs)
        # The sum over images is all that the means need.
        image = ops.sum(ops.cast(inputs, self.dtype), axis=0)
        image, images = _over_replicas((image, images), synchronized)
        image = image / ops.cast(images, self.dtype)
        # The moments do not depend on c, so neither does the gradient.
        c = ops.stop_gradient(ops.mean(image, axis=(0, 1)))
        (products,) = _over_replicas((_tap_products(inputs, c),), synchronized)
        # Products of two taps averaged over all windows, (taps, taps, channels): of z and z, of
        # ones and z, of ones and ones.
        positions = ops.cast(height * width, self.dtype)
        rows, columns = (ops.cast(_both_inside(n), self.dtype) for n in (height, width))
        zz = products / (positions * ops.cast(images, self.dtype))
        oz = ops.matmul(rows, ops.reshape((image - c) / positions, (height, -1)))
        oz = _by_taps(ops.matmul(columns, ops.reshape(oz, (TAPS**2, width, -1))))
        oo = ops.sum(rows, axis=1)[:, None] * ops.sum(columns, axis=1) / positions
        oo = _by_taps(oo[..., None])
        # A tap of ones times the same tap: the means.
        o, z = (ops.reshape(x, (TAPS**4, -1))[:: TAPS**2 + 1] for x in (oo, oz))
        oz = oz - o[:, None] * z
        self._covariance = (
            (zz - z[:, None] * z)
            + c * (oz + ops.transpose(oz, (1, 0, 2)))
            + c**2 * (oo - o[:, None] * o)
        )
        self._mean = z + c * o

    def statistics(self, weights):
        """Mean and variance of the outputs of `weights` (branches, taps, channels)."""
        squares = weights[:, :, None] * weights[:, None]
        variance = ops.sum(squares * self._covariance, axis=(1, 2))
        return ops.sum(self._mean * weights, axis=1), variance

    def convolve(self, weights, bias):
        """The convolution of the input less the mean of its outputs, plus `bias`."""
        bias = ops.cast(bias - ops.sum(self._mean * weights, axis=0), self.inputs.dtype)
        kernel = ops.reshape(ops.cast(weights, self.inputs.dtype), (TAPS, TAPS, -1, 1))
        return ops.depthwise_conv(self.inputs, kernel, padding="same") + bias


def _stack(tensors, dtype):
    return ops.stack([ops.cast(tensor, dtype) for tensor in tensors])


def _windows(inputs, kernel_size: int, strides: int):
    """(batch, ceil(height / strides), ceil(width / strides), taps · channels), zero-padded."""
    margin = (kernel_size - 1) // 2
    if not margin:
        return pick_pixels(inputs, strides)
    inputs = ops.pad(inputs, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    if keras.backend.backend() == "tensorflow":
        # A kernel that picks the taps: strided slices of few channels are several times slower.
        taps = kernel_size**2 * inputs.shape[-1]
        kernel = np.reshape(np.eye(taps), (kernel_size, kernel_size, -1, taps))
        return ops.conv(inputs, ops.cast(kernel, inputs.dtype), strides, padding="valid")
    height, width = (size - 2 * margin for size in ops.shape(inputs)[1:3])
    taps = [
        inputs[:, i : i + height : strides, j : j + width : strides]
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]
    return ops.concatenate(taps, axis=-1)


def _scatter(x, c):
    """(x - c)ᵀ (x - c) of x (rows, columns) and a constant c (columns,), in the dtype of c.

    Nothing but x is kept for its gradient.
    """

    @ops.custom_gradient
    def scatter(x, c):
        centred = ops.cast(x, c.dtype) - c

        def gradient(*upstream):
            both = upstream[0] + ops.transpose(upstream[0])
            slope = ops.matmul(ops.cast(x, c.dtype), both) - ops.matmul(c, both)
            return ops.cast(slope, x.dtype), ops.zeros_like(c)

        return ops.matmul(ops.transpose(centred), centred), gradient

    return scatter(x, ops.stop_gradient(c))


def _tap_products(x, c):
    """Products of two taps of a 3×3 window of x - c, summed over windows and images.

    It is the autocorrelation of the image at the distance of the taps, less what the border cuts
    off: the last row takes no part where both taps are of the upper row of the window, the first
    row where both are of the lower one, and so the columns.

    Args:
        x: (batch, height, width, channels). Outside of it x - c is zero.
        c: Constant (channels,), in the dtype of the result.

    Returns:
        (9, 9, channels).
    """
    rows, columns, twice = _ends(x, axis=1), _ends(x, axis=2), ops.tile(c, 2)
    corners = ops.cast(_ends(rows, axis=2), c.dtype) - ops.tile(c, 4)
    sums = [
        _autocorrelation(x, c, LAGS, LAGS),
        _autocorrelation(rows, twice, 1, LAGS),
        _autocorrelation(columns, twice, LAGS, 1),
        ops.sum(corners * corners, axis=(0, 1, 2)),
    ]
    channels = x.shape[-1]
    sums = ops.concatenate([ops.reshape(s, (-1, channels)) for s in sums], axis=0)
    products = ops.matmul(ops.cast(_TAP_PRODUCTS, c.dtype), sums)
    return ops.reshape(products, (TAPS**2, TAPS**2, channels))


def _ends(x, axis: int):
    """First and last row or column of an image, one after the other on the axis of channels."""
    size, before = x.shape[axis], (slice(None),) * axis
    if size is None or size == 1:
        ends = x[*before, :1], x[*before, -1:]
    else:
        # One slice for two ends: the gradient of each slice is as large as the image.
        ends = ops.split(x[*before, :: size - 1], 2, axis=axis)
    return ops.concatenate(ends, axis=-1)


def _tap_products_matrix():
    """(81, 49): what each of the sums of `_tap_products` adds to each product of two taps."""
    matrix = np.zeros((LAGS**2 + 4 * LAGS + 4, TAPS**2, TAPS**2))
    whole, of_rows, of_columns, corners = np.split(matrix, np.cumsum([LAGS**2, 2 * LAGS, 2 * LAGS]))
    # Which border row or column (0 the first, 1 the last) two taps leave out.
    left_out = {(0, 0): 1, (2, 2): 0}
    for i, j, k, m in np.ndindex((TAPS,) * 4):
        products = np.s_[TAPS * i + j, TAPS * k + m]
        row_lag, column_lag = k - i + TAPS - 1, m - j + TAPS - 1
        whole[LAGS * row_lag + column_lag][products] = 1
        row, column = left_out.get((i, k)), left_out.get((j, m))
        if row is not None:
            of_rows[2 * column_lag + row][products] = -1
        if column is not None:
            of_columns[2 * row_lag + column][products] = -1
        if row is not None and column is not None:
            corners[2 * column + row][products] = 1
    return matrix.reshape(len(matrix), -1).T


_TAP_PRODUCTS = _tap_products_matrix()


def _autocorrelation(x, c, rows: int, columns: int):
    """Sums over images and positions p of z(p) z(p + d), where z is x - c, and zero outside.

    Nothing but x is kept for its gradient.

    Args:
        x: (batch, height, width, channels).
        c: Constant (channels,), in the dtype of the result.
        rows, columns: Odd numbers of distances d along each axis, symmetrical to zero.

    Returns:
        (rows, columns, channels).
    """

    @ops.custom_gradient
    def autocorrelation(x, c):
        def gradient(*upstream):
            # z(p + d) and z(p - d) for each d.
            kernel = (upstream[0] + ops.flip(upstream[0], axis=(0, 1)))[..., None]
            # Tied to the gradient: else it would be computed in the forward pass, and kept.
            z = ops.cast(x, c.dtype) - (c + 0 * upstream[0][0, 0])
            slope = ops.depthwise_conv(z, kernel, padding="same")
            return ops.cast(slope, x.dtype), ops.zeros_like(c)

        half = _half_autocorrelation(ops.cast(x, c.dtype) - c, rows // 2, columns // 2)
        # The other half mirrors it.
        return ops.concatenate([ops.flip(half[:, 1:], axis=(0, 1)), half], axis=1), gradient

    return autocorrelation(x, ops.stop_gradient(c))


def _half_autocorrelation(z, down: int, right: int):
    """For d from (-down, 0) to (down, right): (2 down + 1, right + 1, channels).

    The half of few columns: oneDNN is several times slower with more than three.
    """
    rows, columns = 2 * down + 1, right + 1
    padded = ops.pad(z, [(0, 0), (down, down), (0, right), (0, 0)])
    if keras.backend.backend() == "tensorflow":
        return _weight_gradient(padded, z, rows, columns)
    height, width = ops.shape(z)[1:3]
    sums = [
        ops.sum(z * padded[:, i : i + height, j : j + width], axis=(0, 1, 2))
        for i in range(rows)
        for j in range(columns)
    ]
    return ops.reshape(ops.stack(sums), (rows, columns, -1))


def _weight_gradient(inputs, outputs, rows, columns):
    """Gradient of a depthwise kernel, (rows, columns, channels): one pass over the image."""
    import tensorflow as tf

    gradient = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=inputs,
        filter_sizes=[rows, columns, inputs.shape[-1], 1],
        out_backprop=outputs,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    return gradient[..., 0]


def _both_inside(length):
    """Whether row r is the tap j of a window, whose tap i is inside too: (i · j, length)."""
    r = ops.arange(length)
    i, j = ops.arange(TAPS)[:, None, None], ops.arange(TAPS)[:, None]
    position, other = r - j + 1, r - j + i
    inside = [ops.logical_and(x >= 0, x < length) for x in (position, other)]
    return ops.reshape(ops.logical_and(*inside), (TAPS**2, -1))


def _by_taps(products):
    """From (two taps of a row, two of a column, channels) to (tap, tap, channels)."""
    products = ops.reshape(products, (TAPS,) * 4 + (-1,))
    return ops.reshape(ops.transpose(products, (0, 2, 1, 3, 4)), (TAPS**2, TAPS**2, -1))


def _over_replicas(tensors, synchronized: bool):
    """Sums over the replicas; what Keras' own synchronized BatchNormalization does."""
    if not synchronized:
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return tensors
    dtype = tensors[0].dtype
    return context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.cast(t, dtype) for t in tensors])
