"""Sums of the windows of a convolution and of their products, with gradients written out.

Of both kinds of window the moments are one tensor: first the sums of the window's values, then the
products of two of them, centred by a constant m, since products of the values themselves would lose
a small variance beside a large mean. Where m is the mean, the gradient of the products is that of
the covariance. Nothing but the input is kept for it. benchmarks/one_pass.md derives the formulas.
"""

import keras
import numpy as np
from keras import ops

TAPS = 3  # side of the kernel of a depthwise window
LAGS = 2 * TAPS - 1  # distances of two taps along one axis, -2 to 2


def _with_gradient(function):
    """`ops.custom_gradient` of a function of one output, called alike by all backends."""

    @ops.custom_gradient
    def wrapped(*inputs):
        output, gradient = function(*inputs)

        def backward(*args, upstream=None):  # PyTorch's alone names it
            return gradient(args[0] if upstream is None else upstream)

        return output, backward

    return wrapped


def dense_moments(x, sums, m):
    """Sums of x (rows, columns), and (x - m)ᵀ (x - m), in the dtype of m: (1 + columns, columns).

    The sums are given, as is the constant m (columns,).
    """

    @_with_gradient
    def moments(x, sums, m):
        def gradient(upstream):
            of_sums, of_products = upstream[0], upstream[1:]
            both = of_products + ops.transpose(of_products)
            slope = ops.matmul(ops.cast(x, m.dtype), both) + (of_sums - ops.matmul(m, both))
            return ops.cast(slope, x.dtype), ops.zeros_like(sums), ops.zeros_like(m)

        centred = ops.cast(x, m.dtype) - m
        products = ops.matmul(ops.transpose(centred), centred)
        return ops.concatenate([sums[None], products], axis=0), gradient

    return moments(x, sums, ops.stop_gradient(m))


def squares(covariance, x):
    """xᵀ · covariance · x of each column x of a matrix: the diagonal of that product alone."""

    @_with_gradient
    def quadratic(covariance, x):
        product = ops.matmul(covariance, x)

        def gradient(upstream):
            # Symmetry of the covariance saves a third product.
            return ops.matmul(upstream * x, ops.transpose(x)), 2 * upstream * product

        return ops.sum(x * product, axis=0), gradient

    return quadratic(covariance, x)


def depthwise_moments(x, image, m):
    """The same of the 3×3 windows of each channel, in the dtype of m: (1 + 9, 9, channels).

    Args:
        x: (batch, height, width, channels).
        image: Its sum over the batch.
        m: Constant (9, channels).
    """

    @_with_gradient
    def moments(x, image, m):
        def gradient(upstream):
            of_sums, of_products = upstream[0], upstream[1:]
            both = of_products + ops.transpose(of_products, (1, 0, 2))
            slope = _tap_products_gradient(x, both, of_sums - ops.sum(both * m, axis=1))
            return ops.cast(slope, x.dtype), ops.zeros_like(image), ops.zeros_like(m)

        sums, products = _tap_moments(x, image, m)
        return ops.concatenate([sums[None], products], axis=0), gradient

    return moments(x, image, ops.stop_gradient(m))


