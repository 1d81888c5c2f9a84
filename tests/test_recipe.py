"""Tests recipes, and their optimizer and schedules."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from keras_mobileone.training.optimizer import SGD, make_optimizer
from keras_mobileone.training.recipe import RECIPES, Phase, Recipe, get_recipe
from keras_mobileone.variants import S0, S2

STEPS_PER_EPOCH = 7


def cosine(start, end, done):
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * done))


def at(schedule, step) -> float:
    return float(keras.ops.convert_to_numpy(schedule(step)))


@pytest.fixture
def recipe() -> Recipe:
    phases = (Phase(0, 64, 0.3), Phase(4, 96, 0.7), Phase(10, 128))
    return Recipe("mine", S0, 20, phases, batch_size=64, learning_rate=0.2, warmup_epochs=3)


def test_papers_recipe():
    """The recipe is that of section 4.1 of the paper, with details of mmpretrain's retraining."""
    s0, s2 = RECIPES["s0"], RECIPES["s2"]
    assert (s0.epochs, s0.batch_size, s0.learning_rate, s0.momentum) == (300, 256, 0.1, 0.9)
    assert (s0.weight_decay, s0.final_weight_decay) == (1e-4, 1e-5)
    assert (s0.label_smoothing, s0.ema_decay, s0.augmentation) == (0.1, 0.9995, None)
    assert [(p.start, p.image_size, p.strength) for p in s2.phases] == [
        (0, 160, 0.3),
        (37, 192, 0.7),
        (112, 224, 1.0),
    ]
    assert s2.variant == S2 and s2.augmentation == "autoaugment"
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert name in recipe.command or name == "finetune"
        assert recipe.expected_time and recipe.expected_accuracy


def test_learning_rate_follows_the_formula(recipe):
    rate = make_optimizer(recipe, STEPS_PER_EPOCH)._learning_rate
    peak = 0.2 * 64 / 256
    warmup, total = 3 * STEPS_PER_EPOCH, 20 * STEPS_PER_EPOCH
    for step in range(0, total + 1, 5):
        if step < warmup:
            expected = peak * (1e-3 + (1 - 1e-3) * step / warmup)
        else:
            expected = cosine(peak, 0, (step - warmup) / (total - warmup))
        assert at(rate, step) == pytest.approx(expected, rel=1e-4, abs=1e-8)
    no_warmup = dataclasses.replace(recipe, warmup_epochs=0)
    rate = make_optimizer(no_warmup, STEPS_PER_EPOCH)._learning_rate
    assert at(rate, 0) == pytest.approx(peak)
    assert at(rate, total // 2) == pytest.approx(peak / 2)


def test_weight_decay_follows_the_formula(recipe):
    decay = make_optimizer(recipe, STEPS_PER_EPOCH).decay
    total = 20 * STEPS_PER_EPOCH
    for step in (0, 1, 33, total // 2, total - 1, total):
        assert at(decay, step) == pytest.approx(cosine(1e-4, 1e-5, step / total), rel=1e-4)


def test_weight_decay_means_what_pytorch_means():
    """A weight without gradient is 0.7455 after 300 steps in PyTorch and 0.9704 with Keras' SGD."""
    kernel = keras.Variable(np.ones((1, 1), "float32"))
    bias = keras.Variable(np.ones(1, "float32"))
    optimizer = SGD(0.1, momentum=0.9, decay=1e-3)
    optimizer.build([kernel, bias])
    w, v = 1.0, 0.0
    for _ in range(300):
        optimizer.apply([keras.ops.zeros((1, 1)), keras.ops.zeros(1)])
        v = 0.9 * v + 1e-3 * w
        w -= 0.1 * v
    assert float(kernel.numpy()[0, 0]) == pytest.approx(w, rel=1e-5)
    assert float(kernel.numpy()[0, 0]) == pytest.approx(0.7455, abs=2e-4)
    assert float(bias.numpy()[0]) == 1.0


def test_a_step_is_pytorchs(noise):
    """The rate is applied outside the momentum buffer, which matters when the rate changes."""
    start, gradients = noise(3, 2), [noise(3, 2, seed=i) for i in range(1, 6)]
    rates = [0.5, 0.4, 0.1, 0.3, 0.2]
    variable = keras.Variable(start)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2, 3], rates)
    optimizer = SGD(schedule, momentum=0.8, decay=0.01)
    optimizer.build([variable])
    w, v = start.astype(np.float64), np.zeros((3, 2))
    for step, gradient in enumerate(gradients):
        rate = at(schedule, step)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        v = 0.8 * v + gradient + 0.01 * w
        w = w - rate * v
    np.testing.assert_allclose(variable.numpy(), w, rtol=1e-5)


