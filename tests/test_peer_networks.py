"""Tests the networks that the study of peers builds: published counts, padding, LiteRT."""

import keras
import numpy as np
import pytest

from keras_mobileone import model_complexity
from keras_mobileone.benchmarking.baselines import noise, settle
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner

# Family, variant, pixels, and published parameters and multiply-accumulates in millions there.
# Besides the authors' counts these are timm's of the same networks (its README and model cards):
# MobileNetV4's with three digits and at 224 pixels, FastViT's of the released weights.
PUBLISHED = [
    ("mobilenet_v4", "ConvS", 224, 3.77, 190),
    ("mobilenet_v4", "ConvM", 224, 9.72, 840),
    ("repvit", "M0.9", 224, 5.1, 800),
    ("repvit", "M1.0", 224, 6.8, 1100),
    ("fastvit", None, 256, 4.0, 700),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant", "pixels", "parameters", "macs"), PUBLISHED)
def test_counts_are_the_published_ones(load_script, family, variant, pixels, parameters, macs):
    build = load_script(family).build
    model = build(variant, pixels) if variant else build(pixels)
    found = model_complexity(model, strict=True)
    assert model.output_shape == (None, 1000)
    assert found.trainable == pytest.approx(parameters * 1e6, rel=0.006)
    assert found.macs == pytest.approx(macs * 1e6, rel=0.022)


def test_peers_have_the_size_of_their_published_accuracy(load_script):
    networks = load_script("peers").NETWORKS
    sizes = {name: network.pixels for name, network in networks.items() if network.pixels != 224}
    assert sizes == {"MobileNetV4ConvM": 256, "FastViTT8": 256}
    # `build` without arguments makes that size.
    assert load_script("mobilenet_v4").peer("ConvM").build.keywords == {}
    assert networks["FastViTT8"].build().input_shape == (None, 256, 256, 3)


def test_a_convolution_of_stride_2_reads_the_pixels_that_pytorch_reads(load_script):
    """With padding on every side, the kernel's center lies on every second pixel from the first."""
    depthwise = load_script("peer_layers").depthwise
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, depthwise(inputs, 5, strides=2))
    kernel = np.zeros((5, 5, 2, 1), np.float32)
    kernel[2, 2] = 1
    (layer,) = (one for one in model.layers if isinstance(one, keras.layers.DepthwiseConv2D))
    layer.kernel.assign(kernel)
    images = np.random.default_rng(0).standard_normal((1, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(model(images), images[:, ::2, ::2], rtol=1e-3)  # epsilon of BN


def test_squeeze_and_excitation_multiplies_by_a_gate_of_each_channel(load_script):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 8))
    model = keras.Model(inputs, load_script("peer_layers").squeeze_excite(inputs, 16))
    images = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
    ratios = np.asarray(model(images)) / images
    np.testing.assert_allclose(ratios, ratios[:, :1, :1].repeat(4, 1).repeat(4, 2), rtol=1e-4)
    assert 0 < ratios.min() < ratios.max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mobilenet_v4", "repvit", "fastvit"])
def test_networks_run_in_litert(load_script, relative_error, monkeypatch, family):
    script = load_script(family)
    if hasattr(script, "DEPTHS"):
        monkeypatch.setattr(script, "DEPTHS", (1, 1, 2, 1))  # fewer blocks, for speed
    first = next(iter(script.VARIANTS)) if hasattr(script, "VARIANTS") else None
    model = script.build(first, 64, 10) if first else script.build(64, 10)
    settle(model)
    images = noise(model)[:1]
    expected = np.asarray(model(images))
    assert 1e-3 < np.abs(expected).max() < 1e3
    (outputs,) = LiteRTRunner(convert(model, "float32"))(images).values()
    assert relative_error(outputs, expected) < 1e-3
