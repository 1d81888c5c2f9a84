"""First and second moments of the windows that a convolution sees, with explicit gradients.

Both window types return one tensor: row 0 holds the sums, the other rows hold the centered
products. For windows q of n values, summed over all images and positions,

    row 0:         Σ q_i
    row 1 + i:     Σ (q_i − m_i) (q_j − m_j)    for j = 0 … n − 1

Subtracting the constant m preserves a small variance next to a large mean. If m is the mean, the
gradient of the products is that of the covariance. The backward pass needs only the input.

docs/methods/window_moments.md works through an example in one dimension by hand, and
docs/methods/one_pass.md derives the formulas.

Comments give shapes for B images of H × W pixels with C channels, with P = B · H · W positions. A
3×3 window has 9 taps, numbered row by row, so that tap 4 is its center. The offset between two taps
is their lag; there are 5×5 = 25 lags.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any  # a tensor of Keras' backend

TAPS = 3  # side of the kernel of a depthwise window
LAGS = 2 * TAPS - 1  # offsets between two taps along one axis: -2, -1, 0, 1, 2


def _with_gradient(function: Callable) -> Callable:
    """Wraps a function of one output in `ops.custom_gradient`, in a form for every backend."""

    @ops.custom_gradient
    def wrapped(*inputs: Tensor) -> tuple[Tensor, Callable]:
        output, gradient = function(*inputs)

        # PyTorch passes the gradient as a keyword argument, other backends as a positional one.
        def backward(*args: Tensor, upstream: Tensor = None) -> Tensor:
            return gradient(args[0] if upstream is None else upstream)

        return output, backward

    return wrapped


def dense_moments(x: Tensor, sums: Tensor, m: Tensor) -> Tensor:
    """Computes sums and centered products of the rows of a matrix, in the dtype of m.

    Args:
        x: Matrix with one window in each row, shape (P, n).
        sums: Sums of the columns of x, shape (n,).
        m: Constant to subtract, shape (n,).

    Returns:
        Tensor of shape (1 + n, n): the sums, then (x − m)ᵀ (x − m).
    """

    @_with_gradient
    def moments(x: Tensor, sums: Tensor, m: Tensor) -> tuple[Tensor, Callable]:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            of_sums, of_products = upstream[0], upstream[1:]  # (n,), (n, n)
            both = of_products + ops.transpose(of_products)  # (n, n)
            constant = of_sums - ops.matmul(m, both)  # (n,)
            slope = ops.matmul(ops.cast(x, m.dtype), both) + constant  # (P, n)
            return ops.cast(slope, x.dtype), ops.zeros_like(sums), ops.zeros_like(m)

        centered = ops.cast(x, m.dtype) - m  # (P, n)
        products = ops.matmul(ops.transpose(centered), centered)  # (n, n)
        return ops.concatenate([sums[None], products], axis=0), gradient

    return moments(x, sums, ops.stop_gradient(m))


def squares(covariance: Tensor, x: Tensor) -> Tensor:
    """Computes xᵀ · covariance · x for each column of x, which is the diagonal of that product.

    Args:
        covariance: Symmetric matrix, shape (n, n).
        x: Matrix, shape (n, k).

    Returns:
        Tensor of shape (k,).
    """

    @_with_gradient
    def quadratic(covariance: Tensor, x: Tensor) -> tuple[Tensor, Callable]:
        product = ops.matmul(covariance, x)  # (n, k)

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            # The symmetry of the covariance saves a third product.
            return ops.matmul(upstream * x, ops.transpose(x)), 2 * upstream * product

        return ops.sum(x * product, axis=0), gradient

    return quadratic(covariance, x)


def depthwise_moments(x: Tensor, image: Tensor, m: Tensor) -> Tensor:
    """Computes per-channel sums and centered products of all 3×3 windows.

    Args:
        x: Shape (B, H, W, C). Windows extend beyond its border, where they see zeros.
        image: Sum of x over the batch, shape (H, W, C), in the dtype of m.
        m: Constant to subtract, shape (9, C). The result has its dtype.

    Returns:
        Tensor of shape (10, 9, C): the sums, then the products.
    """

    @_with_gradient
    def moments(x: Tensor, image: Tensor, m: Tensor) -> tuple[Tensor, Callable]:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            of_sums, of_products = upstream[0], upstream[1:]  # (9, C), (9, 9, C)
            both = of_products + ops.transpose(of_products, (1, 0, 2))  # (9, 9, C)
            constants = of_sums - ops.sum(both * m, axis=1)  # (9, C)
            slope = _tap_products_gradient(x, both, constants)  # (B, H, W, C)
            return ops.cast(slope, x.dtype), ops.zeros_like(image), ops.zeros_like(m)

        sums, products = _tap_moments(x, image, m)
        return ops.concatenate([sums[None], products], axis=0), gradient

    return moments(x, image, ops.stop_gradient(m))


def _tap_moments(x: Tensor, image: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Computes sums of the taps, (9, C), and centered products of two taps, (9, 9, C).

    If c is the mean of the channel, a window of x is the window of z = x − c, plus c times the
    window of an image of ones. Both images are padded with zeros.
    """
    images, height, width, _ = (ops.cast(n, m.dtype) for n in ops.shape(x))
    count = images * height * width
    c = m[TAPS**2 // 2]  # (C,): the tap in the center sees every pixel once
    z = image - images * c  # (H, W, C), summed over the batch
    # Sums of products of two taps of the ones, and of a tap of the ones with a tap of z.
    ones_ones = images * _pair_sums(ops.ones_like(image[..., :1]))  # (9, 9, 1)
    ones_z = _pair_sums(z)  # (9, 9, C)
    ones, z = _diagonal(ones_ones), _diagonal(ones_z)  # (9, 1), (9, C): sums of the taps
    # The same products of z − r and ones − share, whose means are zero.
    share = ones / count  # (9, 1)
    r = m - c * share  # (9, C): mean of the taps of z
    zz = _tap_products(x, c) - r[:, None] * z - z[:, None] * r  # (9, 9, C)
    zz = zz + count * r[:, None] * r
    ones_z = ones_z - share[:, None] * z  # (9, 9, C)
    ones_ones = ones_ones - count * share[:, None] * share  # (9, 9, 1)
    products = zz + c * (ones_z + ops.transpose(ones_z, (1, 0, 2))) + c**2 * ones_ones
    return z + count * c * share, products


def tap_sums(image: Tensor) -> Tensor:
    """Returns the sum of each tap over all windows of an image (H, W, C), shape (9, C)."""
    return _diagonal(_pair_sums(image))


def _diagonal(pairs: Tensor) -> Tensor:
    """Returns the entries (i, i) of an array (9, 9, C), shape (9, C)."""
    return ops.reshape(pairs, (TAPS**4, -1))[:: TAPS**2 + 1]


def _pair_sums(image: Tensor) -> Tensor:
    """Sums tap j over the windows whose tap i also lies inside the image, as (9 i, 9 j, C)."""
    height, width, _ = ops.shape(image)
    rows, columns = (ops.cast(_both_inside(n), image.dtype) for n in (height, width))
    sums = ops.matmul(rows, ops.reshape(image, (height, -1)))  # (3 · 3, W · C)
    sums = ops.matmul(columns, ops.reshape(sums, (TAPS**2, width, -1)))  # (3 · 3, 3 · 3, C)
    # Rows of i and j, columns of i and j:
    sums = ops.reshape(sums, (TAPS,) * 4 + (-1,))  # (3, 3, 3, 3, C)
    return ops.reshape(ops.transpose(sums, (0, 2, 1, 3, 4)), (TAPS**2, TAPS**2, -1))


def _both_inside(length: Any) -> Any:
    """Returns whether pixel r is tap j of a window whose tap i lies inside the image.

    Taps i and j and pixel r are counted along one axis.

    Returns:
        Boolean array of shape (3 i · 3 j, length).
    """
    xp = np if isinstance(length, int) else ops
    r = xp.arange(length)  # (length,)
    i, j = xp.arange(TAPS)[:, None, None], xp.arange(TAPS)[:, None]  # (3, 1, 1), (3, 1)
    center, other = r - j + 1, r - j + i  # (3, length), (3, 3, length)
    inside = [xp.logical_and(p >= 0, p < length) for p in (center, other)]
    return xp.reshape(xp.logical_and(*inside), (TAPS**2, -1))


def _tap_products(x: Tensor, c: Tensor) -> Tensor:
    """Sums the products of two taps of the 3×3 windows of x − c over windows and images.

    The result is the autocorrelation minus the terms of windows that do not exist. If both taps are
    in the upper row of the window, the last row of the image is left out; if both are in the lower
    row, the first row of the image is left out. The same holds for columns.

    Args:
        x: Shape (B, H, W, C). Outside the image, x − c counts as zero.
        c: Shape (C,), in the dtype of the result.

    Returns:
        Tensor of shape (9, 9, C).
    """
    z = ops.cast(x, c.dtype) - c  # (B, H, W, C)
    rows, columns = _ends(z, axis=1), _ends(z, axis=2)  # (B, 1, W, 2C), (B, H, 1, 2C)
    corners = _ends(rows, axis=2)  # (B, 1, 1, 4C)
    sums = [
        _autocorrelation(z, LAGS, LAGS),  # (5, 5, C)
        _autocorrelation(rows, 1, LAGS),  # (1, 5, 2C)
        _autocorrelation(columns, LAGS, 1),  # (5, 1, 2C)
        ops.sum(corners * corners, axis=(0, 1, 2)),  # (4C,)
    ]
    channels = x.shape[-1]
    sums = ops.concatenate([ops.reshape(s, (-1, channels)) for s in sums], axis=0)  # (49, C)
    products = ops.matmul(ops.cast(_TAP_PRODUCTS, c.dtype), sums)  # (81, C)
    return ops.reshape(products, (TAPS**2, TAPS**2, channels))


def _tap_products_gradient(x: Tensor, both: Tensor, constants: Tensor) -> Tensor:
    """Computes the gradient of each pixel, summed over the windows of which it is a tap i.

    The gradient of tap i is Σ_j both(i, j) · tap j + constants(i).

    One convolution, whose kernel sums `both` for each lag, and one constant give the gradient of
    all pixels. Pixels at the border are taps of fewer windows, which is corrected afterwards.

    Args:
        x: Shape (B, H, W, C).
        both: Shape (9, 9, C), symmetric in the first two axes.
        constants: Shape (9, C).

    Returns:
        Tensor of shape (B, H, W, C), in the dtype of `both`.
    """
    channels, dtype = x.shape[-1], both.dtype
    pairs = ops.reshape(both, (-1, channels))  # (81, C)
    kernels = ops.matmul(ops.cast(_TAP_PRODUCTS.T, dtype), pairs)  # (49, C)
    shares = ops.matmul(ops.cast(_TAP_SUMS.T, dtype), constants)  # (9, C)
    # (25, C), (10, C), (10, C), (4, C) and (1, C), (2, C), (2, C), (4, C)
    kernel, row_kernel, column_kernel, corner_factor = ops.split(kernels, list(_PRODUCTS), axis=0)
    constant, row, column, corner = ops.split(shares, list(_PIXELS), axis=0)
    x = ops.cast(x, dtype)
    rows, columns = _ends(x, axis=1), _ends(x, axis=2)  # (B, 1, W, 2C), (B, H, 1, 2C)
    corners = _ends(rows, axis=2)  # (B, 1, 1, 4C)
    corners = corners * ops.reshape(corner_factor, (-1,)) + ops.reshape(corner, (-1,))
    rows = _convolve(rows, row_kernel, 1, LAGS) + ops.reshape(row, (-1,))
    columns = _convolve(columns, column_kernel, LAGS, 1) + ops.reshape(column, (-1,))
    slope = _convolve(x, kernel, LAGS, LAGS) + constant[0]  # (B, H, W, C)
    slope = _add_to_ends(slope, _add_to_ends(rows, corners, axis=2), axis=1)
    return _add_to_ends(slope, columns, axis=2)


def _convolve(x: Tensor, kernel: Tensor, rows: int, columns: int) -> Tensor:
    """Convolves depthwise with a kernel (rows · columns · ends, C), where `_ends` defines ends."""
    kernel = ops.reshape(kernel, (rows, columns, -1, 1))
    return ops.depthwise_conv(x, kernel, padding="same")


def _ends(x: Tensor, axis: int) -> Tensor:
    """Returns the first and last row (axis 1) or column (axis 2) of images (B, H, W, C).

    Returns:
        Tensor of shape (B, 1, W, 2C) or (B, H, 1, 2C): the channels of the first line, then those
        of the last line.
    """
    before = (slice(None),) * axis
    return ops.concatenate([x[*before, :1], x[*before, -1:]], axis=-1)


def _add_to_ends(x: Tensor, ends: Tensor, axis: int) -> Tensor:
    """Adds `ends`, in the layout of `_ends`, to the first and last line of x (B, H, W, C)."""
    first, last = ops.split(ends, 2, axis=-1)
    length = ops.shape(x)[axis]
    for position, line in ((0, first), (length - 1, last)):
        if keras.backend.backend() == "tensorflow":
            x = _add_in_place(x, line, axis, position)
        else:
            pads = [(0, 0)] * len(x.shape)
            pads[axis] = (position, length - 1 - position)
            x = x + ops.pad(line, pads)
    return x


def _add_in_place(x: Tensor, line: Tensor, axis: int, position: Any) -> Tensor:
    """Adds `line` to the row or column of x at `position`, without a copy of x.

    TensorFlow overwrites x, so nothing else may use it.
    """
    import tensorflow as tf

    begin, end = [0] * 4, list(ops.shape(x))
    begin[axis], end[axis] = position, position + 1
    line = line + tf.strided_slice(x, begin, end)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=x, begin=begin, end=end, strides=[1] * 4, value=line
    )


