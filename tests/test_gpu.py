"""Tests what TFLite files say about the GPU delegate."""

import io
import re
from contextlib import redirect_stdout

import keras
import numpy as np
import pytest
from keras import layers

import keras_mobileone as km
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.gpu import gpu_warnings

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)


def analyzed(content) -> str:
    """Returns what TensorFlow's analyzer prints."""
    import tensorflow as tf

    printed = io.StringIO()
    with redirect_stdout(printed):
        tf.lite.experimental.Analyzer.analyze(model_content=content, gpu_compatibility=True)
    return printed.getvalue()


@pytest.fixture(scope="module")
def s0():
    return km.MobileOneS0(weights=None, input_shape=(64, 64, 3), classes=5, deploy=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_gpu_takes_all_of_s0(precision, s0):
    images = IMAGES if precision == "int8" else None
    content = convert(s0, precision, images, km.image_config(s0))
    assert gpu_warnings(content) == ()
    assert "looks compatible with GPU delegate" in analyzed(content)


def image_model(function, filters=4):
    image = keras.Input((8, 8, 3))
    return keras.Model(image, function(layers.Conv2D(filters, 3)(image)))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: keras.ops.top_k(x, 2)[0], "TOPK_V2"),
        (lambda x: keras.ops.flip(x, 1), "REVERSE_V2"),
        (lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x), "several outputs"),
        (lambda x: layers.Flatten()(x)[:, 2:7], r"SLICE of the shape \(1, 144\)"),
    ],
)
def test_what_the_gpu_does_not_take_is_named(function, words, tmp_path):
    report = km.export_tflite(image_model(function), tmp_path / "m.tflite")
    assert len(report.gpu_warnings) == 1
    assert re.search(words, report.gpu_warnings[0])


def test_the_analyzer_of_tensorflow_checks_nothing():
    """When this test fails, the analyzer works again, and `litert.gpu` can ask it."""
    content = convert(image_model(lambda x: keras.ops.top_k(x, 2)[0]))
    assert "looks compatible with GPU delegate" in analyzed(content)
