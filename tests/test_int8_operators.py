"""Tests int8 of networks with every common layer, which LiteRT runs and which are compared."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mobileone
from keras_mobileone import quantize
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.quantization import ranges, simulation

SIZE = (24, 24, 3)
CALIBRATION, OTHERS = slice(0, 96), slice(96, 144)
LIMIT = 38  # dB relative to float, on other images
TOLERANCE = 0.5  # dB by which the converter's plain int8 may be better


@pytest.fixture(scope="module")
def images():
    """Returns smooth random images, normalized."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(0, 255, (144, 6, 6, 3)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
    return keras_mobileone.preprocess_input(pixels)


def conv(x, filters=16, size=1, **arguments):
    return layers.Conv2D(filters, size, padding="same", **arguments)(x)


def activated(layer):
    """Applies a layer after a convolution without ReLU, so that it also gets negative values."""
    return lambda x: layer(conv(x))


def alphas():
    return keras.initializers.RandomUniform(0.1, 0.5, seed=0)


def nested_concatenations(x):
    """Uses a tensor in two concatenations, one of which is used in a third."""
    y = conv(x, 8, 3)
    inner = layers.Concatenate()([x, y])
    other = conv(layers.Concatenate()([y, conv(x, 8)]), 8, 3)
    return layers.Concatenate()([inner, other, layers.AveragePooling2D(3, 1, "same")(x)])


def dense_block(x):
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, conv(y, 8, 3)])
    return x


LAYERS = {
    "global max pooling": lambda x: layers.GlobalMaxPooling2D(keepdims=True)(x),
    "global average pooling": lambda x: layers.GlobalAveragePooling2D(keepdims=True)(x),
    "unit normalization": lambda x: layers.UnitNormalization()(x),
    "upsampling nearest": lambda x: layers.UpSampling2D(2)(x),
    "upsampling bilinear": lambda x: layers.UpSampling2D((3, 2), interpolation="bilinear")(x),
    "resizing nearest": lambda x: layers.Resizing(9, 17, interpolation="nearest")(x),
    "resizing bilinear": lambda x: layers.Resizing(17, 9)(x),
    "center crop": lambda x: layers.CenterCrop(6, 7)(x),
    "cropping": lambda x: layers.Cropping2D(((1, 2), (0, 3)))(x),
    "transposed convolution": lambda x: layers.Conv2DTranspose(8, 3, 2, "same")(x),
    "transposed convolution, valid": lambda x: layers.Conv2DTranspose(
        8, 4, 2, "valid", activation="relu"
    )(x),
    "transposed convolution without bias": lambda x: layers.Conv2DTranspose(
        8, 2, 2, use_bias=False
    )(x),
    "dilated convolution": lambda x: conv(x, 8, 3, dilation_rate=2),
    "grouped convolution": lambda x: conv(x, 16, 3, groups=4),
    "separable convolution": lambda x: layers.SeparableConv2D(16, 3)(x),
    "prelu": activated(layers.PReLU(alphas(), shared_axes=(1, 2))),
    "leaky relu": activated(layers.LeakyReLU(0.2)),
    "relu6": activated(layers.ReLU(6.0)),
    "elu": activated(layers.ELU()),
    "gelu": activated(layers.Activation("gelu")),
    "hard swish": activated(layers.Activation("hard_swish")),
    "hard sigmoid": activated(layers.Activation("hard_sigmoid")),
    "swish": activated(layers.Activation("swish")),
    "sigmoid": activated(layers.Activation("sigmoid")),
    "tanh": activated(layers.Activation("tanh")),
    "softmax": activated(layers.Softmax()),
    "layer normalization": activated(layers.LayerNormalization()),
    "group normalization": activated(layers.GroupNormalization(4)),
    "batch normalization": activated(lambda x: layers.BatchNormalization()(layers.ReLU()(x))),
    "split": lambda x: layers.Concatenate()(
        [part * (i + 1) for i, part in enumerate(ops.split(x, 2, -1))]
    ),
    "top k": lambda x: ops.top_k(x, 8)[0],
    "indices": lambda x: ops.take_along_axis(x, ops.argsort(x, -1), -1),
    "concatenate": lambda x: layers.Concatenate()([x, 5 * conv(x, 8, 3)]),
    "concatenate rows": lambda x: layers.Concatenate(axis=1)([x, conv(x)]),
    "concatenate with itself": lambda x: layers.Concatenate()([x, x]),
    "concatenate with sigmoid": lambda x: layers.Concatenate()([x, conv(x, activation="sigmoid")]),
    "nested concatenations": nested_concatenations,
    "dense block": dense_block,
    "add": lambda x: layers.Add()([x, conv(x)]),
    "subtract": lambda x: layers.Subtract()([x, conv(x)]),
    "multiply": lambda x: layers.Multiply()([x, conv(x)]),
    "average": lambda x: layers.Average()([x, conv(x)]),
    "maximum": lambda x: layers.Maximum()([x, conv(x)]),
    "minimum": lambda x: layers.Minimum()([x, conv(x)]),
    "maximum of a constant": activated(lambda x: ops.maximum(x, 0.25)),
    "average pooling": lambda x: layers.AveragePooling2D(2)(x),
    "max pooling": lambda x: layers.MaxPooling2D(3, 2)(x),
    "padding": lambda x: layers.ZeroPadding2D(((1, 0), (2, 1)))(x),
    "padding with a value": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "constant", 0.5),
    "reshape": lambda x: layers.Reshape((12, 24, 8))(x),
    "permute": lambda x: layers.Permute((3, 1, 2))(x),
    "flatten": lambda x: layers.Reshape((1, 1, 144))(layers.Flatten()(layers.MaxPooling2D(4)(x))),
    "attention": lambda x: layers.Reshape((12, 12, 16))(
        layers.MultiHeadAttention(2, 8)(*[layers.Reshape((144, 16))(x)] * 2)
    ),
}


