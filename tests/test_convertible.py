"""Tests what converters do not have or get wrong: argmax, grouped convolutions, GELU, constants."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mobileone as km
from keras_mobileone import compat
from keras_mobileone.errors import VerificationError
from keras_mobileone.export.checking import check_deviation, deviation_of

SIZE = (32, 48, 3)
PACKAGES = {"m.onnx": ("onnx", "tf2onnx", "onnxruntime"), "m.xml": ("openvino",)}
PATHS = ["m.tflite", "m.onnx", "m.xml", "m"]


class Best(layers.Layer):
    """The index of the largest or smallest channel, in a layer of a user."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs, axis=-1, keepdims=True)


FORMS = {
    "operation": lambda scores: ops.argmax(scores, axis=-1),
    "smallest": lambda scores: ops.argmin(scores, axis=3, keepdims=True),
    "layer": lambda scores: Best(ops.argmax)(scores),
    "lambda": lambda scores: layers.Lambda(lambda x: ops.argmax(x, -1))(scores),
}


def segmenter(form: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input(SIZE)
    x = layers.Conv2D(8, 3, 2, activation="relu")(layers.ZeroPadding2D(1)(image))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(5, 1)(x))
    return keras.Model(image, FORMS[form](x), name="segmenter")


@pytest.fixture
def images(noise) -> np.ndarray:
    """Returns images as the models take them."""
    return noise(6, *SIZE)


def export(model, path, **options):
    """Exports a model without a normalization in the file."""
    for package in PACKAGES.get(path.name, ()):
        pytest.importorskip(package, reason="needs the extras onnx and openvino")
    form = None if path.suffix else "saved_model"
    return km.export(model, path, form, normalize=False, **options)


def run(path, image) -> np.ndarray:
    """Returns the output of a file, without this package."""
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_path=str(path)).get_signature_runner()
        (found,) = runner(image=image[None]).values()
    elif path.suffix == ".onnx":
        import onnxruntime

        (found,) = onnxruntime.InferenceSession(path).run(None, {"image": image[None]})
    elif path.suffix == ".xml":
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        (found,) = openvino.compile_model(path, "CPU", hint)(image[None]).values()
    else:
        import tensorflow as tf

        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        (found,) = (value.numpy() for value in serve(image=tf.constant(image[None])).values())
    return found


