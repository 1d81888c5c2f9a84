"""Tests the outputs of Core ML packages in NumPy, their description, and bad input."""

import logging
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_mobileone
from keras_mobileone.about import About
from keras_mobileone.choices import COMPRESSIONS
from keras_mobileone.cli import main
from keras_mobileone.data.imagenet import classes, preprocess_input
from keras_mobileone.data.images import evaluation_crop, list_images, load_image, spread
from keras_mobileone.export.coreml import export_coreml

logging.getLogger("coremltools").setLevel(logging.ERROR)
coremltools = pytest.importorskip("coremltools", reason="needs coremltools")
from mil_numpy import run_package  # noqa: E402

TOLERANCE = {"float32": 1e-4, "float16": 1e-2}


@pytest.fixture(scope="module")
def crops(shared) -> list[np.ndarray]:
    """Returns two photographs as the network takes them, uint8."""
    paths = spread(list_images(shared / "imagenet-sample" / "images"), 2)
    return [evaluation_crop(load_image(path), 224, 0.875) for path in paths]


@pytest.fixture(scope="module")
def s0(shared) -> keras.Model:
    """Returns the authors' network with logits."""
    path = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    return keras_mobileone.MobileOneS0(weights=path, deploy=True, classifier_activation=None)


@pytest.fixture
def ten(tiny, randomize) -> keras.Model:
    """Returns a small train-time network of ten classes."""
    model = keras_mobileone.MobileOne(tiny, weights=None, input_shape=(32, 32, 3), classes=10)
    return randomize(model)


def description(path):
    """Returns the description of the package."""
    return coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description


@pytest.mark.slow
@pytest.mark.parametrize("compute", TOLERANCE)
def test_s0_gives_keras_numbers(compute, s0, crops, tmp_path, relative_error):
    path = tmp_path / "s0.mlpackage"
    report = export_coreml(s0, path, compute, classifier=False)
    for crop in crops:
        expected = np.asarray(s0(preprocess_input(crop)[None]))
        found = run_package(path, crop)["scores"]
        assert relative_error(found, expected) < TOLERANCE[compute]
        assert found.argmax() == expected.argmax()
    assert report.operators["conv"] == 43
    assert report.bytes == pytest.approx({"float32": 8.4e6, "float16": 4.3e6}[compute], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s1", "s2", "s3", "s4"])
def test_other_variants(name, crops, tmp_path, randomize, relative_error):
    """The variants have random weights, 112 pixels, and in part squeeze-and-excitation."""
    crop = np.ascontiguousarray(crops[0][::2, ::2])
    model = keras_mobileone.MobileOne(
        name,
        weights=None,
        deploy=True,
        input_shape=crop.shape,
        classes=50,
        classifier_activation=None,
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:  # outputs neither vanish nor grow from layer to layer
        fan_in = np.prod(variable.shape[:2] if variable.shape[-1] == 1 else variable.shape[:-1])
        bias = len(variable.shape) == 1
        variable.assign(rng.normal(0, 0.1 if bias else np.sqrt(2 / fan_in), variable.shape))
    expected = np.asarray(model(preprocess_input(crop)[None]))
    for compute, tolerance in TOLERANCE.items():
        path = tmp_path / f"{compute}.mlpackage"
        export_coreml(model, path, compute)
        assert relative_error(run_package(path, crop)["scores"], expected) < tolerance


@pytest.mark.slow
def test_classifier_names_the_photograph(s0, crops, tmp_path, relative_error):
    names = [f"{wnid} {name}" for wnid, name in classes()]
    path = tmp_path / "s0.mlpackage"
    export_coreml(s0, path, labels=names)
    found = run_package(path, crops[0])
    expected = np.asarray(keras.ops.softmax(s0(preprocess_input(crops[0])[None])))[0]
    assert found["classLabel"] == names[expected.argmax()]
    assert relative_error(found["scores"], expected) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_weights(compression, crops, tmp_path):
    """The packages are smaller, and their outputs are those of rounded weights."""
    if compression == "palette8":
        pytest.importorskip("sklearn", reason="palettization needs scikit-learn")
    model = keras_mobileone.MobileOneS0(
        weights="imagenette", classes=10, deploy=True, classifier_activation=None
    )
    path = tmp_path / "s0.mlpackage"
    report = export_coreml(
        model,
        path,
        classifier=False,
        minimum_deployment_target="iOS16",
        compression=compression,
    )
    assert report.bytes < 1.35e6, "float16 takes 2.2e6"
    expected = np.asarray(model(preprocess_input(crops[0])[None]))
    found = np.float64(run_package(path, crops[0])["scores"])
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    assert found.argmax() == expected.argmax()


@pytest.mark.slow
def test_blocks_are_fused_and_the_tensor_input(ten, noise, tmp_path, relative_error):
    path = tmp_path / "ten.mlpackage"
    report = export_coreml(ten, path, "float32", image=False)
    images = noise(1, 32, 32, 3)
    assert relative_error(run_package(path, images)["scores"], ten(images, training=False)) < 1e-4
    assert report.input.startswith("(1, 32, 32, 3) float32")


@pytest.mark.slow
def test_what_xcode_shows(ten, tmp_path):
    path = tmp_path / "ten.mlpackage"
    labels = [f"class {i}" for i in range(10)]
    about = About("Ten.", author="A", license="L", version="1.2")
    export_coreml(ten, path, labels=labels, minimum_deployment_target="iOS16", about=about)
    found = description(path)
    meta = found.metadata
    assert (meta.shortDescription, meta.author, meta.license) == ("Ten.", "A", "L")
    assert meta.versionString == "1.2"
    assert meta.userDefined["com.apple.coreml.model.preview.type"] == "imageClassifier"
    assert found.input[0].type.imageType.width == 32
    assert found.input[0].shortDescription == "RGB image, 32×32 pixels; the package normalizes it"
    assert [output.name for output in found.output] == ["classLabel", "scores"]
    assert all(output.shortDescription for output in found.output)


@pytest.mark.slow
def test_a_wrong_evaluator_is_seen(ten, noise, tmp_path, relative_error, monkeypatch):
    """The comparison fails if one operation is wrong."""
    import mil_numpy

    path = tmp_path / "ten.mlpackage"
    export_coreml(ten, path, "float32", image=False)
    images = noise(1, 32, 32, 3)
    monkeypatch.setitem(mil_numpy.OPERATIONS, "relu", lambda x: np.maximum(x, 0.01))
    assert relative_error(run_package(path, images)["scores"], ten(images, training=False)) > 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compute_precision": "int8"}, "float16, float32"),
        ({"minimum_deployment_target": "iOS14"}, "iOS15"),
        ({"compression": "zip", "minimum_deployment_target": "iOS16"}, "palette8"),
        ({"compression": "linear8"}, "iOS16 or newer"),
        ({"labels": ["one", "two"]}, "Expected 10 labels.*Received: 2"),
        ({"labels": ["one"] * 10}, "more than once"),
        ({"path": "model.mlmodel"}, "mlpackage"),
        ({"path": "none/model.mlpackage"}, "Create it first"),
        ({"path": "there.mlpackage"}, "exists"),
    ],
)
def test_bad_input(arguments, words, ten, tmp_path):
    (tmp_path / "there.mlpackage").mkdir()
    arguments = dict(arguments)
    path = tmp_path / arguments.pop("path", "model.mlpackage")
    with pytest.raises((ValueError, OSError), match=words):
        export_coreml(ten, path, **arguments)
    assert [entry.name for entry in tmp_path.iterdir()] == ["there.mlpackage"]


