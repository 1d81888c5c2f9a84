"""Tests updates by one operator against their formulas."""

import keras
import numpy as np
import pytest

from keras_mobileone.layers import fused_updates
from keras_mobileone.training import optimizer


@pytest.fixture
def without_operators(monkeypatch):
    """Disables the operators, as on other backends and under a strategy."""

    def switch():
        monkeypatch.setattr(fused_updates, "resource_of", lambda variable: None)
        monkeypatch.setattr(optimizer, "resource_of", lambda variable: None)

    return switch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_average_moves_by_the_formula(dtype, noise, without_operators):
    start, value = noise(5, 7).astype(dtype), noise(5, 7).astype(dtype) + 1
    found = []
    for switch in (lambda: None, without_operators):
        switch()
        average = keras.Variable(start, dtype=dtype)
        for _ in range(3):
            fused_updates.move_average(average, keras.ops.convert_to_tensor(value), 0.9)
        found.append(average.numpy())
    expected = value + 0.9**3 * (start - value)
    for result in found:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_average_stays_at_its_value(noise):
    """The average of a constant does not change, although 0.9995 and 1 - 0.9995 are rounded."""
    value = noise(100)
    average = keras.Variable(value)
    for _ in range(100):
        fused_updates.move_average(average, keras.ops.convert_to_tensor(value), 0.9995)
    np.testing.assert_array_equal(average.numpy(), value)


def test_momentum_is_the_same_without_the_operator(noise, without_operators):
    """Decayed kernels and biases are equal after several steps."""
    start, gradients = [noise(4, 3), noise(3)], [noise(4, 3), noise(3)]
    found = []
    for switch in (lambda: None, without_operators):
        switch()
        variables = [keras.Variable(value) for value in start]
        sgd = optimizer.SGD(0.1, momentum=0.9, decay=0.01)
        for _ in range(4):
            sgd.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
        found.append([v.numpy() for v in (*variables, *sgd.velocities)])
    for fast, slow, old in zip(*found, start * 2, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-6)
        assert np.abs(fast - old).max() > 0.1


def test_no_operator_where_a_strategy_may_keep_copies():
    import tensorflow as tf

    variable = keras.Variable(1.0)
    assert fused_updates.resource_of(variable) is not None
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert fused_updates.resource_of(variable) is None