def exported(model, path, image):
    """Returns the report of an export to any format, and the output of the file."""
    if path.suffix != ".mlpackage":
        report = export(model, path)
        return report, run(report.path, image)
    pytest.importorskip("coremltools", reason="needs the extra coreml")
    from mil_numpy import run_package

    report = km.export_coreml(model, path, "float32", image=False)
    (found,) = run_package(report.path, image[None]).values()
    return report, found


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_the_file_returns_the_classes(form, path, images, tmp_path):
    model = segmenter(form)
    report = export(model, tmp_path / path)
    expected = model.predict(images, verbose=0)
    found = np.concatenate([run(report.path, image) for image in images])
    assert found.dtype.kind == "i" and found.shape == expected.shape
    assert len(np.unique(expected)) > 2
    assert (found != expected).mean() < 1e-3
    assert report.error < 1e-3
    if path == "m.tflite":
        assert report.operators["ARG_MIN" if form == "smallest" else "ARG_MAX"] == 1
        # No operator on bits is left.
        others = {"PAD", "CONV_2D", "RESIZE_BILINEAR", "RESHAPE"}
        assert set(report.operators) - others in ({"ARG_MAX"}, {"ARG_MIN"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The int8 file keeps the converter's ranges for the operators")
@pytest.mark.parametrize("form", FORMS)
def test_int8(form, images, tmp_path):
    model = segmenter(form)
    report = export(model, tmp_path / "m.tflite", precision="int8", calibration=images)
    expected = model.predict(images, verbose=0)
    found = np.concatenate([run(report.path, image) for image in images])
    different = (found != expected).mean()
    assert 0 < different < 0.05 and 0 < report.error < 0.05
    assert report.sqnr == pytest.approx(-10 * np.log10(2 * report.error))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["operation", "smallest"])
def test_core_ml(form, images, tmp_path):
    model = segmenter(form)
    report, found = exported(model, tmp_path / "m.mlpackage", images[0])
    (output,) = report.outputs
    expected = model.predict(images[:1], verbose=0)
    assert (output.dtype, output.shape) == ("int32", expected.shape)
    assert (found == expected).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("path", [*PATHS, "m.mlpackage"])
@pytest.mark.parametrize(
    "channels, options", [(4, {}), (2, {"strides": 2}), (1, {"use_bias": False})]
)
def test_grouped_convolutions(channels, options, path, images, tmp_path, relative_error):
    keras.utils.set_random_seed(0)
    image = keras.Input(SIZE)
    x = layers.Conv2D(8, 3, activation="relu")(image)
    model = keras.Model(image, layers.Conv2D(16, 3, groups=8 // channels, **options)(x))
    report, found = exported(model, tmp_path / path, images[0])
    assert relative_error(found, model.predict(images[:1], verbose=0)) < 1e-5
    kinds = ("CONV_2D", "Conv", "conv", "Convolution", "GroupConvolution")
    assert sum(report.operators.get(kind, 0) for kind in kinds) == 2 or path == "m"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["m.tflite", "m.xml"])
def test_an_operation_that_the_format_does_not_have_is_named(path, tmp_path):
    image = keras.Input(SIZE)
    x = ops.image.resize(layers.Conv2D(4, 3)(image), (8, 8), "bicubic")
    model = keras.Model(image, ops.cumprod(x, axis=1))
    words = r"has\. Received: Cumprod, ResizeBicubic\. Replace the layers"
    with pytest.raises(ValueError, match=words):
        export(model, tmp_path / path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_operation_that_onnx_does_not_have_is_named(tmp_path):
    image = keras.Input(SIZE)
    model = keras.Model(image, ops.cross(layers.Conv2D(3, 3)(image), ops.ones(3)))
    with pytest.raises(ValueError, match=r"ONNX has\. Received: Cross\. Replace"):
        export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_operation_without_16_bits_is_named(images, tmp_path):
    with pytest.raises(ValueError, match=r"TFLite in int16x8 has\. Received: ARG_MAX\. Replace"):
        export(
            segmenter("operation"), tmp_path / "m.tflite", precision="int16x8", calibration=images
        )
    assert not list(tmp_path.iterdir())


def test_classes_are_no_magnitudes():
    """The class 7 for 2 is one wrong value, like 3 for 2."""
    expected = np.arange(10, dtype=np.int32)[None]
    found = expected.copy()
    found[0, 2] = 7
    deviation = deviation_of({"classes": expected}, [{"classes": found}])
    assert deviation.error == pytest.approx(0.1)
    one_hot = np.eye(10)
    noise = np.square(one_hot[expected] - one_hot[found]).sum()
    assert deviation.sqnr == pytest.approx(10 * np.log10(10 / noise))
    check_deviation(deviation, "int8", "segmenter", "noise")
    with pytest.raises(VerificationError, match=r"within 0\.001"):
        check_deviation(deviation, "float32", "segmenter", "noise")
    shuffled = deviation_of({"classes": expected}, [{"classes": expected[:, ::-1]}])
    with pytest.raises(VerificationError, match="mostly noise"):
        check_deviation(shuffled, "int8", "segmenter", "noise")
    same = deviation_of({"classes": expected}, [{"classes": expected}])
    assert same == (0, np.inf)


def test_an_output_of_another_shape_is_refused(noise):
    """OpenVINO 2026.4 repeats the wrong axis for `ops.tile` along the height."""
    expected, found = noise(2, 60, 46, 4), noise(2, 30, 92, 4)
    words = r"'tile' of the file with the shape \(1, 60, 46, 4\)\. Received: \(1, 30, 92, 4\)"
    with pytest.raises(VerificationError, match=words):
        deviation_of({"tile": expected}, [{"tile": image[None]} for image in found])


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"axis": -1, "keepdims": True}])
def test_argmax_finds_the_same(name, options, noise):
    values, function = noise(3, 4, 5), getattr(ops, name)
    expected = np.asarray(function(values, **options))
    with compat.convertible_operations():
        found = np.asarray(function(values, **options))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype == np.int32
    np.testing.assert_array_equal(found, getattr(np, name)(values, **options))


def test_keras_is_itself_again():
    """Keras tells -0.0 from 0.0, also after a conversion that fails."""
    zeros = np.array([-0.0, 0.0], np.float32)
    with pytest.raises(RuntimeError), compat.convertible_operations():
        assert int(ops.argmax(zeros, axis=0)) == 0
        raise RuntimeError
    assert int(ops.argmax(zeros, axis=0)) == 1


