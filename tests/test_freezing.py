"""Tests which layers `freeze_batch_norm` reaches, and what a training step then changes."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_mobileone
from keras_mobileone.layers.block import MobileOneBlock

SIZE = (32, 32, 3)
NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")


def blocks_of(model):
    return [layer for layer in model.layers if isinstance(layer, MobileOneBlock)]


def norms_of(model):
    """Returns the normalizations of all blocks from the lists of branches of the blocks."""
    return [norm for block in blocks_of(model) for _, norm in block._branches()]


@pytest.fixture
def model(tiny, randomize):
    return randomize(keras_mobileone.MobileOne(tiny, weights=None, input_shape=SIZE, classes=3))


def test_every_branch_of_every_block_is_frozen(model):
    norms = norms_of(model)
    assert len(norms) > len(blocks_of(model)) > 3
    assert all(norm.trainable for norm in norms)
    assert keras_mobileone.freeze_batch_norm(model) == len(norms)
    assert not any(norm.trainable for norm in norms)
    assert all(block.trainable for block in blocks_of(model))


def test_a_training_step_keeps_the_norms_and_moves_the_kernels(model, noise):
    some_in_one_pass = [block._in_one_pass(block.input.shape) for block in blocks_of(model)]
    assert any(some_in_one_pass)
    keras_mobileone.freeze_batch_norm(model)
    assert not any(block._in_one_pass(block.input.shape) for block in blocks_of(model))
    before = [[np.array(getattr(norm, n)) for n in NORM_VARIABLES] for norm in norms_of(model)]
    kernels = {variable.path: np.array(variable) for variable in model.trainable_variables}
    assert len(kernels) > len(blocks_of(model))
    assert not any("norm" in path for path in kernels)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(noise(4, *SIZE), np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
    for norm, values in zip(norms_of(model), before, strict=True):
        for name, value in zip(NORM_VARIABLES, values, strict=True):
            np.testing.assert_array_equal(getattr(norm, name), value, err_msg=norm.path)
    kept = [v.path for v in model.trainable_variables if (np.array(v) == kernels[v.path]).all()]
    assert not kept


def test_norms_are_found_at_any_depth_and_none_in_a_fused_model(model):
    inputs = keras.Input(SIZE)
    branch = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()])
    outer = keras.Model(inputs, layers.GlobalMaxPooling2D()(branch(inputs)))
    assert keras_mobileone.freeze_batch_norm(outer) == 1
    assert len(outer.trainable_variables) == 2  # kernel and bias of the convolution
    assert keras_mobileone.freeze_batch_norm(keras_mobileone.fuse(model)) == 0
