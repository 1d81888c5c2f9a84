"""Tests `MobileOneDeepLabV3`: its features, its head, its weights, fusing and saving."""

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops

import keras_mobileone as km
from keras_mobileone.cli import main
from keras_mobileone.data.image_config import image_config
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.dense_complexity import DENSE_HEADS, dense_complexity
from keras_mobileone.models.network import feature_extractor
from keras_mobileone.models.tasks import task_config
from keras_mobileone.weights.loading import load_keras

SHAPE = (64, 96, 3)


def segmenter(variant, **arguments):
    settings = {"weights": None, "aspp_filters": 16, "rates": (2, 3)} | arguments
    return km.MobileOneDeepLabV3(variant, 5, settings.pop("input_shape", SHAPE), **settings)


@pytest.fixture(scope="module")
def models(tiny, randomize):
    """Returns a train-time model and the one that fusing makes of it."""
    model = randomize(segmenter(tiny, decoder_filters=8))
    return model, km.fuse(model)


def test_logits_have_the_size_of_the_input(tiny):
    for shape in ((64, 96, 3), (50, 70, 3)):
        model = segmenter(tiny, input_shape=shape)
        assert model.output_shape == (None, *shape[:2], 5)
        assert model.outputs[0].dtype == "float32"
        assert image_config(model).image_size == shape[:2]
        assert image_config(model).stretch


@pytest.mark.parametrize("deploy", [False, True])
def test_a_smaller_output_stride_computes_more_of_the_same_features(deploy, tiny, randomize, noise):
    """The features at even positions are the same bits, and more lie between them."""
    images = noise(1, *SHAPE)
    features = {}
    for stride in (32, 16):
        model = randomize(segmenter(tiny, output_stride=stride, deploy=deploy))
        features[stride] = [np.asarray(f) for f in feature_extractor(model)(images)]
    assert all(
        np.array_equal(a, b) for a, b in zip(features[32][:3], features[16][:3], strict=True)
    )
    assert features[32][3].shape[1:3] == (2, 3)
    assert features[16][3].shape[1:3] == (4, 6)
    # The variant has squeeze-and-excitation in stage 4, whose means depend on all positions.
    plain = km.Variant("plain", (0.25,) * 4, num_conv_branches=2, depths=(1, 2, 2, 1))
    outputs = []
    for stride in (32, 16):
        model = randomize(segmenter(plain, output_stride=stride, deploy=deploy))
        outputs.append(np.asarray(feature_extractor(model)(images)[3]))
    assert np.array_equal(outputs[0], outputs[1][:, ::2, ::2])
    assert np.abs(outputs[0]).max() > 0


def test_stride_8_dilates_stages_3_and_4_and_keeps_their_features(randomize, noise):
    """Dilated kernels see the pixels that they saw at stride 32."""
    variant = km.Variant("plain", (0.25,) * 4, num_conv_branches=2, depths=(1, 2, 2, 1))
    images = noise(1, 64, 96, 3)
    models = {s: randomize(segmenter(variant, output_stride=s)) for s in (32, 8)}
    rates = {
        layer.name: layer.dilation_rate
        for layer in models[8].layers
        if isinstance(layer, km.MobileOneBlock) and layer.dilation_rate > 1
    }
    assert rates == {"stage3_pair2_depthwise": 2, "stage4_pair1_depthwise": 2}
    coarse, fine = (np.asarray(feature_extractor(models[s])(images)[3]) for s in (32, 8))
    assert fine.shape[1:3] == (8, 12)
    assert np.abs(coarse - fine[:, ::4, ::4]).max() < 1e-5 * np.abs(coarse).max()


