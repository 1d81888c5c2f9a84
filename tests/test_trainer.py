"""Tests the trainer's step against NumPy: loss, metrics, averages, distillation, checkpoints."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.layers.block import MobileOneBlock
from keras_mobileone.training.callbacks import validate
from keras_mobileone.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from keras_mobileone.training.optimizer import make_optimizer
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.training.trainer import Trainer, warmed_up
from keras_mobileone.variants import S0

CLASSES = 7
BATCH = 8
RECIPE = Recipe(
    "test", S0, 4, (Phase(0, 32),), BATCH, learning_rate=1.0, warmup_epochs=1, ema_decay=0.8
)


def make(recipe=RECIPE, teacher=None, steps_per_epoch=3, filters=8) -> Trainer:
    """Returns a trainer of a network with one block, since the trainer takes any classifier."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    x = MobileOneBlock(filters, strides=2)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    trainer = Trainer(network, recipe, teacher)
    trainer.compile(make_optimizer(recipe, steps_per_epoch))
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer


@pytest.fixture(scope="module")
def data():
    """Returns (images, labels) of four batches."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (4 * BATCH, 32, 32, 3)).astype(np.uint8)
    return images, rng.integers(0, CLASSES, 4 * BATCH)


def batches(data, start=0, repeat=True):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(data).batch(BATCH)
    return dataset.repeat().skip(start) if repeat else dataset


def fit(trainer, data, steps, start=0, **options):
    return trainer.fit(
        batches(data, start), steps_per_epoch=steps, shuffle=False, verbose=0, **options
    )


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def weights_of(trainer) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(w)) for w in trainer.network.weights]


def test_images_are_normalized_on_the_device(data):
    trainer = make()
    found = trainer(data[0][:4], training=False)
    expected = trainer.network(preprocess_input(data[0][:4]), training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_loss_is_smoothed_in_training_only(data):
    trainer = make()
    images, labels = data[0][:BATCH], data[1][:BATCH]
    logits = 20 * keras.ops.convert_to_numpy(trainer(images, training=False))
    targets = np.full((BATCH, CLASSES), 0.1 / CLASSES)
    targets[np.arange(BATCH), labels] += 0.9
    smoothed = -(targets * log_softmax(logits)).sum(1).mean()
    plain = -log_softmax(logits)[np.arange(BATCH), labels].mean()
    for training, expected in ((True, smoothed), (False, plain)):
        found = trainer.compute_loss(images, labels, logits, training=training)
        assert float(found) == pytest.approx(expected, rel=1e-5)
    assert abs(smoothed - plain) > 1e-3


@pytest.mark.parametrize("form", ["logits", "softmax"])
def test_distillation_follows_hinton(data, form):
    """The loss is (1 − a) · cross-entropy + a · T² · KL(teacher ‖ student) at temperature T."""
    recipe = dataclasses.replace(RECIPE, distillation=0.7, temperature=3.0, label_smoothing=0.0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    activation = None if form == "logits" else "softmax"
    teacher = keras.Model(inputs, keras.layers.Dense(CLASSES, activation=activation)(x))
    trainer = make(recipe, teacher)
    images, labels = data[0][:BATCH], data[1][:BATCH]
    logits = keras.ops.convert_to_numpy(trainer(images, training=False))
    teaching = keras.ops.convert_to_numpy(teacher(preprocess_input(images)))
    if form == "softmax":
        teaching = np.log(teaching)
    soft, student = log_softmax(teaching / 3), log_softmax(logits / 3)
    divergence = (np.exp(soft) * (soft - student)).sum(1).mean()
    plain = -log_softmax(logits)[np.arange(BATCH), labels].mean()
    found = trainer.compute_loss(images, labels, logits, training=True)
    assert float(found) == pytest.approx(0.3 * plain + 0.7 * 9 * divergence, rel=1e-4)
    before = [w.numpy() for w in teacher.weights]
    fit(trainer, data, 2)
    for old, new in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_teacher_of_another_size_sees_resized_images(data):
    recipe = dataclasses.replace(RECIPE, distillation=0.5)
    inputs = keras.Input((48, 48, 3))
    outputs = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(inputs))
    trainer = make(recipe, keras.Model(inputs, outputs))
    assert trainer.teacher_logits(data[0][:2]).shape == (2, CLASSES)


def test_averages_follow_every_weight(data):
    """BatchNorm's moving statistics are also averaged after each step; the decay rises to 0.3."""
    trainer = make(dataclasses.replace(RECIPE, ema_decay=0.3))
    expected = weights_of(trainer)

    class Follow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            decay = (2 / 11, 3 / 12, 0.3, 0.3, 0.3)[batch]
            pairs = zip(expected, weights_of(self.model), strict=True)
            expected[:] = [decay * average + (1 - decay) * weight for average, weight in pairs]

    fit(trainer, data, 5, callbacks=[Follow()])
    names = [w.path for w in trainer.network.weights]
    assert any("moving_variance" in name for name in names)
    for name, average, wanted in zip(names, trainer.averages, expected, strict=True):
        np.testing.assert_allclose(average.numpy(), wanted, rtol=1e-4, atol=1e-6, err_msg=name)
    before = weights_of(trainer)
    with trainer.averaged_weights():
        for weight, average in zip(trainer.network.weights, trainer.averages, strict=True):
            np.testing.assert_array_equal(weight.numpy(), average.numpy())
    for weight, old in zip(weights_of(trainer), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_metrics_leave_padding_out(data):
    """Images of weight 0, as in the last validation batch, do not count in loss, top-1 or top-5."""
    trainer = make()
    images, labels = data
    real = 20
    weights = (np.arange(len(labels)) < real).astype(np.float32)
    logs = validate(trainer, batches((images, labels, weights), repeat=False), steps=4)
    logits = keras.ops.convert_to_numpy(trainer(images[:real], training=False))
    order = np.argsort(-logits, 1)
    hits = order == labels[:real, None]
    loss = -log_softmax(logits)[np.arange(real), labels[:real]].mean()
    assert logs["val_loss"] == pytest.approx(loss, rel=1e-4)
    assert logs["val_top1"] == pytest.approx(hits[:, 0].mean(), abs=1e-6)
    assert logs["val_top5"] == pytest.approx(hits[:, :5].any(1).mean(), abs=1e-6)
    assert logs["val_average_loss"] == pytest.approx(loss, rel=1e-4)  # they start equal


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_checkpoint_restores_everything(optimizer, data, tmp_path):
    """Weights, averages, momentum and schedules are restored: the next steps are the same."""
    path = tmp_path / "state.safetensors"
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    unbroken = make(recipe)
    fit(unbroken, data, 3)
    save_checkpoint(path, unbroken, Progress(3, [{"epoch": 1, "loss": 2.0}]))
    fit(unbroken, data, 3, start=3)
    resumed = make(recipe)
    progress = load_checkpoint(path, resumed)
    assert progress == Progress(3, [{"epoch": 1, "loss": 2.0}])
    assert int(resumed.optimizer.iterations) == 3
    fit(resumed, data, 3, start=3)
    for a, b in zip(weights_of(unbroken), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(unbroken.averages, resumed.averages, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_checkpoint_is_whole_or_absent(data, tmp_path):
    path = tmp_path / "state.safetensors"
    trainer = make()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_checkpoint(path, trainer)
    save_checkpoint(path, trainer, Progress(1))
    whole = path.read_bytes()
    trainer.network.weights[0].assign(np.full(trainer.network.weights[0].shape, np.nan))
    save_checkpoint(path, trainer, Progress(2))
    assert path.read_bytes() == whole, "weights that are not finite replaced good ones"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path, make())
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="other shapes"):
        load_checkpoint(path, make(filters=9))


def test_size_change_keeps_the_state(data):
    """In the curriculum, larger images continue with the same optimizer, averages and schedules."""
    trainer = make()
    fit(trainer, data, 2)
    momentum = [v.numpy() for v in trainer.optimizer.velocities]
    assert any(np.abs(v).max() > 0 for v in momentum)
    larger = (np.repeat(np.repeat(data[0], 2, 1), 2, 2), data[1])
    fit(trainer, larger, 2)
    assert int(trainer.optimizer.iterations) == 4
    assert trainer(larger[0][:2]).shape == (2, CLASSES)


def test_averages_forget_the_initial_weights():
    """A run of 24 steps with a decay of 0.998 returned what it began with.

    A tenth of a percent of the initial variances of BatchNorm is still too much for features with a
    variance of 0.001.
    """
    decays = [float(warmed_up(0.998, step)) for step in range(1, 10_000)]
    assert np.prod(decays[:24]) < 1e-5
    assert decays == sorted(decays) and decays[-1] == pytest.approx(0.998)


def test_without_averages(data):
    """With `ema_decay=None` there are no averages to reset, and the step is the same."""
    trainer = make(dataclasses.replace(RECIPE, ema_decay=None))
    trainer.reset_averages()
    fit(trainer, data, 1)
    assert trainer.averages == []
