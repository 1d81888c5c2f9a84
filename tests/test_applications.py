"""Tests `MobileOne` and `MobileOneS0` …: the rules of Keras Applications, features, training."""

import inspect
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_mobileone
from keras_mobileone import VARIANTS, MobileOne, feature_extractor, fuse

BUILDERS = {name: getattr(keras_mobileone, f"MobileOne{name.upper()}") for name in VARIANTS}
STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("name", VARIANTS)
def test_signature_is_keras_applications(name):
    ours = inspect.signature(BUILDERS[name]).parameters
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    positional = [p for p in ours if ours[p].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)
    defaults = {p: ours[p].default for p in positional if p != "name"}
    assert defaults == {p: theirs[p].default for p in theirs if p != "name"}
    extra = {p: ours[p].default for p in ours if p not in positional}
    assert extra == {"deploy": False}
    assert BUILDERS[name].__name__ == f"MobileOne{name.upper()}"


def test_mobileone_takes_the_variant_first():
    ours = list(inspect.signature(MobileOne).parameters)
    assert ours == ["variant", *inspect.signature(BUILDERS["s0"]).parameters]


@pytest.mark.parametrize("name", VARIANTS)
def test_defaults_but_weights(name):
    model = BUILDERS[name](weights=None, deploy=True)
    assert model.name == VARIANTS[name].name
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    assert model.layers[-1].activation is keras.activations.softmax


def test_a_variant_by_name_or_of_ones_own(tiny):
    arguments = {"weights": None, "include_top": False, "deploy": True}
    assert MobileOne("s0", **arguments).name == "mobileone_s0"
    assert MobileOne(tiny, **arguments).name == "tiny"
    with pytest.raises(ValueError, match="s9"):
        MobileOne("s9", **arguments)


def build(tiny, **arguments):
    return MobileOne(tiny, **{"weights": None, "input_shape": (64, 64, 3), **arguments})


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
def test_top_pooling_and_name(tiny, deploy):
    assert build(tiny, deploy=deploy, classes=7).output_shape == (None, 7)
    assert build(tiny, deploy=deploy, include_top=False).output_shape == (None, 2, 2, 32)
    for pooling in ("avg", "max"):
        model = build(tiny, deploy=deploy, include_top=False, pooling=pooling)
        assert model.output_shape == (None, 32)
    assert build(tiny, deploy=deploy, name="mine").name == "mine"
    assert hasattr(build(tiny, deploy=deploy), "fuse") != deploy


@pytest.mark.parametrize("deploy", [False, True], ids=["train", "deploy"])
def test_pooling_pools(tiny, deploy, noise, relative_error, randomize):
    images = noise(2, 64, 96, 3)
    plain = randomize(build(tiny, include_top=False, input_shape=(64, 96, 3), deploy=deploy))
    features = keras.ops.convert_to_numpy(plain(images, training=False))
    for pooling, function in (("avg", np.mean), ("max", np.max)):
        pooled = MobileOne(
            tiny, weights=None, include_top=False, pooling=pooling, input_tensor=None, deploy=deploy
        )
        pooled.set_weights(plain.get_weights())
        expected = function(features, axis=(1, 2))
        assert relative_error(pooled(images, training=False), expected) < 1e-5


def test_logits_become_probabilities_by_softmax(tiny, tiny_model, noise, relative_error):
    model = build(tiny, classes=10)
    model.set_weights(tiny_model.get_weights())
    images = noise(2, 64, 64, 3)
    expected = keras.ops.softmax(tiny_model(images, training=False))
    assert relative_error(model(images, training=False), expected) < 1e-5


