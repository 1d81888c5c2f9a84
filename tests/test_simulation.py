"""Tests how the operators of an int8 file are computed on real numbers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.litert.converter import convert
from keras_mobileone.quantization import operators, simulation
from keras_mobileone.quantization.int8_graph import Int8Graph, IntegerTensor
from keras_mobileone.quantization.operators import LINEAR
from keras_mobileone.quantization.simulation import Deferred, Simulator

COUNT = 10
SIZE = (9, 12, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (COUNT, *SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def files(images):
    """Returns the int8 and the float file of a network with padding in several forms."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SIZE)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(((1, 0), (2, 1)))(x))
    x = layers.Conv2DTranspose(4, 3, strides=2, activation="relu")(layers.ReLU(6)(x))
    outputs = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    for layer in model.layers:
        if layer.weights:
            layer.bias.assign(np.random.default_rng(1).normal(0, 0.1, layer.bias.shape))
    return Int8Graph(convert(model, "int8", images)), Int8Graph(convert(model))


@pytest.mark.parametrize("stored", [False, True], ids=["real", "integer"])
def test_the_mean_image_gives_the_mean_of_each_output(files, images, stored, monkeypatch):
    monkeypatch.setattr(simulation, "VALUES_AT_ONCE", 3 * images[0].size)
    graph, floats = files
    simulator = Simulator(graph, floats, COUNT)
    weights = iter(floats.linear_weights())
    values = {graph.inputs[0]: simulator.stored(graph.inputs[0], images) if stored else images}
    kinds = []
    for position, (kind, operator) in enumerate(graph.operators):
        output = int(operator.outputs[0])
        if not graph.is_linear(kind, operator):
            [values[output]] = simulator.run(position, values, stored=stored)
            continue
        kinds.append(kind)
        value = values[int(operator.inputs[LINEAR[kind][0]])]
        kernel, bias = next(weights)
        whole = operators.linear(
            kind, operator, np.asarray(value), kernel, 0.0, graph.shape(output)
        )
        expected = np.asarray(whole).reshape(-1, whole.shape[-1]).mean(0)
        np.testing.assert_allclose(simulator.mean(position, value, kernel), expected, atol=1e-6)
        values[output] = simulator.linear(position, value, kernel, bias, stored=stored)
    assert set(kinds) == set(LINEAR)


def test_padding_is_deferred_and_the_same(files, images):
    graph, floats = files
    simulator = Simulator(graph, floats, COUNT)
    [position] = [i for i, (kind, _) in enumerate(graph.operators) if kind == "PAD"]
    source = int(graph.operators[position][1].inputs[0])
    real = np.random.default_rng(2).uniform(0, 1, (COUNT, *graph.shape(source)[1:]))
    real = real.astype(np.float32)
    values = {source: simulator.stored(source, real)}
    [padded] = simulator.run(position, values, stored=True)
    stored = np.asarray(values.pop(source))
    assert isinstance(padded, Deferred)
    assert padded.shape == np.asarray(padded).shape
    expected = np.pad(stored, ((0, 0), (1, 0), (2, 1), (0, 0)))
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(padded[3:5], expected[3:5])


def test_sqnr_reads_integers_in_parts():
    class InParts(IntegerTensor):
        def __array__(self, dtype=None, copy=None):
            raise AssertionError("The whole tensor was read.")

    codes = np.random.default_rng(0).integers(-128, 128, (50, 64, 64)).astype(np.int8)
    tensor = InParts(codes, 0.5, 3)
    reference = 0.5 * (codes.astype(np.float64) - 3) + 0.01
    expected = 10 * np.log10(np.square(reference).mean() / 0.01**2)
    assert sqnr(reference, tensor) == pytest.approx(expected)
