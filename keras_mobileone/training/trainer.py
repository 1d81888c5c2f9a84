"""`Trainer`, the Keras model that `fit` trains, wraps a network that returns logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.layers.block import folded_inference
from keras_mobileone.layers.fused_updates import move_average, moved
from keras_mobileone.models.graph import ends_in_softmax
from keras_mobileone.training.recipe import Recipe
from keras_mobileone.training.task import Classification, Task


class Trainer(keras.Model):
    """Trains a network with label smoothing, distillation, averaged weights and exact metrics.

    Args:
        network: Functional model from normalized images to the outputs of the task.
        recipe: Recipe with the label smoothing, the distillation and the decay of the averages.
        teacher: Keras model from normalized images to the same outputs, or None. A classifier may
            return probabilities. The images are resized if it takes another size.
        workers: Number of machines that train together.
        task: What the network computes. By default, it classifies images.
        classes: Number of classes. By default, that of the network's logits.

    Input shape:
        RGB images of shape (batch, height, width, 3) and any dtype, with values in [0, 255]. They
        are normalized on the device.

    Output shape:
        float32 logits of shape (batch, classes), or the outputs of another task.

    The metrics are the plain loss, without smoothing and distillation, and those of the task, which
    for classifiers are top-1 and top-5.
    `averages` contains the moving average of each weight of the network, including BatchNorm
    statistics. After each step, average ← decay · average + (1 − decay) · weight, where the decay
    rises to that of the recipe; see `warmed_up`.
    """

    def __init__(
        self,
        network: keras.Model,
        recipe: Recipe,
        teacher: keras.Model | None = None,
        workers: int = 1,
        task: Task | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(name=f"{network.name}_trainer")
        self.network = network
        self.task: Any = task or Classification()
        self.classes = classes or network.output_shape[-1]
        # Keras (3.15) reduces metrics over the first axis if there are several machines.
        self.metric_shape = (1,) if workers > 1 else ()
        self.smoothing = recipe.label_smoothing
        self.distillation = recipe.distillation
        self.temperature = recipe.temperature
        self.decay: Any = recipe.ema_decay
        self.teacher: Any = teacher
        if teacher is not None:
            teacher.trainable = False
            self.teacher_softmax = isinstance(self.task, Classification) and ends_in_softmax(
                teacher
            )
        self.averages = []
        if self.decay is not None:
            for weight in network.weights:
                average = self.add_weight(
                    shape=weight.shape,
                    dtype=weight.dtype,
                    initializer="zeros",
                    trainable=False,
                    autocast=False,
                    aggregation="only_first_replica",  # all replicas have the same value
                    name="average",
                )
                self.averages.append(average)
            self.reset_averages()
        # The losses and metrics of Keras' `compile` are not used. Its loss is divided by the number
        # of images including the padding of the last validation batch, and its metrics are built by
        # a symbolic call, which is not possible with several workers.
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.task_metrics = self.task.make_metrics(self.classes)
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        images = preprocess_input(images)
        if training:
            return self.task.outputs(self.network, images, training=True)
        with folded_inference():
            return self.task.outputs(self.network, images, training=False)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool | None = True,
    ) -> Any:
        """Returns the mean loss, with smoothing and distillation during training."""
        losses = self.image_losses(x, y, y_pred, training)
        if not len(losses.shape):
            # A mean over what the batch of this replica contains, such as its objects.
            if replicas() == 1:
                return losses
            weight = self.task.loss_weight(y, sample_weight)
            return losses * weight / ops.maximum(sum_over_replicas(weight), 1)
        if sample_weight is not None:
            losses = losses * sample_weight
        return ops.mean(losses) / replicas()

    def image_losses(self, images: Any, labels: Any, logits: Any, training: bool | None) -> Any:
        """Returns the losses of the images, shape (batch,), or the loss of the batch, shape ()."""
        losses = self.task.losses(labels, logits, self.smoothing if training else 0.0)
        if self.teacher is None or not training:
            return losses
        divergence = self.task.divergence(self.teacher_logits(images), logits, self.temperature)
        # The factor T² preserves the size of the gradient (Hinton et al., arXiv 1503.02531, section
        # 2).
        soft = self.temperature**2 * divergence
        return (1 - self.distillation) * losses + self.distillation * soft

    def teacher_logits(self, images: Any) -> Any:
        """Returns the teacher's float32 logits without gradient, in the shape of the student's."""
        images = preprocess_input(images)
        wanted = tuple(images.shape[1:3])
        size = self.teacher.input_shape[1:3]
        if None not in size and size != wanted:
            images = ops.image.resize(images, size, antialias=True)
        outputs = self.teacher(images, training=False)
        outputs = keras.tree.map_structure(lambda tensor: ops.cast(tensor, "float32"), outputs)
        if self.teacher_softmax:
            outputs = ops.log(ops.maximum(outputs, keras.config.epsilon()))
        outputs = self.task.teacher_outputs(outputs, wanted)
        return keras.tree.map_structure(ops.stop_gradient, outputs)

    @property
    def metrics(self) -> list:
        return [self.loss_mean, *self.task_metrics]

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict:
        self.loss_mean.update_state(
            self.image_losses(x, y, y_pred, training=False),
            sample_weight=self.task.loss_weight(y, sample_weight),
        )
        self.task.update_metrics(self.task_metrics, y, y_pred, sample_weight)
        return {
            metric.name: ops.reshape(metric.result(), self.metric_shape) for metric in self.metrics
        }

    def train_step(self, *arguments: Any) -> Any:
        """Runs a training step of the backend's trainer, then updates the averages."""
        outputs = super().train_step(*arguments)
        if not self.averages:
            return outputs
        if keras.backend.backend() != "jax":
            decay = warmed_up(self.decay, self.optimizer.iterations)
            for average, weight in zip(self.averages, self.network.weights, strict=True):
                move_average(average, weight, decay)
            return outputs
        logs, (trainable, fixed, *rest) = outputs
        optimizer = dict(zip(map(id, self.optimizer.variables), rest[0], strict=True))
        decay = warmed_up(self.decay, optimizer[id(self.optimizer.iterations)])
        values = dict(zip(map(id, self.trainable_variables), trainable, strict=True))
        values |= zip(map(id, self.non_trainable_variables), fixed, strict=True)
        for average, weight in zip(self.averages, self.network.weights, strict=True):
            values[id(average)] = moved(values[id(average)], values[id(weight)], decay)
        return logs, (trainable, [values[id(v)] for v in self.non_trainable_variables], *rest)

    def reset_averages(self) -> None:
        """Sets the averages, if the recipe has any, to the current weights."""
        if not self.averages:
            return
        for average, weight in zip(self.averages, self.network.weights, strict=True):
            # A copy, because JAX would share the buffer.
            average.assign(np.array(ops.convert_to_numpy(weight)))

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Temporarily swaps in the averaged (EMA) weights."""
        before = self.network.get_weights()
        self.network.set_weights([ops.convert_to_numpy(average) for average in self.averages])
        try:
            yield
        finally:
            self.network.set_weights(before)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras (3.15) would reduce a batch over the replicas here, which
        # MultiWorkerMirroredStrategy does not allow. All layers are already built at this point.
        pass


def warmed_up(decay: float, steps: Any) -> Any:
    """Returns the decay of the averages after so many steps, which rises to `decay`.

    It is at most (1 + steps) / (10 + steps), as in
    [tf.train.ExponentialMovingAverage](https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage),
    so that the averages span at most a ninth of the run. Otherwise those of a short run, which are
    what it returns, would still contain the weights that it began with, and above all the initial
    variances of 1 of batch normalization, which may be hundreds of times larger than the true ones.
    """
    done = ops.cast(steps, "float32")
    return ops.minimum(decay, (1 + done) / (10 + done))


def replicas() -> int:
    """Returns the number of replicas over which the gradients of a step are summed."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value: Any) -> Any:
    """Returns the sum of a tensor over all replicas of `tf.distribute`, within a step."""
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
