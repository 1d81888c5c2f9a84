"""Training all branches of a pointwise block through one convolution, exactly.

A branch b of a 1×1 block is γ_b · (W_bᵀx − mean_b) / √(var_b + ε) + β_b. Over a batch, with m the
mean of x over images and positions and Σ its covariance,

    mean_b = W_bᵀ m        var_b = diag(W_bᵀ Σ W_b)

and for the skip branch, where W is the identity, m and diag Σ. So the statistics of every branch
follow from two moments of the input, none needs its own output, and all of them sum up to one
convolution of the centred input:

    Σ_b branch_b = (Σ_b W_b · γ_b / √(var_b + ε))ᵀ (x − m) + Σ_b β_b

Gradients come from automatic differentiation of the same expressions. For n positions, c channels
and f filters, forward and backward cost about n(2c² + 3cf) multiplications instead of 3kncf, and
neither the outputs of the k branches nor their gradients are ever stored.
"""

import keras
from keras import ops


def fold_branches(inputs, convs, norms, skip_norm=None, synchronized: bool = False):
    """One convolution that does what the branches of a pointwise block do in training mode.

    The moving statistics of the norms are updated as by a training step.

    Args:
        inputs: (batch, height, width, channels), any floating point.
        convs: Branches' `Conv2D` layers, 1×1 without bias.
        norms: Their `BatchNormalization` layers.
        skip_norm: That of the skip branch, or None.
        synchronized: Statistics over all replicas of a `tf.distribute` strategy.

    Returns:
        (centred, kernel, bias): inputs less their mean, in the same shape and dtype;
        (1, 1, channels, filters) and (filters,) float32.
    """
    # Statistics in float32 at least, also in mixed precision.
    dtype = keras.backend.result_type(inputs.dtype, "float32")
    centred, mean, covariance = moments(ops.cast(inputs, dtype), synchronized)
    kernel = bias = 0.0
    for conv, norm in zip(convs, norms, strict=True):
        weights = ops.cast(conv.kernel, dtype)[0, 0]
        # E[(Wᵀx)²] without a matrix of filters by filters.
        variance = ops.sum(weights * ops.matmul(covariance, weights), axis=0)
        kernel = kernel + weights * _scale(norm, variance)
        bias = bias + ops.cast(norm.beta, dtype)
        track(norm, ops.matmul(mean, weights), variance)
    if skip_norm is not None:
        variance = ops.diagonal(covariance)
        kernel = kernel + ops.diag(_scale(skip_norm, variance))
        bias = bias + ops.cast(skip_norm.beta, dtype)
        track(skip_norm, mean, variance)
    return ops.cast(centred, inputs.dtype), kernel[None, None], bias


def pays(channels: int, filters: int, branches: int) -> bool:
    """Whether one convolution and the moments cost fewer multiplications than the branches."""
    return 2 * channels + 3 * filters < 3 * branches * filters


def moments(inputs, synchronized: bool):
    """Centred inputs, their mean (channels,) and covariance (channels, channels).

    Of the centred input, not of squares less the squared mean, which would lose a small variance
    beside a large mean.
    """
    channels = inputs.shape[-1]
    flat = ops.reshape(inputs, (-1, channels))
    total, count = ops.sum(flat, axis=0), ops.cast(ops.shape(flat)[0], inputs.dtype)
    if synchronized:
        total, count = _over_replicas(total), _over_replicas(count)
    mean = total / count
    centred = flat - mean
    products = ops.matmul(ops.transpose(centred), centred)
    if synchronized:
        products = _over_replicas(products)
    return ops.reshape(centred, ops.shape(inputs)), mean, products / count


def track(norm, mean, variance) -> None:
    """Moves the moving statistics of a norm towards those of a batch."""
    for moving, value in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
        value = ops.cast(value, moving.dtype)
        moving.assign(moving * norm.momentum + value * (1 - norm.momentum))


def _scale(norm, variance):
    return ops.cast(norm.gamma, variance.dtype) / ops.sqrt(variance + norm.epsilon)


def _over_replicas(tensor):
    """The sum over the replicas; what Keras' own synchronized BatchNormalization does."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return tensor if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)
