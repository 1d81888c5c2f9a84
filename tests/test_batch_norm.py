"""Tests batch normalization by the fused operator against that of Keras."""

import keras
import numpy as np
import pytest

from keras_mobileone.layers.batch_norm import FusedBatchNorm

SHAPE = (4, 5, 6, 8)


def step(norm, inputs):
    """Returns the outputs, gradients and moving statistics of a training step."""
    import tensorflow as tf

    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = norm(inputs, training=True)
        weights = tf.reshape(tf.range(tf.size(outputs)) % 7 - 2, outputs.shape)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * tf.cast(weights, "float32"))
    gradients = tape.gradient(loss, [inputs, norm.gamma.value, norm.beta.value])
    return [outputs, *gradients, norm.moving_mean, norm.moving_variance]


def pair(randomize, dtype="float32", **arguments):
    """Returns the layer and that of Keras, with the same weights."""
    norms = [
        kind(epsilon=1e-5, momentum=0.9, dtype=dtype, **arguments)
        for kind in (FusedBatchNorm, keras.layers.BatchNormalization)
    ]
    for norm in norms:
        norm.build(SHAPE)
    randomize(norms[0])
    norms[1].set_weights(norms[0].get_weights())
    return norms


@pytest.mark.parametrize("mean", [0, 5])
def test_values_gradients_and_statistics(mean, noise, randomize, relative_error):
    fused, plain = pair(randomize)
    inputs = noise(*SHAPE) + np.float32(mean)
    assert fused._fuses(inputs)
    for found, expected in zip(step(fused, inputs), step(plain, inputs), strict=True):
        assert relative_error(found, expected) < 1e-5


def test_the_moving_variance_has_no_bessel_correction(noise):
    """Keras tracks the variance of the batch. TensorFlow's operator returns the corrected one."""
    import tensorflow as tf

    inputs = noise(2, 3, 1, 1)
    values = inputs.astype(np.float64).ravel()
    operator = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=[1.0], offset=[0.0], mean=[], variance=[], epsilon=1e-5
    )
    np.testing.assert_allclose(operator.batch_variance, [values.var(ddof=1)], rtol=1e-5)
    for kind in (FusedBatchNorm, keras.layers.BatchNormalization):
        norm = kind(epsilon=1e-5, momentum=0.0)
        norm(inputs, training=True)
        np.testing.assert_allclose(norm.moving_variance, [values.var()], rtol=1e-5)


def test_mixed_bfloat16(noise, randomize, relative_error):
    fused, plain = pair(randomize, dtype="mixed_bfloat16")
    inputs = keras.ops.cast(noise(*SHAPE), "bfloat16")
    assert fused._fuses(inputs) and fused(inputs, training=True).dtype == "bfloat16"
    found, expected = (
        keras.ops.cast(norm(inputs, training=True), "float32") for norm in (fused, plain)
    )
    assert relative_error(found, expected) < 0.02


def test_where_keras_computes(noise, randomize, relative_error):
    """Keras computes inference, frozen layers, float64 and statistics over replicas."""
    inputs = noise(*SHAPE)
    fused, plain = pair(randomize)
    np.testing.assert_array_equal(fused(inputs), plain(inputs))
    fused.trainable = plain.trainable = False
    np.testing.assert_array_equal(fused(inputs, training=True), plain(inputs, training=True))
    fused, plain = pair(randomize, dtype="float64")
    for found, expected in zip(
        step(fused, inputs.astype("float64")), step(plain, inputs.astype("float64")), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert not pair(randomize, synchronized=True)[0]._fuses(inputs)
