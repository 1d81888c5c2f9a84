"""Tests `MobileOneBlock`: shapes, branches, gradients, configuration, errors, `PlainBlock`."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

from keras_mobileone import MobileOneBlock
from keras_mobileone.layers.block import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM

CHANNELS = 16
KINDS = {
    "pointwise": {"kernel_size": 1},
    "dense": {"kernel_size": 3},
    "dense-stride": {"kernel_size": 3, "strides": 2},
    "dense-wide": {"kernel_size": 5, "num_conv_branches": 2},
    "depthwise": {"depthwise": True, "num_conv_branches": 4},
    "depthwise-stride": {"depthwise": True, "strides": 2, "num_conv_branches": 2},
    "se": {"kernel_size": 1, "se_ratio": 0.25},
    "depthwise-stride-se": {"depthwise": True, "strides": 2, "se_ratio": 0.25},
    "linear": {"activation": None, "num_conv_branches": 2},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def block(request):
    """Returns a built block of 16 channels."""
    block = MobileOneBlock(CHANNELS, name="block", **request.param)
    block.build((None, None, None, CHANNELS))
    return block


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10), (1, 1), (2, 3)])
def test_output_shape(block, size, noise):
    images = noise(2, *size, CHANNELS)
    expected = (2, *(-(-side // block.strides) for side in size), CHANNELS)
    assert block(images).shape == expected
    assert block.compute_output_shape(images.shape) == expected
    assert block.fuse()(images).shape == expected
    assert block(keras.Input(images.shape[1:])).shape[1:] == expected[1:]


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10), (1, 1)])
def test_the_fused_block_computes_the_same(block, size, noise, randomize, relative_error):
    randomize(block)
    images = noise(2, *size, CHANNELS)
    assert relative_error(block.fuse()(images), block(images, training=False)) < 1e-5


def test_channels_may_change(noise, randomize, relative_error):
    block = MobileOneBlock(24, strides=2, num_conv_branches=2)
    images = noise(2, 9, 8, CHANNELS)
    assert block(images).shape == (2, 5, 4, 24)
    assert block.skip_norm is None
    randomize(block)
    assert relative_error(block.fuse()(images), block(images, training=False)) < 1e-5


def test_which_branches_there_are():
    def branches(filters=CHANNELS, **arguments):
        block = MobileOneBlock(filters, **arguments)
        block.build((None, None, None, CHANNELS))
        return len(block.conv_layers), block.scale_layer is not None, block.skip_norm is not None

    assert branches() == (1, True, True)
    assert branches(num_conv_branches=4, depthwise=True) == (4, True, True)
    assert branches(kernel_size=1) == (1, False, True)
    assert branches(strides=2) == (1, True, False)
    assert branches(filters=32) == (1, True, False)
    assert branches(filters=32, kernel_size=1) == (1, False, False)


def test_the_block_is_the_sum_of_its_branches(block, noise, randomize, relative_error):
    """The sum is computed with `keras.ops`, and the scale branch as a strided convolution."""
    randomize(block)
    images = noise(2, 9, 8, CHANNELS)
    margin, strides = block.kernel_size // 2, block.strides
    padded = np.pad(images, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    convolve = ops.depthwise_conv if block.depthwise else ops.conv

    def norm(x, n):
        x = (x - n.moving_mean) / ops.sqrt(n.moving_variance + 1e-5)
        return x * n.gamma + n.beta

    x = 0
    for conv, conv_norm in zip(block.conv_layers, block.conv_norms, strict=True):
        x += norm(convolve(padded, conv.kernel, strides, "valid"), conv_norm)
    if block.kernel_size > 1:
        strided = convolve(images, block.scale_layer.kernel, strides, "valid")
        x += norm(strided, block.scale_norm)
    if strides == 1:
        x += norm(images, block.skip_norm)
    if block.se_ratio:
        mean = ops.mean(x, axis=(1, 2))
        reduced = ops.relu(mean @ block.se_reduce.kernel[0, 0] + block.se_reduce.bias)
        gate = ops.sigmoid(reduced @ block.se_expand.kernel[0, 0] + block.se_expand.bias)
        x *= gate[:, None, None, :]
    expected = x if block.activation is keras.activations.linear else ops.relu(x)
    assert relative_error(block(images, training=False), expected) < 1e-5


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (10, 3)])
def test_the_scale_branch_is_a_strided_pointwise_convolution(depthwise, size, noise):
    block = MobileOneBlock(CHANNELS, strides=2, depthwise=depthwise, activation=None)
    block.build((None, None, None, CHANNELS))
    for conv in block.conv_layers:  # only the scale branch remains
        conv.kernel.assign(ops.zeros_like(conv.kernel))
    images = noise(2, *size, CHANNELS)
    convolve = ops.depthwise_conv if depthwise else ops.conv
    expected = convolve(images, block.scale_layer.kernel, 2, "valid")
    expected /= np.sqrt(1 + BATCH_NORM_EPSILON)
    np.testing.assert_allclose(block(images, training=False), expected, atol=1e-5)


@pytest.mark.parametrize("size", [8, 9])
def test_strided_padding_is_one_pixel_on_each_side(size):
    """Keras' "same" would pad an even size only right and bottom, and use this pixel twice."""
    block = MobileOneBlock(1, strides=2, activation=None)
    image = np.zeros((1, size, size, 1), np.float32)
    image[0, 2, 2] = 1  # in the middle of the second window, rows and columns 1 to 3
    block(image)
    block.conv_layers[0].kernel.assign(np.ones((3, 3, 1, 1)))
    assert np.argwhere(ops.convert_to_numpy(block(image))).tolist() == [[0, 1, 1, 0]]