def test_a_dilated_block_trains_and_folds(randomize, relative_error, noise):
    block = km.MobileOneBlock(8, depthwise=True, num_conv_branches=2, dilation_rate=2)
    inputs = noise(2, 9, 11, 8)
    block(inputs)
    randomize(block)
    assert tuple(block(inputs).shape) == (2, 9, 11, 8)
    assert relative_error(block.fuse()(inputs), block(inputs)) < 1e-5
    from keras_mobileone.layers.block import folded_inference

    with folded_inference():
        folded = block(inputs)
    assert relative_error(folded, block(inputs)) < 1e-5
    assert not block._in_one_pass((2, 9, 11, 8))
    copy = km.MobileOneBlock.from_config(block.get_config())
    assert (copy.dilation_rate, copy.skip) == (2, True)
    with pytest.raises(ValueError, match="`dilation_rate` must be at least 1"):
        km.MobileOneBlock(8, strides=2, dilation_rate=2)


# GMACs of backbone, dense and separable head at 512 pixels, stride 16, 21 classes, as computed from
# the widths alone: 9·c + c·o values for each pair of blocks, and so on.
COUNTS = {"s0": (1.64, 7.86, 1.44), "s1": (4.81, 9.74, 1.72), "s4": (17.0, 15.4, 2.55)}


@pytest.mark.parametrize("name", COUNTS)
def test_work(name):
    """The counts leave out squeeze-and-excitation, which S4 has: 0.1 %."""
    dense, separable = (h for h in (DENSE_HEADS["segment"][1], DENSE_HEADS["segment"][0]))
    for head, expected in zip((dense, separable), COUNTS[name][1:], strict=True):
        found = dense_complexity(km.get_variant(name), head)
        assert found.backbone_macs / 1e9 == pytest.approx(COUNTS[name][0], rel=5e-3)
        assert found.head_macs / 1e9 == pytest.approx(expected, rel=5e-3)


def test_the_command_shows_the_work():
    for task, words in (("segment", ("separable", "3,079,471,104")), ("detect", ("SSDLite",))):
        result = CliRunner().invoke(main, ["info", "s0", "--task", task])
        assert result.exit_code == 0
        assert all(word in result.output for word in words)


def test_fused_equals_unfused(models, relative_error, noise):
    model, fused = models
    images = noise(2, *SHAPE)
    assert relative_error(fused(images), model(images)) < 1e-5
    assert np.array_equal(model(images), model(images, training=False))
    kinds = {type(layer) for layer in fused.layers}
    assert keras.layers.BatchNormalization not in kinds
    assert all(kind.__module__.startswith("keras.") for kind in kinds)
    assert (
        task_config(fused)
        == task_config(model)
        == km.SegmentationConfig(5, rates=(2, 3), aspp_filters=16, decoder_filters=8)
    )


def test_a_wrong_fold_of_the_head_is_noticed(models, monkeypatch):
    """The check of `fuse` goes red if a bias is wrong."""
    from keras_mobileone.models import folding

    real = folding.folded_weights

    def wrong(layer, norm):
        kernel, bias = real(layer, norm)
        return kernel, 2 * bias

    monkeypatch.setattr(folding, "folded_weights", wrong)
    with pytest.raises(ArithmeticError, match="first layer that differs is 'aspp_"):
        km.fuse(models[0])


def test_fusing_and_building_for_deploy_make_the_same_layers(models, tiny):
    _, fused = models
    built = segmenter(tiny, decoder_filters=8, deploy=True)
    assert [layer.name for layer in built.layers] == [layer.name for layer in fused.layers]
    assert model_complexity(built) == model_complexity(fused)


def test_unfuse_restores_branches_and_normalization(models, tiny, relative_error, noise):
    _, fused = models
    images = noise(8, *SHAPE)
    model = km.unfuse(fused, tiny, images)
    assert relative_error(model(images), fused(images)) < 1e-5
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    assert len(norms) == 11
    # The statistics are those of the images, so that training begins where inference is.
    model.get_layer("dropout").rate = 0
    assert relative_error(model(images, training=True), fused(images)) < 1e-3
    assert task_config(model) == task_config(fused)
    assert relative_error(km.fuse(model)(images), fused(images)) < 1e-5
    with pytest.raises(ValueError, match="Expected a fused tiny and nothing else"):
        other = keras.Model(fused.input, keras.layers.ReLU(name="more")(fused.output))
        km.unfuse(other, tiny, images)