def _border_matrices() -> tuple[np.ndarray, np.ndarray]:
    """Returns matrices that map sums over an image, its border lines and its corners to taps.

    Returns:
        (81, 25 + 2 · 5 + 2 · 5 + 4): maps the sums at each lag to products of two taps.
        (9, 1 + 2 + 2 + 4): maps sums of pixels to sums of taps.
    """
    products = np.zeros((TAPS**2, TAPS**2, _PRODUCTS[-1] + 4))
    sums = np.zeros((TAPS**2, _PIXELS[-1] + 4))
    # The border line (0 for the first, 1 for the last) that two taps leave out.
    left_out = {(0, 0): 1, (2, 2): 0}
    for i, j, k, m in np.ndindex((TAPS,) * 4):
        tap, other = TAPS * i + j, TAPS * k + m
        lags = (k - i + TAPS - 1, m - j + TAPS - 1)
        border = left_out.get((i, k)), left_out.get((j, m))
        _count(products[tap, other], _PRODUCTS, LAGS, lags, border)
        if tap == other:
            _count(sums[tap], _PIXELS, 1, (0, 0), border)
    return products.reshape(TAPS**4, -1), sums


def _count(
    counts: np.ndarray,
    parts: np.ndarray,
    side: int,
    lags: tuple[int, int],
    border: tuple[int | None, int | None],
) -> None:
    """Counts the whole image once, minus a border row and a border column, plus their corner."""
    whole, rows, columns, corners = np.split(counts, parts)
    whole[side * lags[0] + lags[1]] = 1
    row, column = border
    if row is not None:
        rows[2 * lags[1] + row] = -1
    if column is not None:
        columns[2 * lags[0] + column] = -1
    if row is not None and column is not None:
        corners[2 * column + row] = 1


