"""Muon, an optimizer whose updates of a kernel have the same size in all directions."""

from typing import Any

import keras
from keras import ops

from keras_mobileone.compat import variable_index
from keras_mobileone.errors import InputValueError

Tensor = Any  # a tensor of Keras' backend

# The quintic iteration of the reference and its number of steps. It raises the singular values of
# a matrix to about 1: those from 0.002 to 1 end between 0.68 and 1.21.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_BETAS = (0.9, 0.99)
TINY = 1e-7


@keras.saving.register_keras_serializable(package="keras_mobileone")
class Muon(keras.optimizers.Optimizer):
    """Momentum whose update is orthogonalized for each kernel of a convolution.

    The kernel of a convolution is a matrix with one column for each output channel. Its update is
    the nearest matrix to the momentum with orthonormal rows or columns, so that directions with
    small gradients are learned as fast as those with large ones. A depthwise kernel consists of one
    column for each channel, whose update has norm 1; if it has only one weight for each channel,
    that weight has no direction, and is updated by its momentum as it is. All other variables (the
    dense classifier, biases, BatchNorm's gamma and beta) are updated by Adam, with `adam_ratio`
    times the learning rate. `keras.optimizers.Muon` updates kernels of convolutions by Adam, too.

    Reference: [Muon](https://kellerjordan.github.io/posts/muon/).

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`. An update has the
            spectral norm 1 times the learning rate.
        momentum: Momentum of the kernels, in [0, 1).
        adam_ratio: Learning rate of the other variables divided by `learning_rate`.
        weight_decay: Decoupled weight decay of the orthogonalized kernels and of dense kernels,
            times the learning rate in each step; or None.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If `momentum` is out of range.

    Examples:
        >>> optimizer = Muon(0.03, momentum=0.9, weight_decay=0.03)
    """

    def __init__(
        self,
        learning_rate: Any = 0.03,
        momentum: float = 0.9,
        adam_ratio: float = 0.05,
        weight_decay: float | None = None,
        name: str = "muon",
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1:
            raise InputValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}.")
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        self.momentum = momentum
        self.adam_ratio = adam_ratio

    def build(self, variables: list) -> None:
        if self.built:
            return
        super().build(variables)
        self.exclude_from_weight_decay(
            [v for v in variables if len(v.shape) < 2 or (is_kernel(v) and not has_direction(v))]
        )
        self.momentums = self.add_optimizer_variables(variables, "momentum")
        self.squares = [
            None if is_kernel(variable) else self.add_variable_from_reference(variable, "square")
            for variable in variables
        ]

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        gradient = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        index = variable_index(self, variable)
        momentum, square = self.momentums[index], self.squares[index]
        if square is None:
            moved = self.momentum * momentum + gradient
            self.assign(momentum, moved)
            update = gradient + self.momentum * moved  # Nesterov's momentum
            if has_direction(variable):
                update = orthogonal_kernel(update)
        else:
            rate = self.adam_ratio * rate
            update = self.adam_update(gradient, momentum, square)
        self.assign_sub(variable, rate * update)

    def adam_update(self, gradient: Tensor, mean: Any, square: Any) -> Tensor:
        """Updates the moments of a gradient and returns Adam's update for a learning rate of 1."""
        step = ops.cast(self.iterations + 1, gradient.dtype)
        estimates = []
        pairs = zip((mean, square), (gradient, ops.square(gradient)), ADAM_BETAS, strict=True)
        for moment, value, beta in pairs:
            moved = beta * moment + (1 - beta) * value
            self.assign(moment, moved)
            estimates.append(moved / (1 - ops.power(ops.cast(beta, gradient.dtype), step)))
        return estimates[0] / (ops.sqrt(estimates[1]) + TINY)

    def get_config(self) -> dict:
        config = super().get_config()
        return {**config, "momentum": self.momentum, "adam_ratio": self.adam_ratio}


def is_kernel(variable: Any) -> bool:
    """Returns whether a variable is the kernel of a convolution."""
    return len(variable.shape) == 4


def has_direction(kernel: Any) -> bool:
    """Returns whether a kernel has more than one weight for each channel.

    Batch normalization cancels the size of a single weight, whose gradient is then mere rounding.
    """
    height, width, _, outputs = kernel.shape
    return height * width > 1 or outputs > 1


def orthogonal_kernel(update: Tensor) -> Tensor:
    """Returns the orthogonalized update of the kernel of a convolution.

    Args:
        update: Tensor of shape (height, width, input channels, output channels). If there is only
            one output channel, it is the kernel of a depthwise convolution.

    Returns:
        A tensor of the same shape.
    """
    height, width, inputs, outputs = update.shape
    if outputs == 1:
        norm = ops.sqrt(ops.sum(ops.square(update), axis=(0, 1), keepdims=True))
        return update / (norm + TINY)
    matrix = orthogonalize(ops.reshape(update, (height * width * inputs, outputs)))
    return ops.reshape(matrix, update.shape)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Returns the nearest matrix with orthonormal rows or columns, roughly.

    Args:
        matrix: Tensor of shape (rows, columns).

    Returns:
        A tensor of the same shape with the singular vectors of `matrix`, and singular values of
        about 1; see `QUINTIC`.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return ops.transpose(orthogonalize(ops.transpose(matrix)))
    a, b, c = QUINTIC
    matrix = matrix / (ops.norm(matrix) + TINY)
    for _ in range(ITERATIONS):
        gram = ops.matmul(matrix, ops.transpose(matrix))
        matrix = a * matrix + ops.matmul(b * gram + c * ops.matmul(gram, gram), matrix)
    return matrix