def test_batch_norm_has_pytorchs_constants(block):
    norms = [*block.conv_norms, *filter(None, [block.scale_norm, block.skip_norm])]
    assert {(n.epsilon, n.momentum) for n in norms} == {(1e-5, 0.9)}
    assert (BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM) == (1e-5, 0.9)


def test_gradients_reach_every_trainable_parameter(block, noise, randomize):
    tf = pytest.importorskip("tensorflow")
    randomize(block)
    images = noise(4, 9, 9, CHANNELS)
    weights = noise(*block.compute_output_shape(images.shape), seed=1)
    with tf.GradientTape() as tape:
        loss = ops.sum(block(images, training=True) * weights)
    variables = block.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in variables])
    dead = [
        variable.path
        for variable, gradient in zip(variables, gradients, strict=True)
        if gradient is None or not np.abs(gradient).max() > 0
    ]
    assert not dead
    for variable, gradient in zip(variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path


def test_training_moves_the_statistics_and_inference_does_not(block, noise):
    images = noise(4, 9, 9, CHANNELS) + 1

    def statistics():
        return [ops.convert_to_numpy(v) for v in block.non_trainable_variables]

    fresh = statistics()
    block(images, training=False)
    assert all((a == b).all() for a, b in zip(fresh, statistics(), strict=True))
    block(images, training=True)
    assert all((a != b).any() for a, b in zip(fresh, statistics(), strict=True))


def test_a_frozen_block_uses_its_moving_statistics(block, noise, relative_error):
    images = noise(4, 9, 9, CHANNELS) + 1
    expected = block(images, training=False)
    block.trainable = False
    assert not block.trainable_variables
    before = [ops.convert_to_numpy(v) for v in block.variables]
    assert relative_error(block(images, training=True), expected) == 0
    assert all((a == b).all() for a, b in zip(before, block.get_weights(), strict=True))
    assert not any(layer.trainable_variables for layer in block.fuse().layers)


def test_config_round_trip(block, noise, relative_error):
    block.trainable = False
    copy = MobileOneBlock.from_config(block.get_config())
    assert copy.get_config() == block.get_config()
    images = noise(1, 8, 8, CHANNELS)
    copy(images)
    copy.set_weights(block.get_weights())
    assert relative_error(copy(images), block(images)) == 0


def test_every_constructor_argument_is_in_the_config():
    arguments = set(inspect.signature(MobileOneBlock.__init__).parameters) - {"self", "kwargs"}
    config = MobileOneBlock(8).get_config()
    assert arguments <= set(config)
    for argument in arguments - {"activation"}:
        assert getattr(MobileOneBlock(8), argument) == config[argument]


def test_config_is_registered_under_the_packages_name():
    config = keras.saving.serialize_keras_object(MobileOneBlock(8, activation="gelu"))
    assert config["registered_name"] == "keras_mobileone>MobileOneBlock"
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.activation is keras.activations.gelu


def test_the_activation_survives_fusing(noise, randomize, relative_error):
    block = MobileOneBlock(CHANNELS, activation="gelu", name="block")
    images = noise(1, 8, 8, CHANNELS)
    block(images)
    randomize(block)
    fused = block.fuse()
    assert relative_error(fused(images), block(images, training=False)) < 1e-5
    assert fused.layers[-1].name == "block"


def test_the_fused_block_is_stock_layers_under_the_blocks_name(block):
    fused = block.fuse()
    assert all(type(layer).__module__.startswith("keras.") for layer in fused.layers)
    convolution = "DepthwiseConv2D" if block.depthwise else "Conv2D"
    kinds = [type(layer).__name__ for layer in fused.layers]
    expected = ["InputLayer", *["ZeroPadding2D"] * (block.strides > 1), convolution]
    if block.se_ratio:
        expected += ["GlobalAveragePooling2D", "Conv2D", "Conv2D", "Multiply"]
    if block.activation is keras.activations.relu:
        expected += ["ReLU"]
    assert kinds == expected
    assert fused.layers[-1].name == "block"


def test_fusing_leaves_the_block_alone(block, randomize):
    randomize(block)
    before = block.get_weights()
    block.fuse()
    assert all((a == b).all() for a, b in zip(before, block.get_weights(), strict=True))


def test_half_precision_runs(noise, relative_error, randomize):
    block = MobileOneBlock(CHANNELS, dtype="mixed_float16")
    images = noise(2, 8, 8, CHANNELS)
    block(images)
    randomize(block)
    assert block(images).dtype == "float16"
    assert {v.dtype for v in block.variables} == {"float32"}
    assert relative_error(block.fuse()(images), block(images, training=False)) < 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "filters=0"),
        ({"filters": 8, "kernel_size": 2}, "kernel_size=2"),
        ({"filters": 8, "kernel_size": 0}, "kernel_size=0"),
        ({"filters": 8, "strides": 0}, "strides=0"),
        ({"filters": 8, "num_conv_branches": 0}, "num_conv_branches=0"),
        ({"filters": 8, "se_ratio": -0.1}, "se_ratio=-0.1"),
        ({"filters": 8, "se_ratio": 1.1}, "se_ratio=1.1"),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        MobileOneBlock(**arguments)


def test_an_unknown_activation_or_keyword_is_an_error():
    with pytest.raises(ValueError, match="nonsense"):
        MobileOneBlock(8, activation="nonsense")
    with pytest.raises((TypeError, ValueError), match="branches"):
        MobileOneBlock(8, branches=4)


def test_a_depthwise_block_keeps_its_channels():
    with pytest.raises(ValueError, match=r"filters=8 with 16 input channels in block 'narrow'"):
        MobileOneBlock(8, depthwise=True, name="narrow")(np.zeros((1, 8, 8, 16), np.float32))


def test_a_block_without_weights_cannot_be_fused():
    with pytest.raises(ValueError, match="'fresh' has no weights yet"):
        MobileOneBlock(8, name="fresh").fuse()


def test_channels_first_is_an_error():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first"):
            MobileOneBlock(8)
    finally:
        keras.config.set_image_data_format("channels_last")