# Indices at which the sums over border rows, border columns and corners begin, among the products
# at each lag and among the sums of pixels.
_PRODUCTS = np.cumsum([LAGS**2, 2 * LAGS, 2 * LAGS])
_PIXELS = np.cumsum([1, 2, 2])
_TAP_PRODUCTS, _TAP_SUMS = _border_matrices()  # (81, 49), (9, 9)


def _autocorrelation(z: Tensor, rows: int, columns: int) -> Tensor:
    """Sums z(p) · z(p + d) over images and positions p, where z is zero outside the image.

    Args:
        z: Shape (B, H, W, C).
        rows: Number of lags d along the height, symmetric around zero and therefore odd.
        columns: Number of lags along the width, also odd.

    Returns:
        Tensor of shape (rows, columns, C).
    """
    half = _half_autocorrelation(z, rows // 2, columns // 2)  # (rows, columns // 2 + 1, C)
    # z(p) z(p + d) and z(p) z(p − d) have the same sum.
    return ops.concatenate([ops.flip(half[:, 1:], axis=(0, 1)), half], axis=1)


def _half_autocorrelation(z: Tensor, down: int, right: int) -> Tensor:
    """Computes the autocorrelation at lags (−down, 0) … (down, right): (2 down + 1, right + 1, C).

    The half with few columns is computed, since oneDNN is several times slower with more than
    three.
    """
    rows, columns = 2 * down + 1, right + 1
    padded = ops.pad(z, [(0, 0), (down, down), (0, right), (0, 0)])  # (B, H + 2 down, W + right, C)
    if keras.backend.backend() == "tensorflow":
        return _weight_gradient(padded, z, rows, columns)
    height, width = ops.shape(z)[1:3]
    sums = [
        ops.sum(z * padded[:, i : i + height, j : j + width], axis=(0, 1, 2))  # (C,)
        for i in range(rows)
        for j in range(columns)
    ]
    return ops.reshape(ops.stack(sums), (rows, columns, -1))


def _weight_gradient(inputs: Tensor, outputs: Tensor, rows: int, columns: int) -> Tensor:
    """Computes the gradient of a depthwise kernel, (rows, columns, C), in one pass over the image.

    Entry (i, j) of this gradient is Σ outputs(p) · inputs(p + (i, j)), which is an autocorrelation
    if both are the same image.
    """
    import tensorflow as tf

    gradient = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=inputs,
        filter_sizes=[rows, columns, inputs.shape[-1], 1],
        out_backprop=outputs,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )  # (rows, columns, C, 1)
    return gradient[..., 0]