def network(make):
    """Returns a small network around a layer, with random batch normalization and biases."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SIZE)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = make(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.GlobalAveragePooling2D()(conv(x, activation="relu", name="behind"))
    model = keras.Model(inputs, layers.Dense(10)(x))
    return randomize_statistics(model)


def randomize_statistics(model):
    rng = np.random.default_rng(0)
    for variable in model.variables:
        leaf = variable.path.rsplit("/", 1)[-1]
        if leaf in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif leaf in ("bias", "beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


def run(content, images):
    runner = LiteRTRunner(content)
    return np.concatenate([next(iter(runner(image[None]).values())) for image in images])


def plain_and_ours(model, images):
    """Returns the SQNR of plain int8 and of `quantize` on other images, and its report."""
    expected = model.predict(images[OTHERS], verbose=0)
    report = quantize(model, images[CALIBRATION], normalize=False)
    plain = convert(model, "int8", images[CALIBRATION])
    found = [sqnr(expected, run(content, images[OTHERS])) for content in (plain, report.content)]
    return *found, report


QUICK = {"transposed convolution", "unit normalization"}


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS],
)
def test_a_network_with_the_layer_keeps_its_outputs(name, images):
    model = network(LAYERS[name])
    plain, ours, report = plain_and_ours(model, images)
    assert ours >= LIMIT
    assert ours >= plain - TOLERANCE
    assert report.left_to_converter == []
    assert any(layer.startswith("behind") for layer in report.rescaled)
    # The correction uses a simulation that gives the results of LiteRT.
    expected = model.predict(images[CALIBRATION], verbose=0)
    found = sqnr(expected, run(report.content, images[CALIBRATION]))
    assert report.tensors[-1].sqnr == pytest.approx(found, abs=4)


def scales_of_concatenations(content):
    """Returns the scales and zero points of inputs and output for each concatenation."""
    model = flatbuffer.parse(content)
    graph, names = model.subgraphs[0], flatbuffer.operator_names(model)
    return [
        [
            (graph.tensors[t].quantization.scale[0], graph.tensors[t].quantization.zeroPoint[0])
            for t in (*operator.inputs, *operator.outputs)
        ]
        for operator in graph.operators
        if names[operator.opcodeIndex] == "CONCATENATION"
    ]


def test_concatenated_tensors_have_one_scale(images):
    content = quantize(network(nested_concatenations), images[CALIBRATION], normalize=False).content
    found = scales_of_concatenations(content)
    assert len(found) >= 3
    assert all(len(set(scales)) == 1 for scales in found)


def test_a_concatenation_of_two_scales_is_no_file(images, monkeypatch):
    """This shows why the groups are needed. Without them, LiteRT does not accept the file."""
    monkeypatch.setattr(ranges, "SAME_SCALE", ranges.SAME_SCALE - {"CONCATENATION"})
    content = quantize(network(nested_concatenations), images[CALIBRATION], normalize=False).content
    assert any(len(set(scales)) > 1 for scales in scales_of_concatenations(content))
    with pytest.raises(ValueError, match="LiteRT can't run the file"):
        LiteRTRunner(content)


def test_an_operator_without_rules_keeps_the_converters_ranges(images):
    """Everything around the operator is equalized and corrected."""
    model = network(lambda x: ops.where(x > 0.5, x, conv(x, name="beside")))
    with pytest.warns(UserWarning, match=r"converter's ranges.*GREATER, SELECT") as warned:
        plain, ours, report = plain_and_ours(model, images)
    assert len([w for w in warned if issubclass(w.category, UserWarning)]) == 1
    assert report.left_to_converter == ["GREATER", "SELECT"]
    assert report.to_dict()["left_to_converter"] == ["GREATER", "SELECT"]
    assert ours >= max(LIMIT - 3, plain - TOLERANCE)
    assert any(layer.startswith("behind") for layer in report.rescaled)


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["LEAKY_RELU", "CONCATENATION", "RESIZE_BILINEAR"])
def test_any_operator_may_be_unknown(operator, images, monkeypatch):
    monkeypatch.setattr(ranges, "KNOWN", ranges.KNOWN - {operator})
    monkeypatch.setattr(ranges, "SAME_SCALE", ranges.SAME_SCALE - {operator})
    monkeypatch.setattr(ranges, "COPYING", ranges.COPYING - {operator})
    names = {"LEAKY_RELU": "leaky relu", "RESIZE_BILINEAR": "resizing bilinear"}
    model = network(LAYERS[names.get(operator, "nested concatenations")])
    with pytest.warns(UserWarning, match=operator):
        plain, ours, report = plain_and_ours(model, images)
    assert report.left_to_converter == [operator]
    assert ours >= plain - TOLERANCE
    assert all(len(set(scales)) == 1 for scales in scales_of_concatenations(report.content))


def test_what_cannot_be_simulated_is_equalized_all_the_same(images, monkeypatch):
    real = simulation._interpreter

    def refuse(graph, position, *arguments):
        if graph.operators[position][0] == "LEAKY_RELU":
            raise simulation.SimulationError("no such operator in float")
        return real(graph, position, *arguments)

    monkeypatch.setattr(simulation, "_interpreter", refuse)
    model = network(LAYERS["leaky relu"])
    with pytest.warns(UserWarning, match=r"LEAKY_RELU.*was equalized\.$"):
        _, ours, report = plain_and_ours(model, images)
    assert "LEAKY_RELU" in report.left_to_converter
    assert (report.tensors, len(report.rescaled)) == ([], 3)
    assert ours >= LIMIT


def test_several_outputs_of_one_layer(images):
    def heads(x):
        first, second = ops.split(layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), 2, -1)
        return [first, layers.Softmax(name="probabilities")(second), conv(x, 4, name="map")]

    keras.utils.set_random_seed(0)
    inputs = keras.Input(SIZE)
    model = keras.Model(inputs, heads(layers.Conv2D(16, 3, activation="relu")(inputs)))
    content = quantize(model, images[CALIBRATION], normalize=False).content
    runner = LiteRTRunner(content)
    expected = model.predict(images[OTHERS], verbose=0)
    found = [runner(image[None]) for image in images[OTHERS]]
    for name, values in zip(model.output_names, expected, strict=True):
        assert sqnr(values, np.concatenate([output[name] for output in found])) > 30


def test_constants_are_taken_from_the_float_file(images):
    """Factors of a multiplication are int8 in the file, and exact in the reference."""
    scale = np.linspace(0.001, 3, 16).astype(np.float32)
    model = network(lambda x: layers.ReLU()(x * scale))
    report = quantize(model, images[CALIBRATION], normalize=False)
    product = next(tensor for tensor in report.tensors if tensor.operator == "MUL")
    before = report.tensors[report.tensors.index(product) - 1]
    assert product.sqnr < before.sqnr


@pytest.mark.slow
# With random weights, DenseNet121 at 32 pixels is 1.5 dB worse than the converter's own int8.
@pytest.mark.parametrize(
    ("name", "allowed"), [("DenseNet121", 2.0), ("MobileNetV3Small", TOLERANCE)]
)
def test_networks_of_keras_applications(name, allowed, randomize, images):
    arguments = {"include_preprocessing": False} if name == "MobileNetV3Small" else {}
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classifier_activation=None, classes=10, **arguments
    )
    randomize(model)
    large = images[:64].repeat(2, axis=1).repeat(2, axis=2)[:, :32, :32]
    expected = model.predict(large[48:], verbose=0)
    report = quantize(model, large[:48], normalize=False)
    plain = convert(model, "int8", large[:48])
    found = [sqnr(expected, run(content, large[48:])) for content in (plain, report.content)]
    assert report.left_to_converter == []
    assert found[1] >= found[0] - allowed
    assert len(report.rescaled) > 10


@pytest.mark.parametrize(
    "make",
    [
        lambda x: layers.Conv2D(8, 3, use_bias=False)(x),
        lambda x: layers.Conv2D(8, 3)(x),
        lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x),
        lambda x: layers.Dense(8, use_bias=False)(x),
    ],
    ids=["convolution", "with bias", "depthwise", "dense"],
)
def test_batch_normalization_behind_a_layer_is_folded(make, images):
    inputs = keras.Input(SIZE)
    x = layers.BatchNormalization(name="folded")(make(inputs))
    x = layers.ReLU()(x)
    y = layers.Conv2D(4, 1, name="twice")(x)
    x = layers.Concatenate()([layers.BatchNormalization(name="beside")(y), y])
    x = layers.BatchNormalization(name="alone", scale=False)(x)
    model = randomize_statistics(keras.Model(inputs, x))
    result = keras_mobileone.equalize(model, images[CALIBRATION])
    left = {
        layer.name for layer in result.model.layers if isinstance(layer, layers.BatchNormalization)
    }
    assert left == {"beside", "alone"}
    assert len(result.factors) == 1
    assert result.change < 1e-5
    expected, found = model(images[OTHERS]), result.model(images[OTHERS])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
