"""SGD as in PyTorch, and the schedules of its learning rate and weight decay."""

from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from keras_mobileone.compat import variable_index
from keras_mobileone.errors import InputValueError
from keras_mobileone.layers.fused_updates import resource_of
from keras_mobileone.training.muon import Muon
from keras_mobileone.training.recipe import Recipe

# The weight decay of the step that `SGD.apply` is computing. An attribute of the optimizer would
# keep a tensor of a finished trace.
_STEP_DECAY: ContextVar = ContextVar("step_decay", default=None)


@keras.saving.register_keras_serializable(package="keras_mobileone")
class SGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with the momentum and weight decay of PyTorch.

    The update of a variable w with gradient g is v ← momentum · v + g + decay · w and then w ← w −
    rate · v. The SGD of Keras applies the decay outside the momentum, which makes the same value
    ten times weaker at momentum 0.9, and applies the learning rate inside it. Variables with one
    axis (biases, BatchNorm's gamma and beta) are not decayed.

    Reference: [torch.optim.SGD](https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html).

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Momentum, in [0, 1).
        decay: Weight decay: a float, or a schedule that is called with the number of steps done.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`, except `weight_decay`.

    Examples:
        >>> optimizer = SGD(0.1, momentum=0.9, decay=1e-4)
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        decay: Any = 0.0,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("weight_decay", None) is not None:
            raise InputValueError(
                "The `weight_decay` of Keras has a different meaning. Use `decay`."
            )
        if not 0 <= momentum < 1:
            raise InputValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}.")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.decay = decay

    def build(self, variables: list) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        # The decay is computed once for all variables, because a schedule is two dozen operators.
        # It is a tensor of the step that is being traced, and must not be kept after the step.
        step_decay = _STEP_DECAY.set(self.current_decay())
        try:
            return super().apply(grads, trainable_variables)
        finally:
            _STEP_DECAY.reset(step_decay)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = ops.cast(gradient, variable.dtype)
        if len(variable.shape) > 1:
            decay = _STEP_DECAY.get()
            decay = self.current_decay() if decay is None else decay
            gradient = gradient + ops.cast(decay, variable.dtype) * variable
        velocity = self.velocities[variable_index(self, variable)]
        rate, momentum = (ops.cast(x, variable.dtype) for x in (learning_rate, self.momentum))
        resources = resource_of(variable), resource_of(velocity)
        if None in resources:
            self.assign(velocity, momentum * velocity + gradient)
            self.assign_sub(variable, rate * velocity)
            return
        import tensorflow as tf

        tf.raw_ops.ResourceApplyMomentum(
            var=resources[0], accum=resources[1], lr=rate, grad=gradient, momentum=momentum
        )

    def current_decay(self) -> Any:
        """Returns the weight decay of the next step, which must be read while the step runs."""
        return self.decay(self.iterations) if callable(self.decay) else self.decay

    def get_config(self) -> dict:
        config = super().get_config()
        del config["weight_decay"]
        decay = self.decay
        if isinstance(decay, keras.optimizers.schedules.LearningRateSchedule):
            decay = keras.optimizers.schedules.serialize(decay)
        return {**config, "momentum": self.momentum, "decay": decay}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "SGD":
        config = dict(config)
        if isinstance(config["decay"], dict):
            config["decay"] = keras.optimizers.schedules.deserialize(
                config["decay"], custom_objects
            )
        return super().from_config(config, custom_objects)


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns a recipe's optimizer for a training of `recipe.epochs` · `steps_per_epoch` steps.

    The learning rate rises linearly to its peak during the warm-up, and then falls as a half cosine
    to 0. The weight decay of SGD falls as a half cosine over the whole training.
    """
    steps = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    peak = recipe.peak_learning_rate
    if warmup:
        rate = keras.optimizers.schedules.CosineDecay(
            peak * recipe.warmup_factor, steps - warmup, warmup_target=peak, warmup_steps=warmup
        )
    else:
        rate = keras.optimizers.schedules.CosineDecay(peak, steps)
    if recipe.optimizer == "muon":
        return Muon(rate, recipe.momentum, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
    decay = recipe.weight_decay
    if recipe.final_weight_decay != decay:
        decay = keras.optimizers.schedules.CosineDecay(
            decay, steps, alpha=recipe.final_weight_decay / decay
        )
    return SGD(rate, recipe.momentum, decay)
