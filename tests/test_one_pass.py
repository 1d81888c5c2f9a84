"""Tests branches trained through one convolution against branch by branch."""

import keras
import numpy as np
import pytest

import keras_mobileone
from keras_mobileone import MobileOneBlock
from keras_mobileone.layers import one_pass, window_moments
from keras_mobileone.layers.block import folded_inference

SHAPE = (4, 12, 11, 16)
CASES = {
    "skip": {"filters": 16, "num_conv_branches": 4},
    "wider": {"filters": 32, "num_conv_branches": 2},
    "squeeze-and-excitation": {"filters": 16, "num_conv_branches": 4, "se_ratio": 0.25},
    "stride 2": {"filters": 24, "num_conv_branches": 3, "strides": 2},
    "no activation": {"filters": 16, "num_conv_branches": 4, "activation": None},
    "stem": {"shape": (4, 12, 11, 3), "kernel_size": 3, "filters": 48, "strides": 2},
    "depthwise": {"kernel_size": 3, "filters": 16, "depthwise": True, "num_conv_branches": 4},
    "one depthwise branch": {
        "shape": (2, 33, 16, 6),
        "kernel_size": 3,
        "filters": 6,
        "depthwise": True,
    },
    "depthwise column": {
        "shape": (8, 512, 1, 6),
        "kernel_size": 3,
        "filters": 6,
        "depthwise": True,
        "activation": None,
    },
}
SMALL = keras_mobileone.Variant(
    "small", (1, 1, 1, 1), 4, depths=(1, 1, 1, 1), base_filters=(8, 16, 16, 16)
)


@pytest.fixture(autouse=True)
def small_images_too(monkeypatch):
    """Computes depthwise blocks in one pass even if it is slower."""
    monkeypatch.setattr(one_pass, "DEPTHWISE_WORK", 0)


def pair(randomize, shape=SHAPE, kernel_size=1, **arguments):
    """Returns a block in one pass, its copy branch by branch, and the shape of the input."""
    blocks = [
        MobileOneBlock(kernel_size=kernel_size, one_pass=one_pass, **arguments)
        for one_pass in (True, False)
    ]
    for block in blocks:
        block.build(shape)
    randomize(blocks[0])
    blocks[1].set_weights(blocks[0].get_weights())
    assert blocks[0]._in_one_pass(shape) and not blocks[1]._in_one_pass(shape)
    return *blocks, shape


def step(block, inputs):
    """Returns output, gradients of input and weights, and moving statistics of a training step."""
    import tensorflow as tf

    inputs = tf.constant(inputs, block.variable_dtype)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.cast(block(inputs, training=True), inputs.dtype)
        weights = tf.reshape(tf.range(tf.size(outputs)) % 11 - 4, outputs.shape)
        loss = tf.reduce_sum(outputs * tf.cast(weights, inputs.dtype))
    gradients = tape.gradient(loss, [inputs, *(v.value for v in block.trainable_variables)])
    names = ["inputs", *(v.path.split("/", 1)[1] for v in block.trainable_variables)]
    statistics = [v.numpy() for v in block.non_trainable_variables]
    return outputs.numpy(), dict(zip(names, gradients, strict=True)), statistics


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_the_formulas_are_exact(case, mean, noise, randomize, relative_error):
    """Outputs, all gradients and the moving statistics agree in float64."""
    fast, slow, shape = pair(randomize, dtype="float64", **CASES[case])
    inputs = noise(*shape) + mean
    fast, slow = step(fast, inputs), step(slow, inputs)
    assert relative_error(fast[0], slow[0]) < 1e-12
    assert fast[1].keys() == slow[1].keys()
    for (name, found), expected in zip(fast[1].items(), slow[1].values(), strict=True):
        assert relative_error(found, expected) < 1e-7, name
    for found, expected in zip(fast[2], slow[2], strict=True):
        assert relative_error(found, expected) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_rounding_in_float32(case, mean, noise, randomize, relative_error):
    """Values are within 1e-5 of the exact ones, or about as near as branch by branch.

    Gradients of kernels are compared as one vector, because that of a 1×1 depthwise kernel is zero
    except for epsilon: its normalization cancels any factor, so that all its digits are rounding.
    """
    fast, slow, shape = pair(randomize, **CASES[case])
    exact = pair(randomize, dtype="float64", **CASES[case])[1]
    inputs = noise(*shape) + np.float32(mean)
    fast, slow, exact = (step(block, inputs) for block in (fast, slow, exact))
    assert relative_error(fast[0], exact[0]) < 1e-5
    for found, expected in zip(fast[2], exact[2], strict=True):
        assert relative_error(found, expected) < 1e-5
    for kind in ("inputs", "kernel", "gamma", "beta"):
        found, reference, expected = (
            np.concatenate([np.ravel(g) for name, g in side[1].items() if name.endswith(kind)])
            for side in (fast, slow, exact)
        )
        limit = max(1e-5, 1.5 * relative_error(reference, expected))
        assert relative_error(found, expected) < limit, kind


