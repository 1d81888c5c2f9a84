"""Tests parameters and multiply-accumulates against a reference table and counts by hand."""

import keras
import pytest
from keras import layers

from keras_mobileone import VARIANTS, MobileOne, MobileOneBlock, model_complexity
from keras_mobileone.benchmarking.baselines import PEERS
from keras_mobileone.models.variant_complexity import variant_complexity

# Counted from the authors' mobileone.py: trainable parameters and moving statistics of batch
# normalization at train time, deploy parameters, and deploy multiply-accumulates at 224 pixels.
REFERENCE = {
    "s0": (5_293_272, 88_192, 2_078_504, 274_136_576),
    "s1": (4_825_192, 68_352, 4_764_840, 823_839_744),
    "s2": (7_884_648, 87_040, 7_808_168, 1_296_478_848),
    "s3": (10_170_600, 104_704, 10_078_312, 1_893_842_944),
    "s4": (14_951_248, 127_744, 14_838_352, 2_979_222_528),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_train_time_parameters(name):
    found = model_complexity(MobileOne(name, weights=None))
    assert (found.trainable, found.non_trainable) == REFERENCE[name][:2]
    assert found.macs > REFERENCE[name][3]  # the branches cost more than their sum
    assert found == variant_complexity(VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_deploy_parameters_and_work(name):
    found = model_complexity(MobileOne(name, weights=None, deploy=True))
    assert (found.trainable, found.non_trainable) == (REFERENCE[name][2], 0)
    assert found.feature_macs == REFERENCE[name][3]
    assert found.dense_macs == found.macs - found.feature_macs
    assert found.dense_macs == VARIANTS[name].stage_filters[-1] * 1000
    assert found == variant_complexity(VARIANTS[name], deploy=True)


def test_fusing_and_building_for_deploy_count_the_same(tiny):
    arguments = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}
    fused = MobileOne(tiny, **arguments).fuse()
    assert model_complexity(fused) == model_complexity(MobileOne(tiny, deploy=True, **arguments))
    for model, deploy in ((MobileOne(tiny, **arguments), False), (fused, True)):
        counted = variant_complexity(tiny, deploy, image_size=64, classes=10)
        assert counted == model_complexity(model)


def test_a_plain_net_counted_by_hand():
    model = keras.Sequential(
        [
            keras.Input((9, 7, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same"),  # to 5 × 4 × 4
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, use_bias=False),  # to 3 × 2 × 4
            layers.SeparableConv2D(5, 3, padding="same"),
            layers.Conv2D(10, 1, groups=5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(6),
        ]
    )
    found = model_complexity(model)
    assert found.trainable == (27 * 4 + 4) + 8 + 9 * 4 + (9 * 4 + 4 * 5 + 5) + (10 + 10) + (60 + 6)
    assert found.non_trainable == 8
    features = (
        5 * 4 * 27 * 4 + 3 * 2 * 9 * 4 + 3 * 2 * (9 * 4 + 4 * 5) + 3 * 2 * 10 * 1 + 3 * 2 * 10
    )
    assert (found.feature_macs, found.dense_macs) == (features, 60)


def test_a_block_counted_by_hand():
    inputs = keras.Input((9, 7, 8))
    block = MobileOneBlock(16, strides=2, num_conv_branches=3, se_ratio=0.25)
    found = model_complexity(keras.Model(inputs, block(inputs)))
    conv, scale, se = 9 * 8 * 16, 8 * 16, 16 * 4 + 4 * 16
    assert found.trainable == 3 * conv + scale + 4 * 2 * 16 + se + 4 + 16
    assert found.non_trainable == 4 * 2 * 16
    assert found.macs == 5 * 4 * (3 * conv + scale) + 5 * 4 * 16 + se


def test_a_depthwise_block_counted_by_hand():
    inputs = keras.Input((6, 6, 8))
    block = MobileOneBlock(8, depthwise=True, num_conv_branches=2)
    found = model_complexity(keras.Model(inputs, block(inputs)))
    assert found.trainable == 2 * 9 * 8 + 8 + 4 * 2 * 8  # the skip has a normalization too
    assert found.macs == 36 * (2 * 9 * 8 + 8)


def test_a_layer_called_twice_works_twice():
    shared = layers.Conv2D(3, 3, padding="same", use_bias=False)
    inputs = keras.Input((8, 8, 3))
    once = model_complexity(keras.Model(inputs, shared(inputs)))
    twice = model_complexity(keras.Model(inputs, shared(shared(inputs))))
    assert twice.macs == 2 * once.macs == 2 * 64 * 81
    assert twice.trainable == once.trainable == 81


def test_a_nested_model_called_twice_works_twice(tiny):
    backbone = MobileOne(tiny, weights=None, include_top=False, pooling="avg")
    left, right = keras.Input((64, 64, 3)), keras.Input((64, 64, 3))
    outputs = layers.Dense(1)(layers.Subtract()([backbone(left), backbone(right)]))
    once = model_complexity(backbone, input_shape=(64, 64, 3))
    twice = model_complexity(keras.Model([left, right], outputs))
    assert twice.feature_macs == 2 * once.macs
    assert twice.trainable == once.trainable + 33
    assert twice.dense_macs == 32


def test_work_grows_with_the_image(tiny):
    backbone = MobileOne(tiny, weights=None, include_top=False)
    small, large = (model_complexity(backbone, (size, size, 3)) for size in (64, 128))
    assert 3 * small.macs < large.macs <= 4 * small.macs
    assert small.trainable == large.trainable


def test_an_open_input_size_is_an_error(tiny):
    backbone = MobileOne(tiny, weights=None, include_top=False)
    with pytest.raises(
        ValueError,
        match=r"'tiny' depends on its input size.*input_shape=\(height, width, channels\)",
    ):
        model_complexity(backbone)


def test_counting_leaves_the_model_alone(tiny_model, noise, relative_error):
    images = noise(1, 64, 64, 3)
    before = tiny_model(images, training=False)
    model_complexity(tiny_model)
    assert relative_error(tiny_model(images, training=False), before) == 0


def test_products_of_tensors_counted_by_hand():
    inputs = keras.Input((8, 6))
    tokens = layers.Dense(12)(inputs)  # 8 rows
    scores = keras.ops.matmul(tokens, keras.ops.transpose(tokens, (0, 2, 1)))  # 8 × 8, over 12
    mixed = keras.ops.einsum("bij,bjc->bci", scores, tokens)
    model = keras.Model(inputs, layers.PReLU()(layers.LayerNormalization()(mixed)))
    found = model_complexity(model, strict=True)
    assert found.macs == 8 * 6 * 12 + 8 * 8 * 12 + 8 * 8 * 12
    assert found.dense_macs == 8 * 6 * 12


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda x: layers.Conv2DTranspose(4, 3)(x), "Conv2DTranspose"),
        (lambda x: layers.Dot(axes=-1)([x, x]), "Dot"),
        (lambda x: keras.ops.tensordot(x, x, axes=[[3], [3]]), "Tensordot"),
        (lambda x: keras.ops.einsum("bhwc,bhwc,bhwc->bc", x, x, x), "Einsum"),
    ],
)
def test_work_that_is_not_known_is_an_error_when_strict(build, name):
    inputs = keras.Input((8, 8, 3), batch_size=1)
    model = keras.Model(inputs, build(inputs))
    assert model_complexity(model).macs == 0
    with pytest.raises(ValueError, match=f"of type {name} in"):
        model_complexity(model, strict=True)


# Multiply-accumulates in millions from the papers (arXiv 1704.04861, 1801.04381, 1905.02244,
# 1707.07012, 1512.03385), which count neither normalization nor pooling.
PAPERS = {
    "MobileNet": 569,
    "MobileNetV2": 300,
    "MobileNetV3Large": 219,
    "NASNetMobile": 564,
    "ResNet50": 3_860,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_is_counted_whole(name):
    model = PEERS[name].build()
    found = model_complexity(model, strict=True)
    assert found.trainable + found.non_trainable == model.count_params()
    if name in PAPERS:
        assert found.macs == pytest.approx(PAPERS[name] * 1e6, rel=0.03)