def test_backbone_weights_come_from_a_classifier(tiny, tiny_model, tmp_path, noise):
    """Any file with the weights of a MobileOne is a source, and fused ones need `deploy`."""
    path, fused_path = tmp_path / "train.keras", tmp_path / "fused.keras"
    tiny_model.save(path)
    km.fuse(tiny_model).save(fused_path)
    images = noise(1, *SHAPE)
    expected = feature_extractor(tiny_model)(images[:, :64, :64])[2]
    for source, deploy in ((path, False), (path, True), (fused_path, True)):
        model = km.MobileOneDeepLabV3(tiny, 5, (64, 64, 3), source, deploy=deploy)
        found = feature_extractor(model)(images[:, :64, :64])[2]
        assert np.abs(np.asarray(found) - expected).max() < 1e-4 * np.abs(expected).max()
    with pytest.raises(ValueError, match=r"fused weights.*call `unfuse`"):
        km.MobileOneDeepLabV3(tiny, 5, SHAPE, fused_path)


def test_named_weights():
    model = km.MobileOneDeepLabV3("s0", 5, SHAPE, "imagenette", deploy=True, output_stride=8)
    classifier = km.MobileOneS0(weights="imagenette", deploy=True)
    for name in ("stem_conv", "stage4_pair1_depthwise_conv"):
        pairs = (m.get_layer(name).get_weights()[0] for m in (model, classifier))
        assert np.array_equal(*pairs)


def test_it_learns_and_is_saved(tiny, tmp_path, noise):
    model = segmenter(tiny)
    images = noise(4, *SHAPE)
    masks = (images[..., 0] > 0).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=4)
    # A graph of this network takes longer to make than these steps take.
    model.compile(keras.optimizers.Adam(3e-3), loss, run_eagerly=True)
    losses = [float(model.train_on_batch(images, masks)) for _ in range(6)]
    assert losses[-1] < losses[0] - 0.2
    model.save(tmp_path / "model.keras")
    loaded = load_keras(tmp_path / "model.keras")
    assert type(loaded) is km.MobileOneModel
    assert task_config(loaded) == task_config(model)
    assert image_config(loaded).stretch
    assert np.array_equal(loaded(images), model(images))


@pytest.mark.slow
def test_a_fused_model_loads_without_this_package(models, tmp_path, run_python, noise):
    _, fused = models
    fused.save(tmp_path / "fused.keras")
    images = noise(1, *SHAPE)
    np.save(tmp_path / "images.npy", images)
    source = """
import sys, numpy as np, keras
model = keras.models.load_model(sys.argv[1])
assert not any(name.startswith("keras_mobileone") for name in sys.modules)
np.save(sys.argv[3], np.asarray(model(np.load(sys.argv[2]))))
"""
    paths = (tmp_path / name for name in ("fused.keras", "images.npy", "outputs.npy"))
    run_python(source, *paths, cwd=tmp_path, PYTHONPATH="")
    found = np.load(tmp_path / "outputs.npy")
    assert np.abs(found - ops.convert_to_numpy(fused(images))).max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"output_stride": 4}, "`output_stride` must be one of 32, 16, 8"),
        ({"rates": (6, 6)}, "`rates` must be different positive integers"),
        ({"rates": (0,)}, "`rates` must be different positive integers"),
        ({"aspp_filters": 0}, "`aspp_filters` must be a positive integer"),
        ({"decoder_filters": 0.5}, "`decoder_filters` must be a positive integer"),
        ({"dropout": 1.0}, "`dropout` must lie in"),
        ({"input_shape": (None, None, 3)}, "RGB images of a fixed size"),
        ({"input_shape": (64, 64, 1)}, "RGB images of a fixed size"),
        ({"input_shape": (16, 64, 3)}, "at least 32×32 pixels"),
    ],
)
def test_wrong_arguments(arguments, words, tiny):
    with pytest.raises(ValueError, match=words):
        segmenter(tiny, **arguments)


def test_missing_weights(tiny):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        segmenter(tiny, weights="nowhere.keras")
    with pytest.raises(TypeError, match="Received: weights of type int"):
        segmenter(tiny, weights=3)