BUGS = ("epsilon", "mean", "variance", "skip", "border", "border of the slope")


@pytest.mark.parametrize("case", ["skip", "depthwise"])
@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_formula_is_seen(bug, case, noise, randomize, relative_error, monkeypatch):
    """Each planted error exceeds the tolerance of the test above."""
    if "border" in bug and case != "depthwise":
        pytest.skip("a 1×1 kernel sees no border")
    fast, slow, shape = pair(randomize, **CASES[case])
    window = one_pass.DepthwiseWindow if fast.depthwise else one_pass.DenseWindow
    right = window.statistics
    inputs = noise(*shape) + 1
    if bug == "epsilon":
        fast.conv_norms[0].epsilon = 1e-3
    elif bug == "skip":
        identity = keras_mobileone.layers.reparameterization.identity_kernel
        monkeypatch.setattr(
            keras_mobileone.layers.reparameterization,
            "identity_kernel",
            lambda *a: 1.01 * identity(*a),
        )
    elif bug == "border":
        matrix = window_moments._TAP_PRODUCTS.copy()
        matrix[:, window_moments.LAGS**2 :] = 0
        monkeypatch.setattr(window_moments, "_TAP_PRODUCTS", matrix)
    elif bug == "border of the slope":
        matrix = window_moments._TAP_SUMS.copy()
        matrix[:, 1:] = 0
        monkeypatch.setattr(window_moments, "_TAP_SUMS", matrix)
    else:
        factors = {"mean": (1.001, 1), "variance": (1, 1.001)}[bug]

        def wrong(self, weights):
            return [f * value for f, value in zip(factors, right(self, weights), strict=True)]

        monkeypatch.setattr(window, "statistics", wrong)
    fast, slow = step(fast, inputs), step(slow, inputs)
    errors = [relative_error(fast[0], slow[0])]
    errors += [relative_error(fast[1]["inputs"], slow[1]["inputs"])]
    errors += [relative_error(a, b) for a, b in zip(fast[2], slow[2], strict=True)]
    assert max(errors) > 5e-5


def test_constant_input(randomize, relative_error):
    """At zero variance, every branch gives its beta, up to rounding divided by √epsilon."""
    for block in pair(randomize, **CASES["no activation"])[:2]:
        outputs, gradients, _ = step(block, np.full(SHAPE, 3, np.float32))
        betas = sum(norm.beta.numpy() for norm in (*block.conv_norms, block.skip_norm))
        assert relative_error(outputs, np.broadcast_to(betas, outputs.shape)) < 2e-2
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_constant_depthwise_input(randomize, relative_error):
    """Only the border varies, and only in the 3×3 branches. The other branches give their beta."""
    fast, slow, shape = pair(randomize, **CASES["depthwise"])
    inputs = np.full(shape, 3, np.float32)
    fast, slow = step(fast, inputs), step(slow, inputs)
    assert relative_error(fast[0], slow[0]) < 1e-3
    assert all(np.isfinite(gradient).all() for gradient in fast[1].values())


@pytest.mark.parametrize("case", ["skip", "depthwise", "stem"])
def test_batch_of_one(case, noise, randomize, relative_error):
    arguments = dict(CASES[case])
    channels = arguments.pop("shape", SHAPE)[-1]
    for size in (3, 1):
        fast, slow, shape = pair(randomize, shape=(1, size, size, channels), **arguments)
        inputs = noise(*shape)
        fast, slow = step(fast, inputs), step(slow, inputs)
        assert np.isfinite(fast[0]).all()
        if size > 1:  # the variance of one value is only rounding
            assert relative_error(fast[0], slow[0]) < 1e-5


