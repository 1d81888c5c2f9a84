"""Branches trained through one convolution, against branch by branch."""

import keras
import numpy as np
import pytest

import keras_mobileone
from keras_mobileone import MobileOneBlock, onepass

SHAPE = (8, 7, 7, 16)
CASES = {
    "skip": {"filters": 16, "conv_branches": 4},
    "wider": {"filters": 32, "conv_branches": 2},
    "squeeze-and-excitation": {"filters": 16, "conv_branches": 4, "se_ratio": 0.25},
    "stride 2": {"filters": 24, "conv_branches": 3, "strides": 2},
    "no activation": {"filters": 16, "conv_branches": 4, "activation": None},
}


def pair(randomize, shape=SHAPE, **arguments):
    """The same block twice: in one pass, and branch by branch."""
    blocks = [
        MobileOneBlock(kernel_size=1, one_pass=one_pass, **arguments) for one_pass in (True, False)
    ]
    for block in blocks:
        block.build(shape)
    randomize(blocks[0])
    blocks[1].set_weights(blocks[0].get_weights())
    assert blocks[0]._in_one_pass() and not blocks[1]._in_one_pass()
    return blocks


def step(block, inputs):
    """Output, gradients of input and weights, moving statistics after one training step."""
    import tensorflow as tf

    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.cast(block(inputs, training=True), tf.float32)
        weights = tf.reshape(tf.range(tf.size(outputs)) % 11 - 4, outputs.shape)
        loss = tf.reduce_sum(outputs * tf.cast(weights, tf.float32))
    gradients = tape.gradient(loss, [inputs, *(v.value for v in block.trainable_variables)])
    names = ["inputs", *(v.path.split("/", 1)[1] for v in block.trainable_variables)]
    statistics = [v.numpy() for v in block.non_trainable_variables]
    return outputs.numpy(), dict(zip(names, gradients, strict=True)), statistics


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_outputs_gradients_and_statistics(case, mean, noise, randomize, relative_error):
    """To 1e-5 relative, also where the mean of the input is large beside its deviation."""
    inputs = noise(*SHAPE) + np.float32(mean)
    fast, slow = (step(block, inputs) for block in pair(randomize, **CASES[case]))
    assert relative_error(fast[0], slow[0]) < 1e-5
    assert fast[1].keys() == slow[1].keys()
    for (name, found), expected in zip(fast[1].items(), slow[1].values(), strict=True):
        assert relative_error(found, expected) < 1e-5, name
    for found, expected in zip(fast[2], slow[2], strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("bug", ["epsilon", "mean", "covariance", "skip"])
def test_a_wrong_formula_is_seen(bug, noise, randomize, relative_error, monkeypatch):
    """Each planted error exceeds the tolerance of the test above."""
    inputs = noise(*SHAPE) + 1
    blocks = pair(randomize, **CASES["skip"])
    right = onepass.moments
    if bug == "epsilon":
        monkeypatch.setattr(
            onepass, "_scale", lambda norm, v: norm.gamma / keras.ops.sqrt(v + 1e-3)
        )
    elif bug == "skip":
        monkeypatch.setattr(keras.ops, "diag", lambda v: 1.001 * keras.ops.eye(len(v)) * v)
    else:
        place = {"mean": 1, "covariance": 2}[bug]

        def wrong(*arguments):
            values = list(right(*arguments))
            values[place] = values[place] * 1.001
            return values

        monkeypatch.setattr(onepass, "moments", wrong)
    fast, slow = (step(block, inputs) for block in blocks)
    errors = [relative_error(fast[0], slow[0])]
    errors += [relative_error(a, b) for a, b in zip(fast[2], slow[2], strict=True)]
    assert max(errors) > 5e-5


def test_constant_input(randomize, relative_error):
    """Zero variance: every branch gives its beta, exactly; branch by branch only nearly."""
    fast, slow = pair(randomize, **CASES["no activation"])
    inputs = np.full(SHAPE, 3, np.float32)
    outputs, gradients, _ = step(fast, inputs)
    betas = sum(norm.beta.numpy() for norm in (*fast.conv_norms, fast.skip_norm))
    np.testing.assert_allclose(outputs, np.broadcast_to(betas, outputs.shape), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert relative_error(outputs, step(slow, inputs)[0]) < 1e-2


def test_batch_of_one(noise, randomize, relative_error):
    inputs = noise(1, 3, 3, 16)
    fast, slow = (step(block, inputs) for block in pair(randomize, **CASES["skip"]))
    assert relative_error(fast[0], slow[0]) < 1e-5
    single = step(pair(randomize, **CASES["skip"])[0], noise(1, 1, 1, 16))
    assert np.isfinite(single[0]).all()


def test_mixed_bfloat16(noise, randomize, relative_error):
    """Statistics in float32; both agree as far as bfloat16 outputs can."""
    inputs = noise(*SHAPE)
    blocks = pair(randomize, dtype="mixed_bfloat16", **CASES["skip"])
    exact = step(pair(randomize, **CASES["skip"])[0], inputs)
    fast, slow = (step(block, inputs) for block in blocks)
    assert relative_error(fast[0], exact[0]) < 0.02
    assert relative_error(fast[0], slow[0]) < 0.03
    for found, expected in zip(fast[2], exact[2], strict=True):
        assert relative_error(found, expected) < 0.01


def test_frozen_blocks_use_their_moving_statistics(noise, randomize):
    """And so does a block of which one norm is frozen: branch by branch, then."""
    block, _ = pair(randomize, **CASES["skip"])
    inputs = noise(*SHAPE)
    block.trainable = False
    np.testing.assert_array_equal(block(inputs, training=True), block(inputs, training=False))
    block.trainable = True
    block.conv_norms[1].trainable = False
    assert not block._in_one_pass()


def test_inference_is_branch_by_branch(noise, randomize):
    fast, slow = pair(randomize, **CASES["skip"])
    np.testing.assert_array_equal(fast(noise(*SHAPE)), slow(noise(*SHAPE)))


def test_where_it_pays():
    """Dense branches from two on; with one branch there is nothing to win."""
    assert all(onepass.pays(c, f, 4) for c, f in ((48, 48), (48, 128), (256, 1024)))
    assert not any(onepass.pays(c, c, 1) for c in (64, 512))
    assert not onepass.pays(512, 128, 2)
    assert not MobileOneBlock(8, kernel_size=3, conv_branches=4)._in_one_pass()


def models(variant, classes=5):
    """A train-time model in one pass, and its twin branch by branch."""
    built = []
    for one_pass in (True, False):
        keras.utils.set_random_seed(0)
        model = keras_mobileone.MobileOne(
            variant,
            weights=None,
            input_shape=(32, 32, 3),
            classes=classes,
            classifier_activation=None,
        )
        for layer in model.layers:
            if isinstance(layer, MobileOneBlock):
                layer.one_pass = one_pass
        built.append(model)
    return built


@pytest.mark.slow
def test_twenty_steps_end_with_the_same_weights(noise, relative_error):
    """In plain `fit` of a user's model, in float64 so that rounding can't grow over the steps."""
    variant = keras_mobileone.Variant(
        "small", (1, 1, 1, 1), 4, depths=(1, 1, 1, 1), base_filters=(8, 16, 16, 16)
    )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        twins = models(variant)
    finally:
        keras.config.set_dtype_policy(before)
    images, labels = noise(80, 32, 32, 3), np.arange(80) % 5
    start = twins[0].get_weights()
    for model in twins:
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(images, labels, batch_size=16, epochs=4, shuffle=False, verbose=0)
    moved = 0
    for found, expected, old in zip(*(m.get_weights() for m in twins), start, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, np.abs(expected).max()))
        moved = max(moved, np.abs(found - old).max())
    assert moved > 0.01


def test_fuse_after_training_in_one_pass(noise, relative_error):
    """The same weights, so the same deploy model."""
    variant = keras_mobileone.Variant(
        "small", (1, 1, 1, 1), 4, depths=(1, 1, 1, 1), base_filters=(8, 16, 16, 16)
    )
    model = models(variant)[0]
    images = noise(8, 32, 32, 3)
    model(images, training=True)
    assert relative_error(model.fuse()(images), model(images, training=False)) < 1e-4


def test_configuration_keeps_the_choice():
    block = MobileOneBlock(8, kernel_size=1, conv_branches=4, one_pass=False)
    assert not MobileOneBlock.from_config(block.get_config()).one_pass
