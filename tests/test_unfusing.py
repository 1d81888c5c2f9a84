"""Tests `unfuse`: equal outputs, equal batch statistics, and branches that train."""

from dataclasses import replace
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_mobileone import VARIANTS, MobileOne, MobileOneModel, Variant, fuse
from keras_mobileone.data.imagenet import preprocess_input
from keras_mobileone.data.images import list_images, load_crops, spread
from keras_mobileone.layers import reparameterization
from keras_mobileone.models import unfusing
from keras_mobileone.models.unfusing import unfuse

TOLERANCE = 1e-5
TRAINING_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def fused(tiny_model):
    """Returns a fused model of 64×64 images, with ten classes and logits."""
    return fuse(tiny_model)


@pytest.fixture(scope="module")
def images():
    """Returns images whose neighboring pixels are similar, as in photographs."""
    coarse = np.random.default_rng(0).standard_normal((16, 16, 16, 3))
    fine = np.random.default_rng(1).standard_normal((16, 64, 64, 3))
    return (coarse.repeat(4, axis=1).repeat(4, axis=2) + 0.2 * fine).astype(np.float32)


@pytest.fixture(scope="module")
def unfused(fused, tiny, images):
    """Returns an unfused model, whose weights tests must not change."""
    return unfuse(fused, tiny, images)


def training_output(model, images):
    """Returns the output in training mode, and restores the moving statistics."""
    weights = model.get_weights()
    output = ops.convert_to_numpy(model(images, training=True))
    model.set_weights(weights)
    return output


def norms(block):
    """Returns every batch normalization of a block, with the kernel before it or None."""
    pairs = [(n, c.kernel) for n, c in zip(block.conv_norms, block.conv_layers, strict=True)]
    if block.scale_norm is not None:
        pairs.append((block.scale_norm, block.scale_layer.kernel))
    if block.skip_norm is not None:
        pairs.append((block.skip_norm, None))
    return pairs


def blocks(model, variant):
    return [model.get_layer(spec.name) for spec in variant.blocks()]


# Equal outputs.


def test_inference_is_the_fused_models(unfused, fused, noise, relative_error):
    assert isinstance(unfused, MobileOneModel)
    assert unfused.name == fused.name
    others = noise(4, 64, 64, 3, seed=5)
    assert relative_error(unfused(others, training=False), fused(others)) < TOLERANCE


def test_training_mode_on_the_data_is_the_same(unfused, fused, images, relative_error):
    assert relative_error(training_output(unfused, images), fused(images)) < TRAINING_TOLERANCE
    # The statistics of other images differ, so that the check can fail.
    assert relative_error(training_output(unfused, images[:4]), fused(images[:4])) > 1e-2


def test_moving_statistics_are_those_of_one_batch(fused, tiny, images):
    """A training step of Keras moves the statistics by a tenth towards those of the batch."""
    model = unfuse(fused, tiny, images)
    before = model.non_trainable_variables
    before = {v.path: ops.convert_to_numpy(v) for v in before if "moving" in v.path}
    model(images, training=True)
    for variable in model.non_trainable_variables:
        if variable.path in before:
            old = before[variable.path]
            scale = np.abs(old).max()
            np.testing.assert_allclose(variable, old, atol=1e-4 * scale, err_msg=variable.path)


