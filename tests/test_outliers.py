"""Tests the limits of rare large activations, and exact pixels, in int8 files."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mobileone
from keras_mobileone import ImageConfig, Steps, quantize
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.quantization import outliers
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.pixel_input import taking_pixels
from keras_mobileone.quantization.scaling_groups import find_scaling_groups
from keras_mobileone.quantization.statistics import BATCH_SIZE, SENSITIVITY_IMAGES, measure
from keras_mobileone.quantization.trace import trace

SIZE = (32, 32, 3)
CONFIG = ImageConfig(SIZE[:2])
CHANNELS_OF_A_SENSOR = (32, 32, 4)  # of which the package does not expect certain values


@pytest.fixture(scope="module")
def images():
    """Returns random images, one of eight with a pixel that the network below detects."""
    images = np.random.default_rng(0).uniform(-1, 1, (64, *CHANNELS_OF_A_SENSOR))
    images[::8, 1, -2, 0] = 3
    return images.astype(np.float32)


def network(activation, side=False, scaled=False):
    """Returns a network in which the detected pixel is large in all channels of `wide`.

    Args:
        activation: It decides how much it matters how large the pixel is.
        side: Whether other channels precede those of `wide` in a concatenation.
        scaled: Whether inputs and outputs are multiplied by a number, 1, that the images give.
    """
    keras.utils.set_random_seed(1)
    inputs = keras.Input(CHANNELS_OF_A_SENSOR)
    detector = layers.Conv2D(9, 1, activation="relu", name="detector")
    wide = layers.Conv2D(16, 3, activation="relu", name="wide")
    number = 0 * ops.mean(inputs) + 1
    x = wide(detector(inputs * number if scaled else inputs))
    if side:
        others = layers.Conv2D(8, 3, activation="relu", name="side")(inputs)
        x = layers.Concatenate()([others, x])
    x = layers.Conv2D(16, 1, activation=activation, name="mixed")(x)
    outputs = layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x))
    if scaled:
        outputs = outputs * number
    kernel, bias = detector.get_weights()
    kernel[..., 8], bias[8] = [20, 0, 0, 0], -20  # 40 for the pixel, 0 for all others
    detector.set_weights([kernel, bias])
    kernel, bias = wide.get_weights()
    kernel[..., 8, :] = 1
    wide.set_weights([kernel, bias])
    return keras.Model(inputs, outputs)


def on_others(model, images, **options):
    """Returns the SQNR on images that did not calibrate."""
    report = quantize(model, images[:32], normalize=False, **options)
    runner = LiteRTRunner(report.content)
    found = np.concatenate([next(iter(runner(image[None]).values())) for image in images[32:]])
    return sqnr(model.predict(images[32:], verbose=0), found), report


def test_outliers_that_saturate_are_limited(images):
    model = network("sigmoid")
    without, _ = on_others(model, images, steps=Steps(outliers=False))
    found, report = on_others(model, images)
    assert report.limited == ["wide"]
    assert found > without + 3


def test_outliers_before_a_concatenation(images):
    model = network("sigmoid", side=True)
    without, _ = on_others(model, images, steps=Steps(outliers=False))
    found, report = on_others(model, images)
    assert report.limited == ["wide"]
    assert found > without + 2


def test_outliers_beside_a_number_without_a_batch(images):
    result = equalize(network("sigmoid", scaled=True), images[:30], limit_outliers=True)
    assert list(result.limits) == ["wide"]


def test_outliers_that_matter_are_kept(images):
    _, report = on_others(network("relu"), images)
    assert report.limited == []


def test_equalization_reports_limits_on_request_and_keeps_the_outputs(images):
    model = network("sigmoid")
    assert equalize(model, images[:32]).limits == {}
    result = equalize(model, images[:32], limit_outliers=True)
    inner = keras.Model(result.model.inputs, result.model.get_layer("wide_activation").output)
    largest = float(inner.predict(images[:32], verbose=0).max())
    assert result.limits["wide"] == pytest.approx(1)  # the ranges are those of limited values
    assert largest > 1.3
    expected, found = (ops.convert_to_numpy(m(images)) for m in (model, result.model))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_values_that_are_usual_are_not_limited(images):
    model = network("sigmoid")
    single = images[:1]  # which has the pixel
    assert equalize(model, single, limit_outliers=True).limits == {}
    assert equalize(model, np.repeat(single, 8, axis=0), limit_outliers=True).limits == {}


def test_only_tensors_whose_rounding_matters_are_limited(images, monkeypatch):
    monkeypatch.setattr(outliers, "SMALLEST_SHARE", 1.01)
    assert equalize(network("sigmoid"), images[:32], limit_outliers=True).limits == {}


def sensitivity(images, activation="relu"):
    """Returns the sensitivity of a tensor that is the images themselves, by channel."""
    inputs = keras.Input(images.shape[1:])
    copied = layers.DepthwiseConv2D(1, activation=activation, depthwise_initializer="ones")(inputs)
    outputs = layers.Dense(64, kernel_initializer="orthogonal")(
        layers.GlobalAveragePooling2D()(copied)
    )
    traced = trace(keras.Model(inputs, outputs))
    groups = find_scaling_groups(traced)[0]
    [measured] = measure(traced, groups, images.astype(np.float32))
    return measured.tensors[0].sensitivity


def test_rounding_errors_that_are_alike_in_an_image_add_up():
    rng = np.random.default_rng(0)
    varied = rng.uniform(0.2, 1, (SENSITIVITY_IMAGES, 12, 12, 1))
    flat = np.broadcast_to(rng.uniform(0.2, 1, (len(varied), 1, 1, 1)), varied.shape)
    images = np.concatenate([varied, flat, np.zeros(varied.shape)], axis=-1)
    independent, alike, none = sensitivity(images)
    assert 40 < alike / independent < 500  # 144 positions
    assert none == 0
    independent, alike, none = sensitivity(images[:1])  # a single error would decide
    assert 0.2 < alike / independent < 5
    assert none == 0


@pytest.mark.parametrize(("activation", "exact"), [("relu", True), ("linear", False)])
def test_rounding_errors_are_those_of_the_whole_range(activation, exact):
    """The values are multiples of a step whose range begins at 0, and half as fine as one from −1.

    Few images have the largest value, so that the range of a batch is not enough.
    """
    steps = np.random.default_rng(0).integers(0, 128, (SENSITIVITY_IMAGES, 6, 6, 1))
    steps[BATCH_SIZE :: 2 * BATCH_SIZE, 0, 0] = 255
    steps[BATCH_SIZE, 1, 1] = -255
    assert (sensitivity(steps / 255, activation) < 1e-6).all() == exact


def test_errors_that_a_bias_corrects_do_not_count():
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 128, (SENSITIVITY_IMAGES, 6, 6, 2)) + 0.3  # one error for all values
    steps[..., 1] += rng.uniform(-0.5, 0.5, steps.shape[:-1])
    steps[:: 2 * BATCH_SIZE, 0, 0] = 255
    same, unlike = sensitivity(steps / 255)
    assert same < 0.05 * unlike


def padded(inputs):
    return layers.Conv2D(6, 3, strides=2)(layers.ZeroPadding2D(1)(inputs))


def two_branches(inputs):
    return layers.Add()([layers.Conv2D(6, 3, padding="same")(inputs), layers.Conv2D(6, 1)(inputs)])


def two_branches_of_blocks(inputs):
    """Two convolutions of stride 2 share paddings of unequal sides."""
    outer = layers.ZeroPadding2D(((2, 1), (0, 3)))(inputs)
    inner = layers.Identity()(layers.ZeroPadding2D(1)(outer))
    narrow = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(inner)
    wide = layers.Conv2D(6, (4, 5), strides=2, padding="same", activation="relu")(inner)
    return layers.Add()([narrow, wide])


def shared_padding(inputs):
    """The layer that pads the input is called again on the output."""
    padding = layers.ZeroPadding2D(1)
    return padding(layers.Conv2D(6, 3, strides=2)(padding(inputs)))


def point(inputs):
    return layers.Conv2D(6, 1, strides=2)(layers.ZeroPadding2D(((1, 0), (0, 3)))(inputs))


@pytest.mark.parametrize(
    ("first", "size", "channels"),
    [
        (padded, SIZE, 13),
        (padded, (31, 32, 3), 4),
        (two_branches, SIZE, 4),
        (two_branches_of_blocks, SIZE, 13),
        (point, SIZE, 13),
        (shared_padding, SIZE, 4),
        (lambda x: layers.Conv2D(6, 3, strides=2, padding="same")(x), (48, 30, 3), 13),
        (lambda x: layers.Conv2D(6, 7, strides=2)(layers.ZeroPadding2D(3)(x)), SIZE, 13),
        (lambda x: layers.Conv2D(6, (2, 6), strides=2)(x), SIZE, 13),
        (lambda x: layers.Conv2D(6, 1, strides=2)(x), SIZE, 13),
        (lambda x: layers.Conv2D(6, 3, strides=(2, 1))(x), SIZE, 4),
        (lambda x: layers.Conv2D(6, 3, dilation_rate=2)(x), SIZE, 4),
        (lambda x: layers.Conv2D(6, 8, strides=4)(x), SIZE, 4),
    ],
)
def test_a_model_on_pixels_has_the_same_outputs(first, size, channels):
    inputs = keras.Input(size)
    model = keras.Model(inputs, layers.Conv2D(4, 3, padding="same")(first(inputs)))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=weights.shape) for weights in model.get_weights()])
    pixels = np.random.default_rng(0).integers(0, 256, (4, *size)).astype(np.float32)
    expected = ops.convert_to_numpy(model(CONFIG.normalize(pixels)))
    on_pixels = taking_pixels(model, CONFIG)
    assert on_pixels.get_layer("centered_pixels").output.shape[-1] == channels
    found = ops.convert_to_numpy(on_pixels(pixels))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "first",
    [
        lambda x: layers.DepthwiseConv2D(3)(x),
        lambda x: layers.Add()([layers.Conv2D(3, 1)(x), x]),
        lambda x: layers.Conv2D(6, 3, groups=3)(x),
    ],
    ids=["depthwise", "shortcut", "groups"],
)
def test_other_models_keep_their_normalization(first):
    inputs = keras.Input(SIZE)
    model = keras.Model(inputs, layers.Conv2D(4, 1)(first(inputs)))
    assert taking_pixels(model, CONFIG) is None
    pixels = np.random.default_rng(0).integers(100, 150, (8, *SIZE)).astype(np.float32)
    model = keras_mobileone.set_image_config(model, CONFIG)
    normalized = quantize(model, pixels).tensors[1]
    assert (normalized.low, normalized.high) == pytest.approx(CONFIG.range, rel=0.01)


def test_pixels_are_exact_whatever_the_calibration():
    """The calibration images have neither black nor white."""
    inputs = keras.Input(SIZE)
    model = keras.Model(inputs, layers.Conv2D(4, 1)(padded(inputs)))
    model = keras_mobileone.set_image_config(model, CONFIG)
    pixels = np.random.default_rng(0).integers(100, 150, (8, *SIZE)).astype(np.float32)
    report = quantize(model, pixels)
    centered = report.tensors[1]
    assert "centered_pixels" in centered.name
    assert (centered.low, centered.high, centered.sqnr) == (-128, 127, float("inf"))
