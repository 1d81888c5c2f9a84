"""Tests `ImageConfig`: found from a model's graph, stored with it, and used by every module."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mobileone as km
from keras_mobileone.data.image_config import DEFAULT_CROP_FRACTION, read_image_config
from keras_mobileone.evaluation.predictor import load_predictor
from keras_mobileone.export import tflite
from keras_mobileone.litert.flatbuffer import read_tflite
from keras_mobileone.litert.metadata import read_file_config

SIZE = (32, 32, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZED = (-2.1179, 2.64)  # the lowest and the highest pixel after `preprocess_input`
PIXELS, UNIT, SIGNED = (0, 255), (0, 1), (-1, 1)


def normalization():
    return layers.Normalization(mean=MEAN, variance=np.square(STD))


def caffe(x):
    return x[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")


@pytest.fixture(scope="module")
def base(tiny, randomize):
    """Returns a deploy model with ten classes and logits."""
    return randomize(
        km.MobileOne(
            tiny,
            weights=None,
            input_shape=SIZE,
            classes=10,
            classifier_activation=None,
            deploy=True,
            name="base",
        )
    )


@pytest.fixture(scope="module")
def wrapped(base):
    """Returns a function that puts a computation in front of the base."""

    def wrap(computation):
        image = keras.Input(SIZE)
        return keras.Model(image, base(computation(image)))

    return wrap


FRONTS = {
    "nothing": (lambda x: x, NORMALIZED),
    "a flip in training": (lambda x: layers.RandomFlip()(x), NORMALIZED),
    "preprocess_input": (km.preprocess_input, PIXELS),
    "rescaling": (layers.Rescaling(1 / 255), PIXELS),
    "rescaling to -1 … 1": (layers.Rescaling(1 / 127.5, -1), PIXELS),
    "a division": (lambda x: x / 255, PIXELS),
    "a division by 128": (lambda x: x / 128 - 1, PIXELS),
    "clipping and a division": (lambda x: ops.clip(x, 0, 255) / 255, PIXELS),
    "padding and rescaling": (lambda x: layers.Rescaling(1 / 255)(x[:, 1:-1, 1:-1]), PIXELS),
    "BGR less Caffe's means": (caffe, PIXELS),
    "statistics of pixels": (
        lambda x: layers.Normalization(mean=[120, 110, 100], variance=[60**2] * 3)(x),
        PIXELS,
    ),
    "ImageNet's statistics": (lambda x: normalization()(x), UNIT),
    "0 … 1 to -1 … 1": (lambda x: 2 * x - 1, UNIT),
    "0 … 1 to pixels, normalized": (lambda x: km.preprocess_input(255 * x), UNIT),
    "-1 … 1 to 0 … 1": (lambda x: (x + 1) / 2, SIGNED),
    "-1 … 1 to pixels, normalized": (lambda x: km.preprocess_input(127.5 * (x + 1)), SIGNED),
    "statistics of -1 … 1": (
        lambda x: layers.Normalization(mean=[-0.05] * 3, variance=[0.25] * 3)(x),
        SIGNED,
    ),
}


@pytest.mark.parametrize("name", FRONTS)
def test_the_graph_tells_what_a_model_takes(name, wrapped):
    front, expected = FRONTS[name]
    if "padding" in name:
        image = keras.Input(SIZE)
        x = layers.Conv2D(4, 3)(front(layers.ZeroPadding2D()(image)))
        model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    else:
        model = wrapped(front)
    config = km.image_config(model)
    assert config.range == pytest.approx(expected, abs=1e-3)
    assert config.takes_pixels == (expected == PIXELS)


def test_a_subclassed_model_tells_what_it_takes():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = layers.Conv2D(4, 3)

        def call(self, image):
            return self.convolution(image / 127.5 - 1)

    model = Net()
    model(np.zeros((1, *SIZE), np.float32))
    assert km.image_config(model).range == PIXELS
    km.set_image_config(model, km.ImageConfig(SIZE[:2], crop_fraction=0.5))
    assert km.image_config(model).crop_fraction == 0.5


@pytest.mark.parametrize(
    "front",
    [
        lambda x: ops.square(x) / 255**2,
        lambda x: 0.01 * x,
        lambda x: x - np.array(MEAN, "float32"),
        lambda x: layers.LayerNormalization()(x),
    ],
    ids=["square", "factor", "mean alone", "layer normalization"],
)
def test_what_is_not_clear_is_asked(front, wrapped):
    model = wrapped(front)
    with pytest.raises(ValueError, match=r"normalize=None.*Pass normalize=True"):
        km.image_config(model)
    assert km.image_config(model, normalize=True).range == pytest.approx(NORMALIZED, abs=1e-3)
    assert km.image_config(model, normalize=False).takes_pixels
    km.set_image_config(model, km.ImageConfig(mean=(0,) * 3, std=(255,) * 3))
    assert km.image_config(model).range == UNIT


def test_arithmetic_behind_the_first_convolution_says_nothing():
    """The model is a regression whose outputs are rescaled."""
    model = keras.Sequential(
        [
            keras.Input(SIZE),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1),
            layers.Rescaling(100, 5),
        ]
    )
    assert km.image_config(model).range == pytest.approx(NORMALIZED, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MobileNetV3Small", PIXELS),
        ("EfficientNetB0", PIXELS),
        ("ConvNeXtTiny", PIXELS),
        ("MobileNetV2", NORMALIZED),  # its preprocessing is a separate function
    ],
)
def test_keras_applications(name, expected):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=5)
    assert km.image_config(model).range == pytest.approx(expected, abs=1e-3)


def test_two_backbones_must_agree(base, tiny):
    other = km.MobileOne(
        tiny, weights=None, include_top=False, pooling="avg", input_shape=SIZE, name="other"
    )
    image = keras.Input(SIZE)
    scaled = layers.Rescaling(1 / 255)(image)
    alike = keras.Model(image, layers.Concatenate()([base(scaled), other(scaled)]))
    assert km.image_config(alike).takes_pixels
    differing = keras.Model(image, layers.Concatenate()([base(scaled), other(image)]))
    with pytest.raises(ValueError, match="does not tell"):
        km.image_config(differing)


def test_normalize_gives_the_bits_of_preprocess_input(noise):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    assert np.array_equal(km.ImageConfig().normalize(pixels), km.preprocess_input(pixels))


@pytest.mark.parametrize(
    "deploy",
    [pytest.param(True, marks=pytest.mark.slow, id="deploy"), pytest.param(False, id="train")],
)
def test_a_keras_file_keeps_the_configuration(deploy, tiny, tmp_path, run_python):
    model = km.MobileOne(tiny, weights=None, input_shape=SIZE, classes=3, deploy=deploy)
    assert km.image_config(model).crop_fraction == tiny.crop_fraction
    config = km.ImageConfig(SIZE[:2], crop_fraction=0.95, labels=("a", "b [x]", "c"))
    km.set_image_config(model, config).save(tmp_path / "model.keras")
    assert read_image_config(tmp_path / "model.keras") == config
    assert load_predictor(tmp_path / "model.keras").image_config == config
    if not deploy:
        assert km.image_config(model.fuse()) == config
        return
    source = (
        "import sys, keras; m = keras.models.load_model(sys.argv[1]);"
        "print('keras_mobileone' in sys.modules, m.output_shape)"
    )
    printed = run_python(source, tmp_path / "model.keras", cwd=tmp_path)
    assert printed.splitlines()[-1] == "False (None, 3)"


@pytest.mark.parametrize("key", ["s0", "s1"])
@pytest.mark.slow
def test_the_crop_belongs_to_the_model(key, tmp_path):
    """S1 to S4 are published at 0.9, with which model, file and wrapped model crop."""
    variant = km.get_variant(key)
    model = km.MobileOne(key, weights=None, input_shape=SIZE, classes=10, deploy=True)
    km.export_tflite(model, tmp_path / "own.tflite", verify=False)
    image = keras.Input(SIZE)
    outer = keras.Model(image, model(km.preprocess_input(image)))
    model.save(tmp_path / "model.keras")
    sources = (model, tmp_path / "own.tflite", tmp_path / "model.keras", outer)
    crops = [load_predictor(source).image_config.crop_fraction for source in sources]
    assert crops == [variant.crop_fraction] * 4
    assert variant.crop_fraction == {"s0": 0.875, "s1": 0.9}[key]
    assert km.image_config(
        keras.Sequential([keras.Input(SIZE), layers.Flatten()])
    ).crop_fraction == (DEFAULT_CROP_FRACTION)


@pytest.mark.parametrize("front", ["nothing", "preprocess_input", "ImageNet's statistics"])
@pytest.mark.parametrize("normalize", [None, False], ids=["default", "raw"])
def test_model_and_file_see_the_same_image(front, normalize, wrapped, tmp_path, relative_error):
    """The reference is the output of the base on normalized pixels, however it is wrapped."""
    computation, _ = FRONTS[front]
    model = wrapped(computation)
    report = km.export_tflite(model, tmp_path / "own.tflite", normalize=normalize)
    assert report.error < 1e-5
    pixels = np.random.default_rng(1).integers(0, 256, (3, *SIZE), np.uint8)
    truth = wrapped(lambda x: x).predict_on_batch(km.preprocess_input(pixels))
    for source in (model, tmp_path / "own.tflite"):
        assert relative_error(load_predictor(source)(pixels), truth) < 1e-4
    stored = read_file_config(read_tflite(tmp_path / "own.tflite"))
    assert stored == report.image_config
    assert stored.takes_pixels == (normalize is None or front == "preprocess_input")


def test_the_check_of_an_export_sees_a_second_normalization(wrapped, monkeypatch, tmp_path):
    """The file is compared with the given model, which is not wrapped in the same way."""
    monkeypatch.setattr(
        tflite,
        "config_of_file",
        lambda config, normalize: (config.with_pixels(), km.ImageConfig(SIZE[:2])),
    )
    with pytest.raises(ArithmeticError, match=r"within 0\.001"):
        km.export_tflite(wrapped(km.preprocess_input), tmp_path / "own.tflite")
    assert not list(tmp_path.iterdir())


def test_a_file_without_metadata_is_asked_about(base, tmp_path):
    from keras_mobileone.litert.converter import convert

    path = tmp_path / "bare.tflite"
    path.write_bytes(convert(base, "float32"))
    with pytest.raises(ValueError, match="metadata describe how it takes images"):
        load_predictor(path)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *SIZE), np.uint8)
    scores = load_predictor(path, image_config=km.image_config(base))(pixels)
    expected = base.predict_on_batch(km.preprocess_input(pixels))
    np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())


def test_evaluate_and_compare_take_a_configuration(base, wrapped, tmp_path):
    """The configuration is for a file without metadata or a model whose graph is not clear."""
    from PIL import Image

    from keras_mobileone.litert.converter import convert

    path = tmp_path / "bare.tflite"
    path.write_bytes(convert(base, "float32"))
    pixels = np.random.default_rng(1).integers(0, 256, (10, *SIZE), np.uint8)
    best = base.predict_on_batch(km.preprocess_input(pixels)).argmax(1)
    for index, image in enumerate(pixels):
        folder = tmp_path / "images" / str(index)
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / "image.png")
    unclear = wrapped(ops.square)
    config = km.ImageConfig(SIZE[:2], crop_fraction=1.0)
    with pytest.raises(ValueError, match="metadata describe how it takes images"):
        km.evaluate(path, tmp_path / "images")
    result = km.evaluate(path, tmp_path / "images", image_config=config)
    assert (result.images, result.top1) == (10, int((best == np.arange(10)).sum()))
    assert (result.crop_fraction, result.image_size) == (1.0, SIZE[:2])
    with pytest.raises(ValueError, match="does not tell"):
        km.compare(base, unclear, pixels)
    assert km.compare(base, path, pixels, image_config=config).agreement == 10
    other = km.compare(base, unclear, pixels, image_config=config)
    scores = unclear.predict_on_batch(km.preprocess_input(pixels))
    assert other.agreement == (scores.argmax(1) == best).sum()
    with pytest.raises(ValueError, match="load_predictor"):
        km.evaluate(load_predictor(base), tmp_path / "images", image_config=config)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"crop_fraction=1\.5"):
        km.ImageConfig(crop_fraction=1.5)
    two = keras.Model([a := keras.Input(SIZE), b := keras.Input((4,))], [a, b])
    with pytest.raises(
        ValueError, match=r"2 inputs: .* \(None, 32, 32, 3\), .* \(None, 4\)\. Make"
    ):
        km.image_config(two)
    with pytest.raises(ValueError, match="one image input"):
        km.image_config(keras.Model(b, layers.Dense(2)(b)))
    with pytest.raises(ValueError, match=r"belong together.*std=None"):
        km.ImageConfig(mean=(0, 0, 0), std=None)


def split_in_two(x):
    return ops.split(x, 2, axis=-1)


@pytest.mark.parametrize(
    ("head", "count"),
    [
        (split_in_two, 2),
        (lambda x: ops.split(x, 5, axis=-1), 5),
        (lambda x: list(ops.top_k(x, 3))[:1], 1),
        (lambda x: [*split_in_two(x), x], 3),
        (lambda x: [(d := layers.Dense(2, name="head"))(x), d(2 * x)], 2),
    ],
    ids=["split", "five", "top-k", "three", "one head twice"],
)
@pytest.mark.parametrize("precision", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
def test_no_output_vanishes(head, count, precision, base, tmp_path, relative_error):
    """Keras repeats the name of a layer for its outputs. A file needs unique names in order."""
    image = keras.Input(SIZE)
    outputs = head(base(image))
    model = keras.Model(image, outputs)
    report = km.export_tflite(model, tmp_path / "own.tflite", precision)
    assert len({tensor.name for tensor in report.outputs}) == len(report.outputs) == count
    limit = {"float32": 1e-4, "float16": 1e-2}[precision]
    assert report.error < limit


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In int8 these layers are mostly noise")
def test_an_int8_file_of_noise_is_refused(tmp_path):
    """The probabilities of attention over many positions are smaller than a step of int8."""
    image = keras.Input((64, 64, 3))
    x = layers.Reshape((-1, 8))(layers.Conv2D(8, 3, strides=2)(image / 127.5 - 1))
    x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(image, layers.Dense(3)(x))
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3)).astype(np.float32)
    path = tmp_path / "attention.tflite"
    with pytest.raises(ArithmeticError, match="mostly noise, a signal-to-noise ratio"):
        km.export_tflite(model, path, "int8", images)
    assert not path.exists()
    assert km.export_tflite(model, path, "int8", images, verify=False).error < 1.25


def test_outputs_that_are_not_numbers_are_refused(tmp_path):
    image = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    outputs = [layers.Dense(2, name="fine")(x), ops.log(-1 - ops.square(x))]
    with pytest.raises(ArithmeticError, match="Received: nan"):
        km.export_tflite(keras.Model(image, outputs), tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())