def test_fusing_gives_the_model_back(unfused, fused, noise, relative_error):
    again = fuse(unfused)
    assert [layer.name for layer in again.layers[1:]] == [layer.name for layer in fused.layers[1:]]
    for found, expected in zip(again.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    others = noise(2, 64, 64, 3)
    assert relative_error(again(others), fused(others)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variants_features_at_any_size(name, randomize, noise, relative_error):
    """Each variant is tested with its branches, ratios of widths and SE, in a smaller network."""
    full = VARIANTS[name]
    se_pairs = tuple(min(pairs, 1) for pairs in full.se_pairs)
    small = replace(
        full, depths=(1, 1, 2, 1), base_filters=(16, 16, 32, 32), se_pairs=se_pairs, se_ratio=1 / 4
    )
    deploy = randomize(MobileOne(small, weights=None, include_top=False, deploy=True))
    data = [noise(4, 40, 40, 3), noise(4, 33, 48, 3)]
    model = unfuse(deploy, small, data)
    assert model.input_shape == (None, None, None, 3)
    for batch in data:
        assert relative_error(model(batch, training=False), deploy(batch)) < TOLERANCE


JAX = """
import keras, numpy as np, keras_mobileone as km
from keras_mobileone.models.unfusing import unfuse
assert keras.backend.backend() == "jax"
tiny = km.Variant("tiny", (1, 1, 1, 1), 2, (0, 1, 0, 1), (2, 1, 1, 1), (16, 16, 32, 32))
deploy = km.MobileOne(tiny, weights=None, input_shape=(32, 32, 3), classes=4, deploy=True,
                      classifier_activation=None)
images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype("float32")
model, expected = unfuse(deploy, tiny, images), np.array(deploy(images))
for training, tolerance in ((False, 1e-5), (True, 1e-4)):
    error = abs(np.array(model(images, training=training)) - expected).max()
    assert error < tolerance * abs(expected).max(), error
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("jax"), reason="needs jax: the extra `test` has it")
def test_under_jax(run_python):
    assert "done" in run_python(JAX, KERAS_BACKEND="jax")


HEADS = {
    "softmax": {"classes": 3},
    "sigmoid": {"classes": 1, "classifier_activation": "sigmoid"},
    "features": {"include_top": False},
    "avg": {"include_top": False, "pooling": "avg"},
    "max": {"include_top": False, "pooling": "max"},
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", HEADS.values(), ids=HEADS)
def test_every_head_from_a_file(arguments, tiny, randomize, images, tmp_path, relative_error):
    deploy = MobileOne(tiny, weights=None, deploy=True, input_shape=(64, 64, 3), **arguments)
    randomize(deploy).save(tmp_path / "fused.keras")
    loaded = keras.models.load_model(tmp_path / "fused.keras")
    model = unfuse(loaded, tiny, images)
    assert relative_error(model(images, training=False), deploy(images)) < TOLERANCE
    model.save(tmp_path / "trainable.keras")
    again = keras.models.load_model(tmp_path / "trainable.keras")
    assert relative_error(again(images, training=False), deploy(images)) < TOLERANCE


@pytest.mark.slow
def test_the_source_stays_as_it_was(tiny, fused, unfused, images):
    weights = fused.get_weights()
    unfuse(fused, tiny, images)
    assert all((a == b).all() for a, b in zip(weights, fused.get_weights(), strict=True))


# Training of the branches.


def test_every_branch_gets_a_gradient(unfused, tiny, images):
    tf = pytest.importorskip("tensorflow")
    weights = unfused.get_weights()
    with tf.GradientTape() as tape:
        labels = np.arange(len(images)) % 10
        loss = keras.losses.sparse_categorical_crossentropy(
            labels, unfused(images, training=True), from_logits=True
        )
    variables = unfused.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in variables])
    unfused.set_weights(weights)
    gradients = {v.path: float(tf.norm(g)) for v, g in zip(variables, gradients, strict=True)}
    for block in blocks(unfused, tiny):
        sizes = [gradients[norm.gamma.path] for norm, _ in norms(block)]
        assert min(sizes) > 0.02 * max(sizes), block.name
        # Batch normalization cancels a depthwise 1×1 kernel, which is one number for each channel.
        kernels = [gradients[conv.kernel.path] for conv in block.conv_layers]
        if block.scale_layer is not None and not block.depthwise:
            kernels.append(gradients[block.scale_layer.kernel.path])
        assert min(kernels) > 0.02 * max(kernels), block.name


def test_branches_are_sound(unfused, tiny):
    for block in blocks(unfused, tiny):
        for norm, kernel in norms(block):
            gamma = ops.convert_to_numpy(norm.gamma)
            assert (gamma > 0).all()
            assert np.median(gamma) > 0.02, norm.path
            if kernel is not None:
                kernel = ops.convert_to_numpy(kernel)
                kernel = kernel[..., 0] if block.depthwise else kernel
                size = np.sqrt((kernel**2).sum(axis=tuple(range(kernel.ndim - 1))))
                np.testing.assert_allclose(size, 2**0.5, rtol=1e-5)


def test_convolution_branches_differ(unfused, tiny):
    for block in blocks(unfused, tiny)[1:]:
        first, second = (ops.convert_to_numpy(conv.kernel) for conv in block.conv_layers)
        assert np.abs(first - second).max() > 0.1 * np.abs(first).max()


def test_no_part_is_much_larger_than_the_whole(unfused, fused, tiny):
    """A sum of large parts that cancel would lose precision in float32."""
    for block in blocks(unfused, tiny):
        kernel = fused.get_layer(f"{block.name}_conv").get_weights()[0]
        size = np.linalg.norm(kernel)
        for conv, norm in zip(block.conv_layers, block.conv_norms, strict=True):
            gamma, _, _, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            part = ops.convert_to_numpy(conv.kernel)
            part = part * (scale[:, None] if block.depthwise else scale)
            assert np.linalg.norm(part) < 2.5 * size


@pytest.mark.slow
def test_the_seed_decides(fused, tiny, images, unfused):
    again, other = unfuse(fused, tiny, images), unfuse(fused, tiny, images, seed=1)
    pairs = list(zip(again.get_weights(), unfused.get_weights(), strict=True))
    assert all((a == b).all() for a, b in pairs)
    pairs = zip(other.get_weights(), unfused.get_weights(), strict=True)
    assert not all((a == b).all() for a, b in pairs)


@pytest.mark.slow
def test_dead_channels(tiny, randomize, images, relative_error):
    """There are inputs that are always 0, pruned filters, and a block of zeros."""
    deploy = randomize(
        MobileOne(tiny, weights=None, deploy=True, input_shape=(64, 64, 3), classes=10)
    )
    kernel, bias = deploy.get_layer("stem_conv").get_weights()
    kernel[..., 0], bias[0] = 0, -1  # always 0
    bias[1] = -100  # also always 0
    kernel[..., 2], bias[2] = 0, 1  # constant
    deploy.get_layer("stem_conv").set_weights([kernel, bias])
    for name in ("stage1_pair2_depthwise", "stage2_pair1_pointwise", "stage3_pair1_pointwise"):
        kernel, bias = deploy.get_layer(f"{name}_conv").get_weights()
        kernel[..., :8, :] *= "depthwise" not in name
        kernel[..., 3:5] *= "depthwise" in name
        deploy.get_layer(f"{name}_conv").set_weights([kernel, bias])
    with np.errstate(all="raise", under="ignore"):
        model = unfuse(deploy, tiny, images)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert relative_error(model(images, training=False), deploy(images)) < TOLERANCE
    assert relative_error(training_output(model, images), deploy(images)) < TRAINING_TOLERANCE


@pytest.mark.slow
def test_an_empty_network(tiny, images):
    deploy = MobileOne(tiny, weights=None, deploy=True, input_shape=(64, 64, 3), classes=2)
    deploy.set_weights([np.zeros_like(w) for w in deploy.get_weights()])
    model = unfuse(deploy, tiny, images)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    np.testing.assert_array_equal(model(images[:2], training=False), 0.5)


# Images.


def test_batches_count_as_one(fused, tiny, images, unfused):
    parts = (images[start:stop] for start, stop in ((0, 3), (3, 3), (3, 14), (14, 16)))
    model = unfuse(fused, tiny, parts)
    for found, expected in zip(model.get_weights(), unfused.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_a_dataset_of_images(fused, tiny, images):
    tf = pytest.importorskip("tensorflow")
    unfuse(fused, tiny, tf.data.Dataset.from_tensor_slices(images).batch(8))


WRONG = {
    "no image": (lambda x: x[:0], ValueError, "must contain at least one image"),
    "no batch": (lambda x: iter([]), ValueError, "must contain at least one image"),
    "a number": (lambda x: 5, TypeError, "array or an iterable.*Received: int"),
    "one image": (lambda x: x[0], ValueError, r"\(count, 64, 64, 3\).*\(64, 64, 3\)"),
    "another size": (lambda x: x[:, :32], ValueError, r"Received: shape \(16, 32, 64, 3\)"),
    "gray": (lambda x: [x[..., :1]], ValueError, r"Received: shape \(16, 64, 64, 1\)"),
    "labels": (lambda x: [(x, np.zeros(16))], ValueError, "Received: a tuple. Leave out labels"),
    "a path": (lambda x: "images", ValueError, "Received: a str"),
    "pixels": (lambda x: np.full_like(x, 255), ValueError, "values up to 255"),
    "bytes": (lambda x: x.astype(np.uint8), ValueError, "uint8.*preprocess_input"),
    "NaN": (lambda x: [x, np.where(x > 2, np.nan, x)], ValueError, "must be finite"),
    "infinity": (lambda x: np.where(x > 2, np.inf, x), ValueError, "must be finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data(case, fused, tiny, images):
    change, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        unfuse(fused, tiny, change(images))


# Unsuitable models.


def test_a_train_time_model(tiny_model, tiny, images):
    with pytest.raises(ValueError, match="'tiny', which has train-time branches"):
        unfuse(tiny_model, tiny, images)


def test_another_variant(fused, images):
    with pytest.raises(ValueError, match=r"fused mobileone_s0 .*no layer 'stage2_pair2.*more diff"):
        unfuse(fused, "s0", images)
    wider = Variant("wide", (1, 1, 1, 1), 2, (0, 1, 0, 1), (2, 1, 1, 1), (16, 16, 32, 48))
    with pytest.raises(ValueError, match=r"'stage4_pair1_pointwise_conv' is Conv2D .*32\)"):
        unfuse(fused, wider, images)


def test_additional_layers(fused, tiny, images):
    model = keras.Model(fused.input, layers.Dense(2, name="mine")(fused.output))
    with pytest.raises(ValueError, match=r"additional layer 'mine'.*pass only that part"):
        unfuse(model, tiny, images)


def test_several_outputs(fused, tiny, images):
    model = keras.Model(fused.input, [fused.get_layer("stage3").output, fused.output])
    with pytest.raises(ValueError, match="with 1 and 2"):
        unfuse(model, tiny, images)


def test_no_model(tiny, images):
    with pytest.raises(TypeError, match="Received: str"):
        unfuse("fused.keras", tiny, images)


# Effective checks.


def bias_forgotten(branch):
    kernel, bias = reparam_fold_branch(branch)
    return kernel, 0 * bias


def kernel_too_small(branch):
    kernel, bias = reparam_fold_branch(branch)
    return 0.999 * kernel, bias


reparam_fold_branch = reparameterization.fold_branch


@pytest.mark.parametrize("bug", [bias_forgotten, kernel_too_small])
def test_a_planted_bug_in_the_split_is_found(bug, monkeypatch, fused, tiny, images):
    monkeypatch.setattr(unfusing.reparameterization, "fold_branch", bug)
    with pytest.raises(ArithmeticError, match="first part that differs is 'stem'"):
        unfuse(fused, tiny, images)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "variance"])
def test_planted_bugs_in_the_statistics_show_in_training_only(
    method, monkeypatch, fused, tiny, images, relative_error
):
    proper = getattr(unfusing.PatchMoments, method)
    monkeypatch.setattr(unfusing.PatchMoments, method, lambda m, f: 1.1 * proper(m, f))
    model = unfuse(fused, tiny, images)
    error = relative_error(training_output(model, images), fused(images))
    assert error > 10 * TRAINING_TOLERANCE


# Weights of the authors.


@pytest.mark.slow
def test_the_authors_fused_s0_on_photographs(shared, relative_error):
    deploy = MobileOne(
        "s0",
        weights=shared / "weights" / "mobileone_s0_apple_fused.safetensors",
        input_shape=(128, 128, 3),
        classifier_activation=None,
        deploy=True,
    )
    paths = spread(list_images(shared / "imagenet-sample" / "images"), 64)
    photographs = preprocess_input(np.stack(list(load_crops(paths, (128, 128), 0.875))))
    model = unfuse(deploy, "s0", photographs)
    expected = deploy(photographs)
    assert relative_error(model(photographs, training=False), expected) < TOLERANCE
    assert relative_error(training_output(model, photographs), expected) < TRAINING_TOLERANCE
    gammas = [float(np.median(n.gamma)) for b in blocks(model, VARIANTS["s0"]) for n, _ in norms(b)]
    assert min(gammas) > 0.02