@pytest.mark.parametrize("case", ["skip", "depthwise"])
def test_mixed_bfloat16(case, noise, randomize, relative_error):
    """The statistics are float32, and both methods agree within the precision of bfloat16."""
    fast, slow, shape = pair(randomize, dtype="mixed_bfloat16", **CASES[case])
    inputs = noise(*shape)
    exact = step(pair(randomize, **CASES[case])[0], inputs)
    fast, slow = step(fast, inputs), step(slow, inputs)
    assert relative_error(fast[0], exact[0]) < 0.02
    assert relative_error(fast[0], slow[0]) < 0.03
    for found, expected in zip(fast[2], exact[2], strict=True):
        assert relative_error(found, expected) < 0.01


def test_frozen_blocks_use_their_moving_statistics(noise, randomize):
    """A block with one frozen normalization also does, and is computed branch by branch."""
    block, _, shape = pair(randomize, **CASES["skip"])
    inputs = noise(*shape)
    block.trainable = False
    np.testing.assert_array_equal(block(inputs, training=True), block(inputs, training=False))
    block.trainable = True
    block.conv_norms[1].trainable = False
    assert not block._in_one_pass(shape)


def test_inference_is_branch_by_branch(noise, randomize):
    fast, slow, shape = pair(randomize, **CASES["depthwise"])
    inputs = noise(*shape)
    np.testing.assert_array_equal(fast(inputs), slow(inputs))


def test_images_of_unknown_size(noise, randomize, relative_error):
    """The sizes are unknown when the step is traced."""
    import tensorflow as tf

    fast, slow, shape = pair(randomize, **CASES["depthwise"])
    free = tf.function(
        lambda x: fast(x, training=True),
        input_signature=[tf.TensorSpec((None, None, None, shape[-1]))],
    )
    inputs = noise(*shape)
    assert relative_error(free(inputs), slow(inputs, training=True)) < 1e-5


def test_by_default_only_with_a_measured_backend(monkeypatch):
    shape = (4, 8, 8, 64)
    block, always, never = (
        MobileOneBlock(64, 1, num_conv_branches=4, one_pass=value) for value in (None, True, False)
    )
    for each in (block, always, never):
        each.build(shape)
    assert [b._in_one_pass(shape) for b in (block, always, never)] == [True, True, False]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert [b._in_one_pass(shape) for b in (block, always, never)] == [False, True, False]
    assert MobileOneBlock.from_config(block.get_config()).one_pass is None


def test_the_same_sums_without_tensorflow(noise, relative_error, monkeypatch):
    """Other backends compute the sums as shifted products."""
    image = keras.ops.convert_to_tensor(noise(2, 5, 6, 3))
    found = window_moments._half_autocorrelation(image, 2, 1)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert relative_error(window_moments._half_autocorrelation(image, 2, 1), found) < 1e-6


