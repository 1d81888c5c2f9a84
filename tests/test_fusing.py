"""Tests `fuse`: equal outputs for every variant and other models, and effective checks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_mobileone import VARIANTS, MobileOne, MobileOneBlock, fuse
from keras_mobileone.layers import block as block_module
from keras_mobileone.layers import reparameterization
from keras_mobileone.models import fusing

TOLERANCE = 1e-5
SIZES = [(224, 224), (225, 225), (96, 160)]


# `make test-fast` tests only S0.
OFTEN = [key if key == "s0" else pytest.param(key, marks=pytest.mark.slow) for key in VARIANTS]


@pytest.fixture(scope="module", params=OFTEN)
def variant_pair(request, randomize):
    """Returns a train-time model with logits and random parameters, and its fused model."""
    backbone = MobileOne(request.param, weights=None, include_top=False, pooling="avg")
    logits = layers.Dense(1000, name="logits")(backbone.output)
    model = randomize(keras.Model(backbone.input, logits))
    return model, fuse(model, verify=False)


def stock_only(model) -> bool:
    return all(
        type(layer).__module__.startswith("keras.") for layer in model._flatten_layers()
    ) and not fusing.has_blocks(model)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_variant_at_any_size(variant_pair, size, noise, relative_error):
    model, fused = variant_pair
    images = noise(2, *size, 3)
    expected = model(images, training=False)
    assert relative_error(fused(images), expected) < TOLERANCE
    # The outputs for the two images differ, so that a wrong kernel would be found.
    assert relative_error(expected[:1], expected[1:]) > 1e-2


def test_every_variant_becomes_stock_layers(variant_pair):
    model, fused = variant_pair
    assert stock_only(fused)
    assert not stock_only(model)
    names = {layer.name for layer in fused.layers}
    assert names >= {layer.name for layer in model.layers}  # features keep their names


def test_the_method_does_what_the_function_does(tiny_model, noise, relative_error):
    images = noise(2, 64, 64, 3)
    assert relative_error(tiny_model.fuse()(images), fuse(tiny_model)(images)) == 0


def test_the_source_stays_as_it_was(tiny, randomize, noise, relative_error):
    model = randomize(MobileOne(tiny, weights=None, input_shape=(64, 64, 3), classes=5))
    config, weights = model.get_config(), model.get_weights()
    images = noise(2, 64, 64, 3)
    expected = ops.convert_to_numpy(model(images, training=False))
    fused = fuse(model)
    for variable in fused.variables:
        variable.assign(ops.zeros_like(variable))
    assert model.get_config() == config
    assert all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
    assert relative_error(model(images, training=False), expected) == 0


@pytest.mark.slow
def test_a_nested_and_shared_backbone(tiny, randomize, noise, relative_error):
    backbone = MobileOne(tiny, weights=None, include_top=False, pooling="avg")
    left, right = keras.Input((64, 64, 3)), keras.Input((48, 80, 3))
    difference = layers.Subtract()([backbone(left), backbone(right)])
    model = randomize(keras.Model([left, right], layers.Dense(3)(difference)))
    fused = fuse(model)
    images = [noise(2, 64, 64, 3), noise(2, 48, 80, 3, seed=1)]
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert stock_only(fused)
    nested = [layer for layer in fused.layers if isinstance(layer, keras.Model)]
    assert len(nested) == 1  # still shared


def test_a_block_called_twice(randomize, noise, relative_error):
    block = MobileOneBlock(8)
    inputs = keras.Input((16, 16, 8))
    model = randomize(keras.Model(inputs, block(block(inputs))))
    fused = fuse(model)
    images = noise(2, 16, 16, 8)
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert fused.count_params() == 9 * 8 * 8 + 8


def test_inference_mode_asked_for_in_the_graph(tiny, randomize, noise, relative_error):
    """The usual way to fine-tune calls `base(x, training=False)` inside a new model."""
    base = MobileOne(tiny, weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    base.trainable = False
    inputs = keras.Input((64, 64, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Dropout(0.5)(base(x, training=False))
    model = randomize(keras.Model(inputs, layers.Dense(2, activation="softmax")(x)))
    fused = fuse(model)
    images = 255 * np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert stock_only(fused)


def test_keras_operations_between_blocks(randomize, noise, relative_error):
    inputs = keras.Input((16, 16, 8))
    x = MobileOneBlock(8)(inputs)
    x = ops.concatenate([x, ops.flip(x, axis=1)], axis=-1)
    x = MobileOneBlock(8, kernel_size=1)(x * 2 + 1)
    model = randomize(keras.Model(inputs, x))
    images = noise(2, 16, 16, 8)
    assert relative_error(fuse(model)(images), model(images, training=False)) < TOLERANCE


def small_sequential():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            MobileOneBlock(8, strides=2),
            MobileOneBlock(8, depthwise=True, se_ratio=0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ],
        name="small",
    )


def test_a_sequential_model(randomize, noise, relative_error):
    model = randomize(small_sequential())
    fused = fuse(model)
    images = noise(2, 32, 32, 3)
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert stock_only(fused)


def test_a_sequential_model_built_by_its_first_call(randomize, noise, relative_error):
    model = keras.Sequential([MobileOneBlock(8), layers.GlobalAveragePooling2D(), layers.Dense(2)])
    images = noise(2, 32, 32, 3)
    model(images)
    randomize(model)
    assert relative_error(fuse(model)(images), model(images, training=False)) < TOLERANCE


def test_a_sequential_model_inside_another(randomize, noise, relative_error):
    inputs = keras.Input((32, 32, 3))
    model = randomize(keras.Model(inputs, layers.Dense(2)(small_sequential()(inputs))))
    fused = fuse(model)
    images = noise(2, 32, 32, 3)
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert stock_only(fused)


def test_a_sequential_model_around_a_backbone(tiny, randomize, noise, relative_error):
    base = MobileOne(tiny, weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    model = randomize(keras.Sequential([keras.Input((64, 64, 3)), base, layers.Dense(2)]))
    images = noise(2, 64, 64, 3)
    assert relative_error(fuse(model)(images), model(images, training=False)) < TOLERANCE


def test_named_inputs_and_outputs(tiny, randomize, noise, relative_error):
    image, extra = keras.Input((64, 64, 3), name="photo"), keras.Input((4,), name="extra")
    backbone = MobileOne(tiny, weights=None, include_top=False, pooling="avg", input_tensor=image)
    x = layers.Concatenate()([backbone.output, extra])
    outputs = {"score": layers.Dense(1)(x), "classes": layers.Dense(3, activation="softmax")(x)}
    model = randomize(keras.Model({"photo": image, "extra": extra}, outputs))
    fused = fuse(model)
    batch = {"photo": noise(2, 64, 64, 3), "extra": noise(2, 4)}
    expected, found = model(batch, training=False), fused(batch)
    assert found.keys() == expected.keys() == outputs.keys()
    for key in outputs:
        assert relative_error(found[key], expected[key]) < TOLERANCE


def test_a_frozen_model_stays_frozen(tiny, randomize, noise, relative_error):
    model = randomize(MobileOne(tiny, weights=None, input_shape=(64, 64, 3), classes=5))
    model.trainable = False
    fused = fuse(model)
    images = noise(2, 64, 64, 3)
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert not fused.trainable_variables


def test_single_frozen_blocks_stay_frozen(tiny):
    model = MobileOne(tiny, weights=None, include_top=False)
    model.get_layer("stage1_pair1_pointwise").trainable = False
    fused = fuse(model)
    assert not fused.get_layer("stage1_pair1_pointwise_conv").trainable
    assert fused.get_layer("stage1_pair2_pointwise_conv").trainable


@pytest.mark.slow
def test_mixed_precision(tiny, randomize, noise, relative_error):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = MobileOne(tiny, weights=None, input_shape=(64, 64, 3), classes=5)
    finally:
        keras.config.set_dtype_policy("float32")
    fused = fuse(randomize(model))
    images = noise(2, 64, 64, 3)
    assert relative_error(fused(images), model(images, training=False)) < 1e-2
    assert {layer.compute_dtype for layer in fused.layers if layer.weights} == {"float16"}
    full = fusing.in_float32(model), fusing.in_float32(fused)
    assert {layer.compute_dtype for m in full for layer in m.layers if layer.weights} == {"float32"}
    # Only the rounding of half precision differs, not the folded weights.
    assert relative_error(full[1](images), full[0](images, training=False)) < TOLERANCE


@pytest.mark.slow
def test_a_renamed_model(tiny, randomize, noise, relative_error):
    model = MobileOne(tiny, weights=None, include_top=False, pooling="avg", name="my_backbone")
    randomize(model)
    renamed = keras.models.clone_model(
        model,
        clone_function=lambda layer: layer.__class__.from_config(
            {**layer.get_config(), "name": f"my_{layer.name}"}
        ),
    )
    renamed.set_weights(model.get_weights())
    images = noise(2, 64, 64, 3)
    expected = model(images, training=False)
    for source, name in ((model, "stage4"), (renamed, "my_stage4")):
        fused = fuse(source)
        assert fused.name == "my_backbone"
        assert fused.get_layer(name)
        assert relative_error(fused(images), expected) < TOLERANCE


@pytest.mark.slow
def test_a_compiled_and_trained_model_with_a_loss_of_ones_own(tiny, noise, relative_error):
    def loss(truth, prediction):
        return ops.mean(ops.square(truth - prediction))

    model = MobileOne(
        tiny, weights=None, input_shape=(32, 32, 3), classes=2, classifier_activation=None
    )
    model.compile(keras.optimizers.SGD(1e-2), loss=loss, run_eagerly=True)
    images = noise(8, 32, 32, 3)
    model.fit(images, noise(8, 2), epochs=2, verbose=0)
    fused = fuse(model)
    assert relative_error(fused(images), model(images, training=False)) < TOLERANCE
    assert not fused.compiled
    assert model.compiled
    model.fit(images, noise(8, 2), verbose=0)  # continues the training


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_the_fused_model_loads_without_this_package(tiny, randomize, tmp_path, noise, run_python):
    """This also holds for a compiled model with a custom loss."""
    model = randomize(MobileOne(tiny, weights=None, input_shape=(64, 64, 3), classes=5))
    model.compile(loss=lambda truth, prediction: ops.mean(prediction))
    images = noise(2, 64, 64, 3)
    model.save(tmp_path / "train.keras")
    fuse(model).save(tmp_path / "fused.keras")
    np.save(tmp_path / "images.npy", images)
    source = """
