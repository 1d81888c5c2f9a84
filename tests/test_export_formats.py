"""Tests `export`: ONNX, OpenVINO and SavedModel, one report for all formats, clean failures."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers
from PIL import Image

import keras_mobileone as km
from keras_mobileone.cli import main
from keras_mobileone.data.images import EXAMPLE_IMAGE, example_image
from keras_mobileone.export import network
from keras_mobileone.export.entry import EXPORTS
from keras_mobileone.export.formats import FORMATS, formats_markdown
from keras_mobileone.export.snippets import usage

CONVERTED = {"onnx": "m.onnx", "openvino": "m.xml", "saved_model": "m"}
CASES = {**{name: (path, "float32") for name, path in CONVERTED.items()}}
CASES["openvino float16"] = ("half.xml", "float16")
NAMES = [f"class {letter}" for letter in "abcdefghij"]
ABOUT = km.About("Ten classes.", author="Ada", license="MIT", version="7")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def packages():
    for package in ("onnx", "tf2onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason="needs the extras onnx and openvino")


@pytest.fixture(scope="module")
def reports(tiny_model, tmp_path_factory):
    """Returns the reports of the exports of a train-time model, by case."""
    root = tmp_path_factory.mktemp("exports")
    return {
        case: km.export(
            tiny_model,
            root / path,
            case.split()[0],
            precision,
            labels=NAMES,
            about=ABOUT,
        )
        for case, (path, precision) in CASES.items()
    }


@pytest.fixture(scope="module")
def expected(tiny_model):
    """Returns the logits of the exported model, which takes normalized images."""
    return np.asarray(tiny_model(km.preprocess_input(PIXELS), training=False))


@pytest.fixture(scope="module")
def two_inputs():
    """Returns a model of an image and a vector with a dictionary of outputs."""
    image, vector = keras.Input((8, 8, 3), name="image_in"), keras.Input((4,), name="vector")
    joined = layers.Concatenate()([layers.Flatten()(image), vector])
    heads = {"zebra": layers.Dense(3, name="second")(joined)}
    heads["apple"] = layers.Dense(2, name="first")(vector)
    return keras.Model([image, vector], heads, name="two")


class Subclassed(keras.Model):
    """A classifier without a graph of its own."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.convolution = layers.Conv2D(8, 3, strides=2, activation="relu")
        self.pool, self.scores = layers.GlobalMaxPooling2D(), layers.Dense(10, name="scores")

    def call(self, images):
        return self.scores(self.pool(self.convolution(images)))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_report(case, reports, tiny_model):
    report = reports[case]
    source, target = report.inputs[0], report.outputs[0]
    assert (report.format, report.name) == (case.split()[0], tiny_model.name)
    assert (source.name, source.shape, source.dtype) == ("pixels", (1, 64, 64, 3), "float32")
    assert (target.name, target.shape, target.dtype) == ("predictions", (1, 10), "float32")
    half = report.precision == "float16"
    assert report.error < (1e-2 if half else 1e-5) and report.sqnr > (40 if half else 90)
    assert report.compared == "a photograph and noise"
    assert report.labels == tuple(NAMES) and report.image_config.takes_pixels
    assert report.train.trainable > report.deploy.trainable
    assert report.gpu_warnings is None
    assert list(report.snippets) == ["python"]
    assert json.loads(json.dumps(report.to_dict()))["error"] == report.error
    assert usage(report).markdown().startswith(f"# {report.path.name}")
    assert not [path for path in report.path.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_onnx_runtime_agrees_and_reads_the_metadata(reports, expected, relative_error):
    import onnx
    import onnxruntime

    path = reports["onnx"].path
    session = onnxruntime.InferenceSession(path)
    found = [session.run(None, {"pixels": image[None].astype(np.float32)})[0] for image in PIXELS]
    assert relative_error(np.concatenate(found), expected) < 1e-5
    metadata = session.get_modelmeta()
    assert metadata.description == "Ten classes."
    values = metadata.custom_metadata_map
    assert json.loads(values["labels"]) == NAMES
    assert (values["model_author"], values["model_license"]) == ("Ada", "MIT")
    assert (values["name"], values["version"]) == ("tiny", "7")
    assert values["Image.BitmapPixelFormat"] == "Rgb8"
    assert json.loads(values["image_config"])["std"] == [1, 1, 1]
    onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.slow
def test_openvino_agrees_and_reads_the_metadata(reports, expected, relative_error):
    import openvino

    path = reports["openvino"].path
    # The weights of the fused network, in four bytes each, or in two.
    weights = path.with_suffix(".bin").stat().st_size
    halves = reports["openvino float16"].path.with_suffix(".bin").stat().st_size
    parameters = reports["openvino"].deploy.trainable
    assert weights / 4 == pytest.approx(parameters, rel=0.1)
    assert halves / 2 == pytest.approx(parameters, rel=0.1)
    graph = openvino.Core().read_model(path)
    run = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [run(image[None].astype(np.float32))["predictions"] for image in PIXELS]
    assert relative_error(np.concatenate(found), expected) < 1e-5

    def read(*names):
        return graph.get_rt_info(list(names)).value

    assert json.loads(read("keras_mobileone", "labels")) == NAMES
    assert read("keras_mobileone", "license") == "MIT"
    assert json.loads(read("keras_mobileone", "image_config"))["mean"] == [0, 0, 0]
    assert read("model_info", "labels").split()[:2] == ["class_a", "class_b"]


@pytest.mark.slow
def test_tensorflow_alone_runs_the_saved_model(reports, expected, relative_error, run_python):
    """The process can import neither this package nor Keras."""
    source = """
import json, pathlib, sys
sys.modules["keras_mobileone"] = sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
path = pathlib.Path(sys.argv[1])
run = tf.saved_model.load(str(path)).signatures["serving_default"]
pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
scores = [run(pixels=tf.constant(p[None], tf.float32))["predictions"].numpy()[0] for p in pixels]
try:
    import keras_mobileone
except ImportError:
    print(json.dumps([np.array(scores).tolist(), (path / "assets.extra/labels.txt").read_text()]))
"""
    path = reports["saved_model"].path
    scores, labels = json.loads(run_python(source, path).splitlines()[-1])
    assert relative_error(np.array(scores), expected) < 1e-5
    assert labels.splitlines() == NAMES
    weights = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    parameters = reports["saved_model"].deploy.trainable
    assert weights / 4 == pytest.approx(parameters, rel=0.3)  # fused, and stored once
    metadata = json.loads((path / "assets.extra" / "metadata.json").read_text())
    assert (metadata["description"], metadata["author"]) == ("Ten classes.", "Ada")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_snippet_prints_what_the_page_announces(case, reports):
    report = reports[case]
    directory = report.path.parent
    Image.fromarray(example_image((224, 224))).save(directory / EXAMPLE_IMAGE)
    process = subprocess.run(
        [sys.executable, "-c", report.snippets["python"]],
        cwd=directory,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = [line.rsplit(" ", 1) for line in process.stdout.splitlines()]
    assert [label for label, _ in found] == [label for label, _ in report.expected]
    scores = [score for _, score in report.expected]
    assert [float(score) for _, score in found] == pytest.approx(scores, abs=6e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_models_of_other_kinds(name, two_inputs, tiny_model, randomize, tmp_path):
    subclassed = Subclassed()
    subclassed(np.zeros((1, 16, 16, 3), np.float32))
    nested = keras.Sequential(
        [keras.Input((64, 64, 3)), layers.Rescaling(1 / 127.5, -1), tiny_model], name="nested"
    )
    applications = keras.applications.MobileNetV3Small(
        weights=None, input_shape=(64, 64, 3), alpha=0.75, classes=7, classifier_activation=None
    )
    for model in (two_inputs, subclassed, nested, randomize(applications)):
        report = km.export(model, tmp_path / f"{model.name}{FORMATS[name].suffix}", name)
        assert report.error < 1e-4, model.name
    two = km.export(two_inputs, tmp_path / f"again{FORMATS[name].suffix}", name)
    assert [(i.name, i.shape) for i in two.inputs] == [
        ("image_in", (1, 8, 8, 3)),
        ("vector", (1, 4)),
    ]
    assert {o.name: o.shape for o in two.outputs} == {"second": (1, 3), "first": (1, 2)}
    assert two.image_config is None and two.expected is None and two.snippets == {}
    assert two.compared == "noise"


@pytest.mark.slow
def test_normalization_is_left_to_the_app(tiny_model, tmp_path, relative_error):
    import onnxruntime

    report = km.export(tiny_model, tmp_path / "m.onnx", normalize=False, images=PIXELS / 64 - 2)
    assert report.inputs[0].name == "image" and not report.image_config.takes_pixels
    assert report.compared == "3 images"
    assert "np.float32([" in report.snippets["python"]
    images = km.preprocess_input(PIXELS)
    found = onnxruntime.InferenceSession(report.path).run(None, {"image": images[:1]})[0]
    assert relative_error(found, tiny_model(images[:1], training=False)) < 1e-5


@pytest.mark.parametrize(("name", "path"), CONVERTED.items())
def test_a_model_of_bytes_and_half_precision(name, path, tmp_path):
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(8, 3, dtype="mixed_float16")(x)
    x = layers.Dense(10, dtype="mixed_float16")(layers.GlobalMaxPooling2D()(x))
    report = km.export(keras.Model(image, x, name="bytes"), tmp_path / path, name)
    assert report.inputs[0].dtype == "uint8" and report.outputs[0].dtype == "float32"
    assert report.error < 1e-5  # against the same weights in float32
    assert "np.asarray(image, np.uint8)" in report.snippets["python"]


@pytest.mark.slow
def test_one_entry_for_the_phone_formats(tiny_model, tmp_path):
    report = km.export(tiny_model, tmp_path / "m.tflite", images=PIXELS, about=ABOUT)
    assert report.format == "tflite" and report.error < 1e-4 and report.sqnr > 80
    assert report.compared == "3 images" and report.about is ABOUT
    assert list(report.snippets) == ["python", "kotlin"]
    pytest.importorskip("coremltools", reason="needs coremltools")
    package = km.export(tiny_model, tmp_path / "m.mlpackage", labels=NAMES)
    assert isinstance(package, km.CoreMLReport) and isinstance(package, km.ExportReport)
    assert (package.format, package.precision, package.error) == ("coreml", "float16", None)
    assert package.image and [o.name for o in package.outputs] == ["classLabel", "scores"]
    assert "Apple" in package.difference and list(package.snippets) == ["swift"]
    tensor = km.export(tiny_model, tmp_path / "t.mlpackage", normalize=False)
    assert not tensor.image


def test_the_package_can_be_called(run_python):
    source = """
import keras_mobileone.export.formats as formats
import keras_mobileone
package = keras_mobileone.export
from keras_mobileone import export
import keras_mobileone.export.tflite
assert keras_mobileone.export is package is export
assert package.formats is formats and package.tflite.export_tflite
print(callable(package))
"""
    assert run_python(source).split() == ["True"]
    assert km.export.formats.FORMATS is FORMATS
    assert list(inspect.signature(km.export).parameters)[:4] == [
        "model",
        "path",
        "format",
        "precision",
    ]


def test_every_format_is_everywhere():
    assert set(FORMATS) == set(EXPORTS) == set(main.commands["export"].commands)
    table = formats_markdown().splitlines()
    assert len(table) == 2 + len(FORMATS)
    assert all(line.count("|") == 7 for line in table)


@pytest.fixture(scope="module")
def small():
    """Returns a classifier that is exported quickly."""
    image = keras.Input((16, 16, 3))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    return keras.Model(image, layers.Dense(10, name="scores")(x), name="small")


def open_size():
    image = keras.Input((None, None, 3))
    return keras.Model(image, layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3)(image)))


BAD = [
    ({"path": "m.onnx", "format": "torch"}, ValueError, "must be one of tflite, coreml, onnx"),
    ({"path": "m.tflite", "format": "onnx"}, ValueError, "must end in .onnx. Received: .*m.tflite"),
    ({"path": "m.onnx", "format": "saved_model"}, ValueError, "named like a file"),
    ({"path": "m.keras", "format": "saved_model"}, ValueError, "named like a file"),
    ({"path": "m.bin", "format": "openvino"}, ValueError, "must end in .xml"),
    ({"path": "m"}, ValueError, "or a format. Received: .* without a format"),
    ({"path": "m.onnx", "precision": "int8"}, ValueError, "one of float32 for ONNX. .*'int8'"),
    ({"path": "m.onnx", "calibration": 1}, TypeError, "images, verify. Received: 'calibration'"),
    ({"path": "m.onnx", "labels": ["a"]}, ValueError, "Expected 10 labels"),
    ({"path": "no/m.onnx"}, FileNotFoundError, "Expected an existing directory"),
    ({"path": "m.onnx", "images": np.zeros((2, 8, 8, 3))}, ValueError, r"\(2, 8, 8, 3\)"),
    ({"path": "m.onnx", "model": 7}, TypeError, "Expected a Keras model. Received: int"),
    (
        {"path": "m.onnx", "model": keras.Sequential([layers.Dense(2)])},
        ValueError,
        "no input shape yet",
    ),
    ({"path": "m.onnx", "model": Subclassed()}, ValueError, "no single input shape yet"),
    ({"path": "m.onnx", "model": open_size()}, ValueError, r"\(None, None, None, 3\)"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD)
def test_bad_input_writes_nothing(arguments, error, words, small, tmp_path):
    arguments = {"model": small, **arguments, "path": tmp_path / arguments["path"]}
    with pytest.raises(error, match=words):
        km.export(**arguments)
    assert not list(tmp_path.iterdir())


def test_two_inputs_have_no_images(two_inputs, tmp_path):
    with pytest.raises(ValueError, match=r"one image input. Received: 'two' with inputs"):
        km.export(two_inputs, tmp_path / "m.onnx", normalize=True)
    with pytest.raises(ValueError, match=r"Received: 'two' with 2 inputs. Leave the images out"):
        km.export(two_inputs, tmp_path / "m.onnx", images=PIXELS)
    assert not list(tmp_path.iterdir())


def test_a_directory_beside_the_graph_is_not_replaced(small, tmp_path):
    (tmp_path / "m.bin").mkdir()
    with pytest.raises(IsADirectoryError, match=r"m\.bin"):
        km.export(small, tmp_path / "m.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


def test_a_directory_is_not_replaced(small, tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(FileExistsError, match=r"which exists. Remove it"):
        km.export(small, tmp_path / "m", "saved_model")
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize(
    ("package", "path", "extra"),
    [("tf2onnx", "m.onnx", "onnx"), ("openvino", "m.xml", "openvino")],
)
def test_a_missing_package_names_the_extra(package, path, extra, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}.*keras-mobileone\[{extra}\]"):
        km.export(small, tmp_path / path)
    assert not list(tmp_path.iterdir())


def test_without_a_runtime_nothing_is_compared(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = km.export(small, tmp_path / "m.onnx")
    assert report.path.is_file() and report.error is report.sqnr is None
    assert report.compared == "onnxruntime is not installed"
    assert "(Keras)" in usage(report).facts[-1][1]


@pytest.mark.parametrize(("name", "path"), CONVERTED.items())
def test_a_wrong_file_is_refused(name, path, small, tmp_path, monkeypatch):
    """The normalization is left out: the check must notice, and leave no file."""
    monkeypatch.setattr(network, "normalized", lambda pixels, config: pixels)
    with pytest.raises(ArithmeticError, match="No file was written"):
        km.export(small, tmp_path / path, name)
    assert not list(tmp_path.iterdir())
    assert km.export(small, tmp_path / path, name, verify=False).error > 1e-3


@pytest.fixture(scope="module")
def model_file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.keras"
    small.save(path)
    return path


@pytest.mark.parametrize(("name", "path"), CONVERTED.items())
def test_the_command_line(name, path, model_file, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    command = ["export", name, "--model", str(model_file), "--output", str(tmp_path / path)]
    command += ["--labels", str(tmp_path / "names.txt"), "--license", "MIT", "--softmax"]
    command += ["--usage", str(tmp_path / "use.md"), "--model-card", str(tmp_path / "README.md")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    for words in ("Difference from Keras", "dB SQNR", "class a", f"{FORMATS[name].title}, float32"):
        assert words in result.output
    assert (tmp_path / path).exists()
    assert (tmp_path / "use.md").read_text().startswith(f"# {path}")
    assert (tmp_path / "README.md").read_text().startswith('---\nlicense: "mit"\n')


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("torch", "--output", "m"), "No such command 'torch'"),
        (("onnx", "--output", "m.tflite"), "must end in .onnx"),
        (("saved_model", "--output", "m.onnx"), "named like a file"),
        (("openvino", "--output", "no/m.xml"), "existing directory"),
        (("onnx", "--output", "m.onnx", "--model-card", "no/README.md"), "existing directory"),
        (("onnx", "--output", "m.onnx", "--images", "none"), "none"),
        (("onnx", "--output", "m.onnx", "--precision", "int8"), "'int8'"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    words, expected, model_file, tmp_path, monkeypatch, refused
):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", *words, "--model", str(model_file)])
    refused(result, [expected], tmp_path)
