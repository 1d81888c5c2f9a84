"""Updates of variables by one TensorFlow operator instead of half a dozen.

S0 has 1,097 variables with a velocity, an average, or a batch's statistics to move towards in each
step; with images of 32 pixels such operators were half of the step.
"""

from typing import Any

import keras
from keras import ops

Tensor = Any  # a tensor or variable of Keras' backend


def move_average(average: Tensor, value: Tensor, decay: float) -> None:
    """Assigns decay · average + (1 − decay) · value to `average`.

    It subtracts a difference, so that an average that has reached its value does not change.

    Args:
        average: Variable.
        value: Tensor or variable of its shape and dtype.
        decay: In [0, 1].
    """
    resource = resource_of(average)
    if resource is None:
        average.assign(moved(average, value, decay))
        return
    import tensorflow as tf

    tf.raw_ops.ResourceApplyGradientDescent(
        var=resource,
        alpha=tf.constant(1 - decay, average.dtype),
        delta=ops.subtract(average, value),
    )


def moved(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """The tensor that `move_average` assigns."""
    return average - (1 - decay) * (average - value)


def resource_of(variable: Tensor) -> Tensor | None:
    """The handle of the one TensorFlow variable behind `variable`.

    None on other backends, and under a `tf.distribute` strategy, which may keep copies.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if tf.distribute.has_strategy():
        return None
    # Keras' optimizer hands the inner one to `update_step`.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