import sys
sys.modules["keras_mobileone"] = None  # importing it raises
import keras, numpy as np
model = keras.models.load_model("fused.keras")
np.save("outputs.npy", model.predict(np.load("images.npy"), verbose=0))
try:
    keras.models.load_model("train.keras")
except Exception:
    print("the train-time model does need the package")
"""
    assert "does need the package" in run_python(source, cwd=tmp_path)
    found = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(found, model(images, training=False), rtol=1e-4, atol=1e-6)


# Planted bugs, each of which replaces a part of the folding by a plausible mistake.

PROPER_FOLD_BRANCH = reparameterization.fold_branch
PROPER_FOLD = reparameterization.fold


def without_beta(branch):
    kernel, bias = PROPER_FOLD_BRANCH(branch)
    return kernel, bias - branch.norm.beta


def with_the_means_sign_turned(branch):
    return PROPER_FOLD_BRANCH(branch._replace(norm=branch.norm._replace(mean=-branch.norm.mean)))


def with_keras_epsilon(branch):
    return PROPER_FOLD_BRANCH(branch._replace(norm=branch.norm._replace(epsilon=1e-3)))


def with_the_deviation_not_rooted(branch):
    norm = branch.norm._replace(variance=branch.norm.variance**2)
    return PROPER_FOLD_BRANCH(branch._replace(norm=norm))


def with_gammas_magnitude(branch):
    return PROPER_FOLD_BRANCH(
        branch._replace(norm=branch.norm._replace(gamma=abs(branch.norm.gamma)))
    )


def without_the_last_branch(branches, kernel_size):
    return PROPER_FOLD(list(branches)[:-1], kernel_size)


def without_the_second_branch(branches, kernel_size):
    branches = list(branches)
    return PROPER_FOLD(branches[:1] + branches[2:], kernel_size)


def with_small_kernels_off_center(branches, kernel_size):
    def shift(branch):
        if kernel_size == 1 or branch.kernel.shape[0] == kernel_size:
            return branch
        pads = [(0, kernel_size - 1)] * 2 + [(0, 0)] * (branch.kernel.ndim - 2)
        return branch._replace(kernel=np.pad(branch.kernel, pads))

    return PROPER_FOLD(map(shift, branches), kernel_size)


PLANTED = {
    "no beta": ("fold_branch", without_beta),
    "sign of the mean": ("fold_branch", with_the_means_sign_turned),
    "epsilon 1e-3": ("fold_branch", with_keras_epsilon),
    "variance not rooted": ("fold_branch", with_the_deviation_not_rooted),
    "gamma's magnitude": ("fold_branch", with_gammas_magnitude),
    "no skip": ("fold", without_the_last_branch),
    "one branch lost": ("fold", without_the_second_branch),
    "scale off center": ("fold", with_small_kernels_off_center),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_turns_the_check_red(bug, monkeypatch, tiny_model):
    fuse(tiny_model)
    monkeypatch.setattr(reparameterization, *PLANTED[bug])
    with pytest.raises(ArithmeticError, match=r"'tiny'.*'stem'"):
        fuse(tiny_model)


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_turns_the_parity_test_red(
    bug, monkeypatch, tiny_model, noise, relative_error
):
    images = noise(2, 64, 64, 3)
    expected = tiny_model(images, training=False)
    assert relative_error(fuse(tiny_model, verify=False)(images), expected) < TOLERANCE
    monkeypatch.setattr(reparameterization, *PLANTED[bug])
    assert relative_error(fuse(tiny_model, verify=False)(images), expected) > 10 * TOLERANCE


def test_padding_on_one_side_turns_the_check_red(monkeypatch, tiny_model):
    class LopsidedPadding(layers.ZeroPadding2D):
        def __init__(self, margin, **kwargs):
            super().__init__(((0, 2 * margin), (0, 2 * margin)), **kwargs)

    monkeypatch.setattr(block_module.layers, "ZeroPadding2D", LopsidedPadding)
    with pytest.raises(ArithmeticError, match="'stem'"):
        fuse(tiny_model)


def break_block(monkeypatch, name):
    """Makes the folding of one block wrong."""
    proper = MobileOneBlock.folded_weights

    def folded_weights(block):
        kernel, bias = proper(block)
        return (kernel, bias + 1) if block.name == name else (kernel, bias)

    monkeypatch.setattr(MobileOneBlock, "folded_weights", folded_weights)


@pytest.mark.parametrize("name", ["stage2_pair1_depthwise", "stage3_pair1_pointwise"])
def test_the_error_names_the_layer_and_its_error(name, monkeypatch, tiny_model):
    break_block(monkeypatch, name)
    with pytest.raises(ArithmeticError, match=rf"first layer that differs is '{name}', by \d"):
        fuse(tiny_model)
    fuse(tiny_model, verify=False)  # verification was not requested


def test_the_error_names_a_layer_of_a_nested_model(monkeypatch, tiny, randomize):
    backbone = MobileOne(tiny, weights=None, include_top=False, pooling="avg")
    inputs = keras.Input((64, 64, 3))
    model = randomize(keras.Model(inputs, layers.Dense(2)(backbone(inputs))))
    break_block(monkeypatch, "stage2_pair1_depthwise")
    with pytest.raises(ArithmeticError, match="differs is 'stage2_pair1_depthwise'"):
        fuse(model)


def test_wrong_squeeze_and_excitation_weights_are_found(monkeypatch, tiny_model):
    proper = MobileOneBlock.plain

    def plain(block):
        plain_block = proper(block)
        if block.name == "stage4_pair1_depthwise":
            expand = plain_block.se.expand
            expand.bias.assign(-expand.bias)
        return plain_block

    monkeypatch.setattr(MobileOneBlock, "plain", plain)
    with pytest.raises(ArithmeticError, match="'stage4_pair1_depthwise'"):
        fuse(tiny_model)


def test_not_a_number_is_not_equal(monkeypatch, tiny_model):
    proper = MobileOneBlock.folded_weights
    monkeypatch.setattr(
        MobileOneBlock,
        "folded_weights",
        lambda block: (proper(block)[0] * np.nan, proper(block)[1]),
    )
    with pytest.raises(ArithmeticError):
        fuse(tiny_model)


@pytest.mark.slow
def test_a_half_precision_model_with_a_bug_is_found(monkeypatch, tiny, randomize):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = randomize(MobileOne(tiny, weights=None, input_shape=(64, 64, 3), classes=5))
    finally:
        keras.config.set_dtype_policy("float32")
    fuse(model)
    break_block(monkeypatch, "stage2_pair1_depthwise")
    with pytest.raises(ArithmeticError, match="'stage2_pair1_depthwise'"):
        fuse(model)


# Models that can't be fused.


class Subclassed(keras.Model):
    """A model whose `call` accepts only tensors of TensorFlow, and which has no Keras graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = MobileOneBlock(8)

    def call(self, inputs):
        return self.block(tf.nn.relu(inputs))


