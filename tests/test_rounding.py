"""Tests how int8 kernels are rounded, on inputs that took no part."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_mobileone.litert.converter import convert
from keras_mobileone.quantization import operators, rounding
from keras_mobileone.quantization.int8_graph import Int8Graph


def squared_error(weights, codes, scale, covariance):
    """Returns the squared error of each output for inputs of a covariance."""
    difference = codes * scale - weights
    return np.einsum("io,ij,jo->o", difference, covariance, difference)


@pytest.fixture
def kernel():
    """Returns weights of shape (24, 10), and the covariance of their inputs."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(24, 24))
    return rng.normal(size=(24, 10)), mixing @ mixing.T


def test_compensated_rounding_beats_the_nearest(kernel):
    weights, covariance = kernel
    scale = np.abs(weights).max(0) / 127 * 16  # coarse, so that rounding matters
    codes = rounding.compensated(weights, covariance, scale)
    nearest = np.clip(np.rint(weights / scale), -127, 127)
    errors = [squared_error(weights, each, scale, covariance).sum() for each in (codes, nearest)]
    assert errors[0] < 0.6 * errors[1]
    assert (codes == np.rint(codes)).all()
    assert np.abs(codes).max() <= 127


def test_kernels_of_leading_axes_are_rounded_separately(kernel):
    weights, covariance = kernel
    scale = np.abs(weights).max(0) / 127
    stacked = np.stack([weights, weights[::-1]]), np.stack([covariance, np.eye(24)])
    codes = rounding.compensated(*stacked, np.stack([scale, 2 * scale]))
    assert (codes[0] == rounding.compensated(weights, covariance, scale)).all()
    assert (codes[1] == np.rint(weights[::-1] / (2 * scale))).all()


def test_each_output_gets_the_best_of_the_scales(kernel, monkeypatch):
    weights, covariance = kernel
    smallest = np.abs(weights).max(0) / 127
    scale, codes = rounding.best_rounding(weights, covariance, smallest)
    errors = squared_error(weights, codes, scale, covariance)
    tried = []
    for ratio in rounding.TRIED_SCALES:
        alone = rounding.compensated(weights, covariance, ratio * smallest)
        tried.append(squared_error(weights, alone, ratio * smallest, covariance))
    np.testing.assert_allclose(errors, np.min(tried, axis=0), rtol=1e-9)
    assert errors.sum() < 0.9 * tried[0].sum()
    assert set(np.round(scale / smallest, 6)) <= set(np.round(rounding.TRIED_SCALES, 6))
    monkeypatch.setattr(rounding, "VALUES_AT_ONCE", 1)  # one output after the other
    for whole, part in zip((scale, codes), rounding.best_rounding(*kernel, smallest), strict=True):
        np.testing.assert_array_equal(whole, part)


def linear_operator(layer, shape):
    """Returns name and operator of the only layer of an int8 file."""
    inputs = keras.Input(shape)
    images = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    graph = Int8Graph(convert(keras.Model(inputs, layer(inputs)), "int8", images))
    return next(pair for pair in graph.operators if pair[0] in operators.LINEAR)


def output_errors(kind, operator, kernel, calibration, others):
    """Returns the variance of the error of a layer on others, with each rounding."""
    errors = {}
    for name in ("nearest", "compensated"):
        scale, codes = rounding.quantize_kernel(kind, operator, kernel, calibration, name)
        by_output = (1, -1) if kind == "DEPTHWISE_CONV_2D" else (-1, *[1] * (kernel.ndim - 1))
        stored = codes * (scale if by_output == (1, -1) else scale.reshape(by_output))
        change = (stored - kernel).astype(np.float32)
        moved = np.asarray(operators.linear(kind, operator, others, change, 0.0, ()))
        errors[name] = np.var(moved.reshape(-1, moved.shape[-1]), axis=0).sum()
    return errors


@pytest.mark.parametrize("arguments", [{"strides": 2, "padding": "same"}, {"dilation_rate": 2}])
def test_depthwise_kernels_are_compensated(arguments):
    """On other images, the errors of neighboring weights cancel in the output."""
    rng = np.random.default_rng(5)
    coarse = rng.normal(size=(64, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images = (coarse + rng.normal(0, 0.3, (64, 64, 64, 3))).astype(np.float32)
    kind, operator = linear_operator(layers.DepthwiseConv2D(5, **arguments), (64, 64, 3))
    kernel = rng.normal(size=(1, 5, 5, 3)).astype(np.float32)
    errors = output_errors(kind, operator, kernel, images[:32], images[32:])
    assert errors["compensated"] < 0.7 * errors["nearest"]


@pytest.mark.parametrize(
    ("count", "factors", "bound"), [(1, 30, 1.0), (8, 30, 1.0), (100, 30, 0.85), (20, 0, 1.1)]
)
def test_few_images_do_not_mislead_a_wide_layer(count, factors, bound):
    """A classifier has one row of inputs for each image, which are fewer than its inputs.

    Without common factors the inputs are independent, but correlated by chance in a few images.
    """
    rng = np.random.default_rng(2)
    mixing = 4 * rng.normal(size=(factors, 400)) * 0.5 ** np.arange(factors)[:, None]
    features = rng.normal(size=(count + 1000, factors)) @ mixing
    features = (features + rng.normal(size=features.shape)).astype(np.float32)
    kind, operator = linear_operator(layers.Dense(50), (400,))
    kernel = rng.normal(size=(50, 400)).astype(np.float32)
    errors = output_errors(kind, operator, kernel, features[:count], features[count:])
    assert errors["compensated"] <= bound * errors["nearest"]