def test_size_may_stay_open_without_top(tiny, noise):
    model = build(tiny, include_top=False, input_shape=(None, None, 3))
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, None, None, 32)
    for size in ((32, 32), (33, 65), (100, 50)):
        expected = (1, *(-(-side // 32) for side in size), 32)
        assert model(noise(1, *size, 3)).shape == expected
    assert MobileOne(tiny, weights=None, include_top=False).input_shape == (None, None, None, 3)


def test_grey_images_without_pretrained_weights(tiny, noise):
    model = build(tiny, input_shape=(64, 64, 1), classes=3)
    assert model(noise(2, 64, 64, 1)).shape == (2, 3)
    assert fuse(model).input_shape == (None, 64, 64, 1)


def test_input_tensor(tiny):
    pixels = keras.Input((64, 64, 3), name="pixels")
    model = build(tiny, input_tensor=pixels, input_shape=None)
    assert model.input is pixels  # and not a list of one, which no image tool would take
    assert model.input_shape == (None, 64, 64, 3)
    assert build(tiny, input_tensor=pixels).input is pixels  # the shape says the same


@pytest.mark.slow
def test_input_tensor_after_other_layers(tiny, noise, randomize, relative_error):
    pixels = keras.Input((64, 64, 3), name="pixels")
    image = layers.Rescaling(1 / 255)(pixels)
    model = randomize(build(tiny, input_tensor=image, input_shape=None, classes=5))
    assert [t.name for t in keras.tree.flatten(model.input)] == ["pixels"]
    plain = build(tiny, classes=5)
    plain.set_weights(model.get_weights())
    images = 255 * noise(2, 64, 64, 3)
    found = model(images, training=False)
    assert relative_error(found, plain(images / 255, training=False)) < 1e-5
    assert relative_error(fuse(model)(images), found) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "imagenet", "classes": 10}, "1000 classes. Received: classes=10"),
        ({"weights": "imagenet", "input_shape": (224, 224, 1)}, "need RGB"),
        (
            {"weights": "imagenet", "classifier_activation": "sigmoid"},
            "None or 'softmax'.*'sigmoid'",
        ),
        ({"pooling": "median"}, "pooling='median'"),
        ({"pooling": "median", "include_top": False}, "pooling='median'"),
        ({"classes": 0}, "classes=0"),
        ({"classes": 2.5}, "classes=2.5"),
        ({"input_shape": (None, None, 3)}, r"must be fixed.*\(None, None, 3\)"),
        ({"input_shape": (64, None, 3)}, r"must be fixed.*\(64, None, 3\)"),
        ({"input_shape": (64, 64)}, r"channels last.*\(64, 64\)"),
        ({"input_shape": (64, 64, None)}, r"channels last.*\(64, 64, None\)"),
        ({"input_shape": (31, 64, 3)}, r"32×32.*\(31, 64, 3\)"),
        ({"input_shape": (64, 31, 3), "include_top": False}, r"32×32.*\(64, 31, 3\)"),
    ],
)
def test_arguments_that_contradict_each_other(tiny, arguments, message):
    variant = VARIANTS["s0"] if arguments.get("weights") else tiny
    with pytest.raises(ValueError, match=message):
        MobileOne(variant, **{"weights": None, **arguments})


def test_input_tensor_and_shape_must_agree(tiny):
    with pytest.raises(ValueError, match=r"\(64, 64, 3\) and input_shape=\(32, 32, 3\)"):
        build(tiny, input_tensor=keras.Input((64, 64, 3)), input_shape=(32, 32, 3))


def test_input_tensor_is_held_to_the_same_rules(tiny):
    with pytest.raises(ValueError, match="32×32"):
        build(tiny, input_tensor=keras.Input((16, 16, 3)), input_shape=None)
    with pytest.raises(ValueError, match="need RGB"):
        MobileOne("s0", weights="imagenet", input_tensor=keras.Input((64, 64, 1)))


def test_wrong_types(tiny, noise):
    with pytest.raises(TypeError, match=r"input_tensor.*ndarray"):
        build(tiny, input_tensor=noise(1, 64, 64, 3))
    with pytest.raises(TypeError, match="weights of type int"):
        build(tiny, weights=3)
    with pytest.raises(TypeError, match="depth"):
        build(tiny, depth=3)