def test_decay_anneals_inside_a_compiled_step():
    """A float would become a constant when the step is traced."""
    import tensorflow as tf

    variable = keras.Variable(np.ones((1, 1), "float32"))
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.0])
    optimizer = SGD(0.5, momentum=0.0, decay=schedule)
    optimizer.build([variable])
    step = tf.function(lambda: optimizer.apply([tf.zeros((1, 1))]))
    step()
    assert float(variable.numpy()[0, 0]) == 0.5  # decayed by 0.5 · 1
    step()
    assert float(variable.numpy()[0, 0]) == 0.5  # and no more


def test_optimizer_survives_serialization(recipe):
    optimizer = make_optimizer(recipe, STEPS_PER_EPOCH)
    copy = SGD.from_config(optimizer.get_config())
    assert copy.get_config() == optimizer.get_config()
    assert at(copy.decay, 50) == at(optimizer.decay, 50)
    with pytest.raises(ValueError, match="Use `decay`"):
        SGD(0.1, weight_decay=1e-4)


def test_phases(recipe):
    assert [recipe.phase(epoch).image_size for epoch in (0, 3, 4, 9, 10, 19)] == [
        64,
        64,
        96,
        96,
        128,
        128,
    ]
    assert recipe.image_size == 128


def test_with_epochs_stretches_warmup_and_phases(recipe):
    longer = recipe.with_epochs(40)
    assert [phase.start for phase in longer.phases] == [0, 8, 20]
    assert longer.warmup_epochs == 6
    shortest = recipe.with_epochs(1)
    assert [(p.start, p.image_size) for p in shortest.phases] == [(0, 128)]
    assert shortest.warmup_epochs < 1


def test_changed(recipe):
    changed = recipe.changed(["learning_rate=0.5", "augmentation=randaugment", "ema_decay=null"])
    assert (changed.learning_rate, changed.augmentation, changed.ema_decay) == (
        0.5,
        "randaugment",
        None,
    )
    assert recipe.changed(["image_size=160"]).phases == (Phase(0, 160),)
    assert recipe.changed(["variant=s2"]).variant == S2
    assert recipe.changed(["crop_area=[0.5, 1]"]).crop_area == (0.5, 1)


@pytest.mark.parametrize(
    "setting, words",
    [
        ("learning_rat=1", "Expected NAME=VALUE with one of"),
        ("learning_rate", "Expected NAME=VALUE"),
        ("learning_rate=fast", "Expected a number"),
        ("epochs=1.5", "whole number"),
        ("learning_rate=-1", "out of range"),
        ("augmentation=mixup", "out of range"),
        ("image_size=8", "at least 32"),
        ("variant=s9", "must be one of"),
        ("crop_area=0.5", "crop_area"),
    ],
)
def test_wrong_settings(recipe, setting, words):
    with pytest.raises(ValueError, match=words):
        recipe.changed([setting])


def test_saved_recipe_comes_back(recipe, tmp_path):
    path = tmp_path / "recipe.json"
    recipe.save(path)
    assert get_recipe(path) == recipe
    assert get_recipe("s0") is RECIPES["s0"]


def test_what_is_no_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a recipe \(s0, "):
        get_recipe("s7")
    for content in ("{", "[]", json.dumps({"name": "x"}), json.dumps({"variant": 1})):
        path = tmp_path / "bad.json"
        path.write_text(content)
        with pytest.raises(ValueError, match="Expected a recipe as"):
            get_recipe(path)