def _tap_moments(x, image, m):
    """Sums of the taps, (9, channels), and products of two of them less m, (9, 9, channels).

    The window of x is that of z = x - c and c times that of an image of ones, both padded with
    zeros, where c is the mean of the channel.
    """
    images, height, width, _ = (ops.cast(n, m.dtype) for n in ops.shape(x))
    count = images * height * width
    c = m[TAPS**2 // 2]  # the tap in the middle sees every pixel once
    z = image - images * c
    # Sums over windows of ones and ones, and of ones and z, at two taps.
    oo = images * _pair_sums(ops.ones_like(image[..., :1]))
    oz = _pair_sums(z)
    o, z = (ops.reshape(pairs, (TAPS**4, -1))[:: TAPS**2 + 1] for pairs in (oo, oz))
    # Of z - r and ones - o / count, whose mean is zero.
    o = o / count
    r = m - c * o
    zz = _tap_products(x, c) - r[:, None] * z - z[:, None] * r + count * r[:, None] * r
    oz = oz - o[:, None] * z
    oo = oo - count * o[:, None] * o
    products = zz + c * (oz + ops.transpose(oz, (1, 0, 2))) + c**2 * oo
    return z + count * c * o, products


def tap_sums(image):
    """What each tap of a 3×3 window sums up to over (height, width, channels): (9, channels)."""
    return ops.reshape(_pair_sums(image), (TAPS**4, -1))[:: TAPS**2 + 1]


def _pair_sums(image):
    """The same where another tap must be inside of the image too: (other tap, tap, channels)."""
    height, width, _ = ops.shape(image)
    rows, columns = (ops.cast(_both_inside(n), image.dtype) for n in (height, width))
    sums = ops.matmul(rows, ops.reshape(image, (height, -1)))
    sums = ops.matmul(columns, ops.reshape(sums, (TAPS**2, width, -1)))
    sums = ops.reshape(sums, (TAPS,) * 4 + (-1,))
    return ops.reshape(ops.transpose(sums, (0, 2, 1, 3, 4)), (TAPS**2, TAPS**2, -1))


def _both_inside(length):
    """Whether row r is the tap j of a window, whose tap i is inside too: (i · j, length)."""
    xp = np if isinstance(length, int) else ops
    r = xp.arange(length)
    i, j = xp.arange(TAPS)[:, None, None], xp.arange(TAPS)[:, None]
    position, other = r - j + 1, r - j + i
    inside = [xp.logical_and(x >= 0, x < length) for x in (position, other)]
    return xp.reshape(xp.logical_and(*inside), (TAPS**2, -1))


def _tap_products(x, c):
    """Products of two taps of a 3×3 window of x - c, summed over windows and images.

    It is the autocorrelation of the image at the distance of the taps, less what the border cuts
    off: the last row takes no part where both taps are of the upper row of the window, the first
    row where both are of the lower one, and so the columns.

    Args:
        x: (batch, height, width, channels). Outside of it x - c is zero.
        c: (channels,), in the dtype of the result.

    Returns:
        (9, 9, channels).
    """
    z = ops.cast(x, c.dtype) - c
    rows, columns = _ends(z, axis=1), _ends(z, axis=2)
    corners = _ends(rows, axis=2)
    sums = [
        _autocorrelation(z, LAGS, LAGS),
        _autocorrelation(rows, 1, LAGS),
        _autocorrelation(columns, LAGS, 1),
        ops.sum(corners * corners, axis=(0, 1, 2)),
    ]
    channels = x.shape[-1]
    sums = ops.concatenate([ops.reshape(s, (-1, channels)) for s in sums], axis=0)
    products = ops.matmul(ops.cast(_TAP_PRODUCTS, c.dtype), sums)
    return ops.reshape(products, (TAPS**2, TAPS**2, channels))


def _tap_products_gradient(x, both, constants):
    """Σ over windows, at each tap i of them: Σ_j both(i, j) · tap j, plus constants(i).

    One convolution with the sums that `both` has for each distance of two taps, and one constant;
    but the border is no tap of windows that are outside.

    Args:
        x: (batch, height, width, channels).
        both: (9, 9, channels), symmetrical.
        constants: (9, channels).

    Returns:
        The shape of x, in the dtype of `both`.
    """
    channels = x.shape[-1]
    kernels = ops.matmul(ops.cast(_TAP_PRODUCTS.T, both.dtype), ops.reshape(both, (-1, channels)))
    kernel, of_rows, of_columns, of_corners = ops.split(kernels, list(_PRODUCTS), axis=0)
    constant, row, column, corner = ops.split(
        ops.matmul(ops.cast(_TAP_SUMS.T, both.dtype), constants), list(_PIXELS), axis=0
    )
    x = ops.cast(x, both.dtype)
    rows, columns = _ends(x, axis=1), _ends(x, axis=2)
    corners = _ends(rows, axis=2) * ops.reshape(of_corners, (-1,)) + ops.reshape(corner, (-1,))
    rows = _convolve(rows, of_rows, 1, LAGS) + ops.reshape(row, (-1,))
    columns = _convolve(columns, of_columns, LAGS, 1) + ops.reshape(column, (-1,))
    slope = _convolve(x, kernel, LAGS, LAGS) + constant[0]
    slope = _add_to_ends(slope, _add_to_ends(rows, corners, axis=2), axis=1)
    return _add_to_ends(slope, columns, axis=2)


def _convolve(x, kernel, rows: int, columns: int):
    """Depthwise with a kernel of (rows · columns · ends, channels); see `_ends`."""
    kernel = ops.reshape(kernel, (rows, columns, -1, 1))
    return ops.depthwise_conv(x, kernel, padding="same")


def _ends(x, axis: int):
    """First and last row or column of an image, one after the other on the axis of channels."""
    before = (slice(None),) * axis
    return ops.concatenate([x[*before, :1], x[*before, -1:]], axis=-1)


def _add_to_ends(x, ends, axis: int):
    """x, to whose first and last row or column `ends` is added, as `_ends` gives them."""
    for last, end in enumerate(ops.split(ends, 2, axis=-1)):
        if keras.backend.backend() == "tensorflow":
            x = _add_in_place(x, end, axis, last)
        else:
            rest = ops.shape(x)[axis] - 1
            pads = [(0, 0)] * len(x.shape)
            pads[axis] = (rest, 0) if last else (0, rest)
            x = x + ops.pad(end, pads)
    return x


def _add_in_place(x, end, axis: int, last: int):
    """Without a copy of x, of which nothing else has a use."""
    import tensorflow as tf

    others = (2 ** len(x.shape) - 1) & ~(1 << axis)  # all of the other axes, as bits
    span = {"begin": [-last] * 4, "end": [1] * 4, "strides": [1] * 4}
    span |= {"begin_mask": others, "end_mask": others | last << axis}
    end = end + tf.raw_ops.StridedSlice(input=x, **span)
    return tf.raw_ops.TensorStridedSliceUpdate(input=x, value=end, **span)


def _border_matrices():
    """What sums over an image, its border rows and columns, and its corners add up to.

    Returns:
        (81, 25 + 2 · 5 + 2 · 5 + 4): products of two taps, from those at each distance.
        (9, 1 + 2 + 2 + 4): taps, from pixels.
    """
    products = np.zeros((TAPS**2, TAPS**2, _PRODUCTS[-1] + 4))
    sums = np.zeros((TAPS**2, _PIXELS[-1] + 4))
    # Which border row or column (0 the first, 1 the last) two taps leave out.
    left_out = {(0, 0): 1, (2, 2): 0}
    for i, j, k, m in np.ndindex((TAPS,) * 4):
        tap, other = TAPS * i + j, TAPS * k + m
        lags = (k - i + TAPS - 1, m - j + TAPS - 1)
        border = left_out.get((i, k)), left_out.get((j, m))
        _count(products[tap, other], _PRODUCTS, LAGS, lags, border)
        if tap == other:
            _count(sums[tap], _PIXELS, 1, (0, 0), border)
    return products.reshape(TAPS**4, -1), sums


def _count(counts, parts, side, lags, border) -> None:
    """Counts the whole image once, less a border row and a border column, plus their corner."""
    whole, rows, columns, corners = np.split(counts, parts)
    whole[side * lags[0] + lags[1]] = 1
    row, column = border
    if row is not None:
        rows[2 * lags[1] + row] = -1
    if column is not None:
        columns[2 * lags[0] + column] = -1
    if None not in border:
        corners[2 * column + row] = 1


# Where the sums over border rows, over border columns and of corners begin: of products at each
# distance, and of pixels.
_PRODUCTS = np.cumsum([LAGS**2, 2 * LAGS, 2 * LAGS])
_PIXELS = np.cumsum([1, 2, 2])
_TAP_PRODUCTS, _TAP_SUMS = _border_matrices()


def _autocorrelation(z, rows: int, columns: int):
    """Sums over images and positions p of z(p) z(p + d), where z is zero outside.

    Args:
        z: (batch, height, width, channels).
        rows, columns: Odd numbers of distances d along each axis, symmetrical to zero.

    Returns:
        (rows, columns, channels).
    """
    half = _half_autocorrelation(z, rows // 2, columns // 2)
    # The other half mirrors it.
    return ops.concatenate([ops.flip(half[:, 1:], axis=(0, 1)), half], axis=1)


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