def test_weights_that_do_not_exist(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        build(tiny, weights=tmp_path / "nowhere.safetensors")


def test_imagenet_weights_exist_for_the_family_only(tiny):
    with pytest.raises(ValueError, match=r"mobileone_s0.*'tiny'"):
        build(tiny, weights="imagenet", include_top=False)


def test_channels_first_is_an_error(tiny):
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first"):
            build(tiny)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", VARIANTS)
def test_features_of_every_variant(name):
    model = MobileOne(name, weights=None, deploy=True)
    channels = VARIANTS[name].stage_filters
    expected = [(None, 224 // s, 224 // s, c) for s, c in zip(STRIDES, channels, strict=True)]
    assert [tuple(output.shape) for output in feature_extractor(model).outputs] == expected


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_features_of_train_time_and_fused_model(tiny, size, randomize, noise, relative_error):
    model = randomize(build(tiny, include_top=False, input_shape=(None, None, 3)))
    images = noise(1, *size, 3)
    expected = feature_extractor(model)(images, training=False)
    shapes = [
        (1, *(-(-side // s) for side in size), c)
        for s, c in zip(STRIDES, tiny.stage_filters, strict=True)
    ]
    assert [tuple(x.shape) for x in expected] == shapes
    found = feature_extractor(fuse(model))(images)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-5
    by_name = keras.Model(model.input, [model.get_layer(f"stage{n}").output for n in range(1, 5)])
    for a, b in zip(by_name(images, training=False), expected, strict=True):
        assert relative_error(a, b) == 0


def test_features_share_their_weights(tiny):
    model = build(tiny)
    assert feature_extractor(model).weights[0] is model.weights[0]


def test_features_of_another_model_are_an_error():
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="stage1"):
        feature_extractor(keras.Model(inputs, layers.Flatten()(inputs)))


def test_a_keras_file_brings_the_model_back(tiny_model, tmp_path, noise, relative_error):
    path = tmp_path / "model.keras"
    tiny_model.save(path)
    copy = keras.models.load_model(path)
    images = noise(2, 64, 64, 3)
    assert relative_error(copy(images, training=False), tiny_model(images, training=False)) == 0
    assert type(copy) is type(tiny_model)
    assert relative_error(copy.fuse()(images), tiny_model(images, training=False)) < 1e-5


def test_cloning_keeps_the_model_a_mobileone(tiny_model):
    assert keras.models.clone_model(tiny_model).fuse(verify=False)


@pytest.mark.slow
def test_three_steps_of_training_change_the_loss(tiny, noise):
    model = build(tiny, classes=4, input_shape=(32, 32, 3))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    images, labels = noise(8, 32, 32, 3), np.arange(8) % 4
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    losses = model.fit(images, labels, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[2] < losses[0]
    after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    moved = [(a != b).any() for a, b in zip(after, before, strict=True)]
    unmoved = [v.path for v, m in zip(model.trainable_variables, moved, strict=True) if not m]
    assert not unmoved


@pytest.mark.slow
def test_s0_trains(noise):
    """oneDNN's strided 1×1 convolution of 3 channels would crash this on AVX-512 processors."""
    model = MobileOne("s0", weights=None, input_shape=(64, 64, 3), classes=4)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)  # tracing would take longer
    images, labels = noise(8, 64, 64, 3), np.arange(8) % 4
    losses = model.fit(images, labels, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1] != losses[2]


@pytest.mark.slow
def test_mixed_precision(tiny, noise):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(tiny, classes=4, input_shape=(32, 32, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in model.layers} == {"float16"}
    assert {v.dtype for v in model.variables} == {"float32"}
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True)
    images, labels = noise(4, 32, 32, 3), np.arange(4)
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("deploy", [False, True])
def test_keras_own_export_takes_a_model_that_nobody_called(deploy, tiny, tmp_path, noise):
    import tensorflow as tf

    options = {"weights": None, "input_shape": (64, 64, 3), "classes": 3, "deploy": deploy}
    model = MobileOne(tiny, **options)
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    archive = tf.saved_model.load(tmp_path / "saved")
    served = archive.serve(noise(1, 64, 64, 3))
    np.testing.assert_allclose(served, model(noise(1, 64, 64, 3)), rtol=1e-5, atol=1e-6)
    # The converter to ONNX is not installed everywhere, and messages of Keras about it are not
    # tested here.
    # Keras 3.15 asks NumPy for an attribute that tf2onnx needs and NumPy announces.
    warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
    try:
        MobileOne(tiny, **options).export(tmp_path / "model.onnx", format="onnx", verbose=False)
    except (ImportError, AttributeError) as error:
        assert "onnx" in str(error)