@pytest.mark.parametrize("channels", [8, 2])
@pytest.mark.parametrize("data_format", [None, "channels_first"])
def test_convolutions_compute_the_same(channels, data_format, noise):
    options = {"data_format": data_format, "strides": 2, "padding": "same"}
    images, kernel = noise(2, 8, 8, 8), noise(3, 3, channels, 4)
    expected = np.asarray(ops.conv(images, kernel, **options))
    with compat.convertible_operations():
        found = np.asarray(ops.conv(images, kernel, **options))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_command_line_prints_the_sentence_alone(tmp_path):
    """The converter's page of MLIR, which C++ writes to stderr, is not shown."""
    image = keras.Input(SIZE)
    model = keras.Model(image, ops.image.resize(layers.Conv2D(4, 3)(image), (8, 8), "bicubic"))
    model.save(tmp_path / "cubic.keras")
    arguments = ("--model", tmp_path / "cubic.keras", "--output", tmp_path / "m.tflite")
    command = [sys.executable, "-m", "keras_mobileone", "export", "tflite", *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("Error: Expected operations that TFLite in float32 has.")
    assert [path.name for path in tmp_path.iterdir()] == ["cubic.keras"]


class Shifted(layers.Layer):
    """A layer of a user that keeps a constant tensor beside its weights."""

    def __init__(self, constant, **kwargs):
        super().__init__(**kwargs)
        self.constant = constant

    def call(self, inputs):
        return inputs + self.constant


ELEMENTWISE = {
    "gelu": lambda x: layers.Activation("gelu")(x),
    "celu": lambda x: ops.celu(x, 0.5),
    "expm1": ops.expm1,
    "log1p": lambda x: ops.log1p(ops.square(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("function", ELEMENTWISE)
@pytest.mark.parametrize("path", ["m.onnx", "m.mlpackage"])
def test_elementwise_operations(function, path, images, tmp_path, relative_error):
    """An exact GELU contains Erfc, and a CELU Expm1, which the converters do not have."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SIZE, name="image")
    model = keras.Model(image, ELEMENTWISE[function](layers.Conv2D(4, 3)(image)))
    _, found = exported(model, tmp_path / path, images[0])
    assert relative_error(found, model.predict(images[:1], verbose=0)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_constant_tensors_are_no_inputs(path, images, noise, tmp_path, relative_error):
    keras.utils.set_random_seed(0)
    image = keras.Input(SIZE, name="image")
    x = layers.Conv2D(4, 3)(Shifted(ops.array(noise(*SIZE)))(image))
    x = ops.take(x, ops.array([2, 0]), axis=-1)
    model = keras.Model(image, x * ops.array([1.0, 2.0]))
    report, found = exported(model, tmp_path / path, images[0])  # with the image alone
    assert [tensor.name for tensor in report.inputs] == ["image"]
    assert relative_error(found, model.predict(images[:1], verbose=0)) < 1e-5


def test_a_file_that_its_runtime_refuses(tmp_path):
    """tf2onnx 1.17 takes a constant that is added to a convolution for its bias, of any shape."""
    image = keras.Input(SIZE, name="image")
    rows = ops.reshape(ops.arange(SIZE[0], dtype="float32"), (1, -1, 1, 1))
    model = keras.Model(image, layers.Conv2D(3, 3, padding="same")(image) + rows)
    with pytest.raises(VerificationError, match=r"onnxruntime runs\. .* by a mistake of the conv"):
        export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [*PATHS, "m.mlpackage"])
@pytest.mark.parametrize("axis, shape", [(None, r"\(\)"), ((0, 1, 2), r"\(3,\)")])
def test_an_output_without_batch_is_refused(axis, shape, path, tmp_path):
    image = keras.Input(SIZE)
    model = keras.Model(image, ops.mean(image, axis))
    if path == "m.mlpackage":
        pytest.importorskip("coremltools", reason="needs the extra coreml")
    with pytest.raises(ValueError, match=rf"is the batch\. Received: .* of shape {shape}\. Keep"):
        km.export(model, tmp_path / path, None if "." in path else "saved_model", normalize=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_error_of_a_converter_is_one_sentence(tmp_path):
    """coremltools 9.0 fails on the loop of a recurrent layer."""
    pytest.importorskip("coremltools", reason="needs the extra coreml")
    image = keras.Input(SIZE)
    model = keras.Model(image, layers.GRU(4)(layers.Reshape((-1, 3))(image)))
    words = (
        r"converter to Core ML takes\. Received its error: IndexError: [^.]+\. Replace the layers"
    )
    with pytest.raises(ValueError, match=words):
        km.export_coreml(model, tmp_path / "m.mlpackage", image=False)
    assert not list(tmp_path.iterdir())