def test_a_subclassed_model_is_a_type_error(noise):
    model = Subclassed(name="mine")
    model(noise(1, 8, 8, 3))
    with pytest.raises(TypeError, match="'mine' of type Subclassed, whose `call` fails"):
        fuse(model)


def test_a_subclassed_model_inside_another_is_a_type_error():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, Subclassed(name="mine")(inputs))
    with pytest.raises(TypeError, match="'mine' of type Subclassed, whose `call` fails"):
        fuse(model)


@pytest.mark.parametrize("wrong", [None, "model.keras", MobileOneBlock(8)])
def test_what_is_no_model_is_a_type_error(wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        fuse(wrong)


def test_a_model_without_blocks_is_a_value_error(tiny_model):
    with pytest.raises(ValueError, match="'tiny', which has none"):
        fuse(fuse(tiny_model))


def test_a_block_inside_a_wrapper_is_a_value_error():
    inputs = keras.Input((4, 8, 8, 3))
    wrapped = layers.TimeDistributed(MobileOneBlock(8, name="wrapped_block"))(inputs)
    with pytest.raises(ValueError, match="blocks inside other layers, wrapped_block"):
        fuse(keras.Model(inputs, wrapped))


def test_an_unbuilt_sequential_model_is_a_value_error():
    with pytest.raises(ValueError, match="'empty' has no input shape yet"):
        fuse(keras.Sequential([MobileOneBlock(8)], name="empty"))