def table(project, *labels) -> list[list[float]]:
    """Returns rows of the worked example by their labels, with 0 for empty cells."""
    lines = (project / "docs/methods/window_moments.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    found = [[float(cell or 0) for cell in row[1:]] for row in rows if row[0] in labels]
    assert len(found) >= len(labels)
    return found


def test_the_worked_example(project):
    """The package gives the numbers of the documentation. An image of one row uses three taps."""
    import tensorflow as tf

    x = tf.reshape(tf.constant(table(project, "image x")[0], "float64"), (1, 1, 4, 1))
    mean = np.zeros((9, 1))
    mean[3:6, 0] = table(project, "mean m")[0]
    with tf.GradientTape() as tape:
        tape.watch(x)
        moments = window_moments.depthwise_moments(x, x[0], tf.constant(mean))[..., 0]
        centered = moments[4:7, 3:6]
        kernel = tf.constant([[1.0], [0.0], [-1.0]], "float64")
        loss = tf.squeeze(tf.transpose(kernel) @ centered @ kernel)
    np.testing.assert_allclose([moments[0, 3:6]], table(project, "sums"))
    taps = table(project, "tap 0", "tap 1", "tap 2")  # raw products, then centered ones
    np.testing.assert_allclose(centered, taps[3:])
    sums = np.array(table(project, "sums")[0])
    np.testing.assert_allclose(centered, np.array(taps[:3]) - np.outer(sums, sums) / 4)
    np.testing.assert_allclose(loss, 29)
    gradient = np.ravel(tape.gradient(loss, x))
    np.testing.assert_allclose([gradient], table(project, "gradient"))
    parts = table(project, "convolution", "no tap 0 there", "no tap 2 there")
    np.testing.assert_allclose(np.sum(parts, axis=0), gradient)


@pytest.mark.parametrize("case", ["skip", "depthwise", "stem"])
def test_each_norm_has_its_own_epsilon(case, noise, randomize, relative_error):
    fast, slow, shape = pair(randomize, dtype="float64", **CASES[case])
    inputs = noise(*shape)
    before = step(fast, inputs)[0]
    for block in (fast, slow):
        block.set_weights(slow.get_weights())
        for i, (_, norm) in enumerate(block._branches()):
            norm.epsilon = 0.1 * (i + 1)
    fast, slow = step(fast, inputs), step(slow, inputs)
    assert relative_error(fast[0], slow[0]) < 1e-12
    assert relative_error(fast[0], before) > 0.01
    assert relative_error(fast[1]["inputs"], slow[1]["inputs"]) < 1e-9


def test_where_it_pays(monkeypatch):
    """The threshold is the measured one of docs/methods/one_pass.md."""
    monkeypatch.undo()  # uses the actual threshold
    assert all(one_pass.dense_pays(c, f, 1, 4) for c, f in ((48, 48), (48, 128), (256, 1024)))
    assert not any(one_pass.dense_pays(c, c, 1, 1) for c in (48, 64, 512))
    assert not one_pass.dense_pays(512, 128, 1, 2)
    assert all(one_pass.dense_pays(3, f, 3, 1) for f in (48, 96, 192))
    assert not one_pass.dense_pays(64, 64, 3, 1)
    batch = 32
    assert one_pass.depthwise_pays(batch * 28 * 28, 3, 1, branches=1)
    assert one_pass.depthwise_pays(batch * 14 * 14, 3, 1, branches=4)
    assert not one_pass.depthwise_pays(batch * 14 * 14, 3, 1, branches=1)
    assert one_pass.depthwise_pays(None, 3, 1, branches=1)
    assert not one_pass.depthwise_pays(None, 3, 2, branches=4)
    assert not one_pass.depthwise_pays(None, 5, 1, branches=4)


def models(variant, classes=5):
    """Returns a train-time model in one pass, and its copy branch by branch."""
    built = []
    for in_one_pass in (True, False):
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
                layer.one_pass = in_one_pass
        built.append(model)
    return built


@pytest.mark.slow
def test_twenty_steps_end_with_the_same_weights(noise, relative_error):
    """A user's model is trained by `fit`, in float64 so that rounding does not grow."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        both = models(SMALL)
    finally:
        keras.config.set_dtype_policy(before)
    images, labels = noise(80, 32, 32, 3), np.arange(80) % 5
    start = both[0].get_weights()
    for model in both:
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(images, labels, batch_size=16, epochs=4, shuffle=False, verbose=0)
    moved = 0
    for found, expected, old in zip(*(m.get_weights() for m in both), start, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, np.abs(expected).max()))
        moved = max(moved, np.abs(found - old).max())
    assert moved > 0.01


def test_fuse_after_training_in_one_pass(noise, relative_error):
    """Equal weights give equal deploy models."""
    model = models(SMALL)[0]
    images = noise(8, 32, 32, 3)
    model(images, training=True)
    assert relative_error(model.fuse()(images), model(images, training=False)) < 1e-4


def test_configuration_keeps_the_choice():
    block = MobileOneBlock(8, kernel_size=1, num_conv_branches=4, one_pass=False)
    assert not MobileOneBlock.from_config(block.get_config()).one_pass


@pytest.mark.parametrize("case", CASES)
def test_validation_folds(case, noise, randomize, relative_error):
    """Validation gives the results of the branches, without running any branch."""
    block, _, shape = pair(randomize, **CASES[case])
    inputs = noise(*shape)
    branches = block(inputs)
    block._branch_by_branch = None  # not callable
    with folded_inference():
        assert relative_error(block(inputs), branches) < 1e-5
    with pytest.raises(TypeError):
        block(inputs)
