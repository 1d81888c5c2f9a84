"""Tests Muon against NumPy and against Keras' Adam."""

import keras
import numpy as np
import pytest

from keras_mobileone.training.muon import Muon, orthogonalize
from keras_mobileone.training.optimizer import make_optimizer
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.variants import S0

RATE, MOMENTUM, DECAY = 0.1, 0.8, 0.2


def step(optimizer: Muon, *gradients: np.ndarray) -> None:
    optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients])


def built(*starts: np.ndarray, **options) -> tuple[Muon, list[keras.Variable]]:
    """Returns an optimizer and its variables."""
    variables = [keras.Variable(start) for start in starts]
    optimizer = Muon(RATE, MOMENTUM, **options)
    optimizer.build(variables)
    return optimizer, variables


@pytest.mark.parametrize("shape", [(5, 5), (27, 12), (12, 40)])
def test_orthogonalized_matrix_keeps_the_singular_vectors(shape, noise):
    u, _, v = np.linalg.svd(noise(*shape), full_matrices=False)
    values = np.geomspace(1, 0.02, min(shape))
    found = np.array(orthogonalize(keras.ops.convert_to_tensor(u * values @ v)))
    rotated = u.T @ found @ v.T
    assert np.diag(rotated).min() > 0.6 and np.diag(rotated).max() < 1.3
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-4)


def test_zero_gradient_changes_nothing(noise):
    optimizer, variables = built(noise(1, 1, 4, 6), noise(3, 3, 4, 1), noise(4))
    before = [variable.numpy() for variable in variables]
    step(optimizer, *map(np.zeros_like, before))
    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_kernels_follow_nesterovs_momentum_and_decay(noise):
    """The matrix of a kernel has one column for each output channel."""
    start, gradients = noise(3, 3, 4, 8), [noise(3, 3, 4, 8, seed=i) for i in (1, 2, 3)]
    optimizer, [kernel] = built(start, weight_decay=DECAY)
    expected, moved = start, 0
    for gradient in gradients:
        step(optimizer, gradient)
        moved = MOMENTUM * moved + gradient
        matrix = (gradient + MOMENTUM * moved).reshape(36, 8)
        update = np.array(orthogonalize(keras.ops.convert_to_tensor(matrix)))
        expected = (1 - RATE * DECAY) * expected - RATE * update.reshape(start.shape)
    np.testing.assert_allclose(kernel.numpy(), expected, atol=1e-5)
    assert np.linalg.norm(update, 2) < 1.3


def test_each_depthwise_channel_moves_by_the_learning_rate(noise):
    start = noise(3, 3, 6, 1)
    gradient = noise(3, 3, 6, 1, seed=1) * np.geomspace(1e-3, 1e3, 6)[:, None].astype(np.float32)
    optimizer, [kernel] = built(start)
    step(optimizer, gradient)
    moved, gradient = (start - kernel.numpy()).reshape(9, 6), gradient.reshape(9, 6)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=0), RATE, rtol=1e-3)
    cosines = (moved * gradient).sum(0) / np.linalg.norm(gradient, axis=0)
    np.testing.assert_allclose(cosines / RATE, 1, rtol=1e-3)


def test_single_depthwise_weights_are_neither_normalized_nor_decayed(noise):
    """Batch normalization cancels them, so that their gradients are nothing but rounding."""
    start, gradient = noise(1, 1, 6, 1), 1e-6 * noise(1, 1, 6, 1, seed=1)
    optimizer, [kernel] = built(start, weight_decay=DECAY)
    step(optimizer, gradient)
    np.testing.assert_allclose(kernel.numpy(), start - RATE * (1 + MOMENTUM) * gradient, atol=1e-7)


def test_other_variables_follow_adam(noise):
    starts = noise(5), noise(4, 3)
    optimizer, variables = built(*starts, adam_ratio=0.03)
    adam = keras.optimizers.Adam(0.03 * RATE, beta_1=0.9, beta_2=0.99)
    expected = [keras.Variable(start) for start in starts]
    adam.build(expected)
    for seed in range(4):
        gradients = [noise(*start.shape, seed=seed) for start in starts]
        step(optimizer, *gradients)
        step(adam, *gradients)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value.numpy(), atol=1e-5)


def test_dense_kernels_decay_and_biases_do_not(noise):
    optimizer, [kernel, bias] = built(noise(4, 3), noise(3), weight_decay=DECAY)
    start = kernel.numpy(), bias.numpy()
    step(optimizer, np.zeros((4, 3), "float32"), np.zeros(3, "float32"))
    np.testing.assert_allclose(kernel.numpy(), (1 - RATE * DECAY) * start[0], rtol=1e-6)
    np.testing.assert_array_equal(bias.numpy(), start[1])


def test_recipe_sets_muon():
    phases, settings = (Phase(0, 32),), {"momentum": 0.7, "weight_decay": 0.05}
    recipe = Recipe("mine", S0, 4, phases, 128, 0.1, 1, optimizer="muon", **settings)
    optimizer = make_optimizer(recipe, 3)
    assert isinstance(optimizer, Muon)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.7, 0.05)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    rate = keras.ops.convert_to_numpy(copy._learning_rate(3))
    assert float(rate) == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"\[0, 1\).*momentum=1"):
        Muon(momentum=1)