def test_an_operation_that_coremltools_does_not_know_is_named(tmp_path):
    image = keras.Input((32, 32, 3))
    x = keras.layers.UpSampling2D(2, interpolation="bicubic")(image)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with pytest.raises(ValueError, match=r"Core ML has\. Received: ResizeBicubic\. .*bilinear"):
        export_coreml(model, tmp_path / "x.mlpackage", image=False)
    assert not list(tmp_path.iterdir())


def test_layers_that_keras_does_not_have(tmp_path):
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(Twice(name="mine")(inputs)))
    with pytest.raises(TypeError, match="'mine' of type Twice"):
        export_coreml(model, tmp_path / "model.mlpackage")


@pytest.mark.slow
def test_without_coremltools(run_python, tmp_path):
    """The error is one sentence that names the extra."""
    printed = run_python(
        "import sys; sys.modules['coremltools'] = None\n"
        "import keras, keras_mobileone\n"
        "inputs = keras.Input((32, 32, 3))\n"
        "model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))\n"
        "try:\n"
        f"    keras_mobileone.export_coreml(model, {str(tmp_path / 'x.mlpackage')!r})\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert "keras-mobileone[coreml]" in printed


@pytest.mark.slow
def test_latency_needs_a_mac(tmp_path):
    """On other systems the benchmark reports this in one sentence before anything else."""
    if sys.platform == "darwin":
        pytest.skip("this is a Mac")
    script = Path(__file__).parents[1] / "benchmarks" / "coreml_latency.py"
    process = subprocess.run(
        [sys.executable, script, "none.mlpackage", "--json", tmp_path / "x.json"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        "Error: Core ML predicts on macOS only. Received: Linux. Run this on a Mac."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command_without_labels(ten, tmp_path):
    ten.save(tmp_path / "ten.keras")
    command = ["export", "coreml", "--model", str(tmp_path / "ten.keras")]
    result = CliRunner().invoke(main, [*command, "--output", str(tmp_path / "ten.mlpackage")])
    assert result.exit_code == 2
    assert "A classifier needs the labels of 'tiny'" in result.stderr
    assert "--labels or --scores on the command line" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["ten.keras"]


@pytest.mark.slow
def test_command(shared, tmp_path):
    """`export coreml` writes labels, texts and a page for the developer of the app."""
    weights = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    labels, output, usage = (tmp_path / n for n in ("labels.txt", "S0.mlpackage", "page.md"))
    command = ["export", "coreml", "--weights", str(weights), "--output", str(output)]
    command += ["--author", "Ada", "--labels", str(labels), "--usage", str(usage)]

    def run(*more):
        return CliRunner().invoke(main, [*command, *more])

    assert "Expected a file of class names" in run().output
    labels.write_text("one\ntwo\n")
    result = run()
    assert result.exit_code == 2
    assert "Expected 1000 labels" in result.output
    assert not output.exists() and not usage.exists()

    labels.write_text("".join(f"class {i}\n" for i in range(1000)))
    result = run()
    assert result.exit_code == 0, result.output
    found = description(output)
    assert found.metadata.author == "Ada"
    assert "S0(configuration:" in usage.read_text()
    assert "1000, inside the package: class 0, class 1" in usage.read_text()
    assert "exists" in run().output
