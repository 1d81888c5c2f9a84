"""Tests that the code in the pages on using a file runs and prints the stated results."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_mobileone.data.images import EXAMPLE_IMAGE, example_image
from keras_mobileone.export.snippets import coreml_usage, tflite_usage
from keras_mobileone.export.tflite import export_tflite

NAMES = [f"class {letter}" for letter in "abcdefg"]
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Returns a small classifier of normalized images that are not square."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 48, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.Dense(7, name="scores")(keras.layers.GlobalMaxPooling2D()(x))
    return keras.Model(inputs, x, name="small")


def printed(code, directory) -> list[tuple[str, float]]:
    """Returns the output of a page's Python, run in a new process next to the file."""
    Image.fromarray(example_image((224, 224))).save(directory / EXAMPLE_IMAGE)
    (directory / "app.py").write_text(code, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "app.py"], cwd=directory, capture_output=True, text=True, check=True
    )
    return [
        (label, float(score))
        for label, score in (line.rsplit(" ", 1) for line in process.stdout.splitlines())
    ]


CASES = {
    "float32": {},
    "normalized": {"normalize": False},
    "no labels": {"labels": None},
    "bytes": {"precision": "int8", "input_dtype": "uint8", "output_dtype": "uint8"},
    "int8": {"precision": "int8", "input_dtype": "int8", "output_dtype": "int8"},
    "normalized int8": {"precision": "int8", "input_dtype": "int8", "normalize": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_python_code_prints_what_the_page_announces(case, model, tmp_path):
    arguments = {"labels": NAMES, "plain": True} | CASES[case]
    if arguments.get("precision") == "int8":
        normalized = arguments.get("normalize") is False
        images = PIXELS.astype(np.float32)
        arguments["calibration"] = images / 64 - 2 if normalized else images
    report = export_tflite(model, tmp_path / "m.tflite", **arguments)
    page = tflite_usage(report)
    found = printed(page.snippets["python"], tmp_path)
    assert len(found) == len(report.expected) == 5
    for (label, score), (wanted, expected) in zip(found, report.expected, strict=True):
        assert label == wanted
        assert score == pytest.approx(expected, abs=6e-4)
    announced = dict(page.facts)["cat.png gives"]
    assert announced.startswith(f"{report.expected[0][0]} {report.expected[0][1]:.3f}, ")


@pytest.mark.slow
def test_the_example_is_a_cat(shared, tmp_path):
    """The authors' weights classify it at the size of the file and at another size."""
    import keras_mobileone

    path = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    for size in (224, 160):
        model = keras_mobileone.MobileOneS0(weights=path, deploy=True, input_shape=(size, size, 3))
        answers = export_tflite(model, tmp_path / "m.tflite").expected
        assert "cat" in answers[0][0] or "tabby" in answers[0][0]
    assert example_image((160, 128)).shape == (160, 128, 3)


def test_facts_are_the_files(model, tmp_path):
    report = export_tflite(
        model, tmp_path / "m.tflite", "int8", PIXELS, input_dtype="int8", plain=True, labels=NAMES
    )
    facts = dict(tflite_usage(report).facts)
    source = report.inputs[0]
    assert facts["Input"] == (
        f"pixels (1, 32, 48, 3) int8, real = {source.scale:.6g} · (stored − {source.zero_point})"
    )
    assert facts["Preprocessing"].startswith("RGB, square crop, resized to 48×32, 0 … 255, then ")
    assert facts["Labels"] == "7, `labels.txt` inside the file: class a, class b, class c, …"


@pytest.mark.parametrize("case", CASES)
def test_kotlin_has_the_same_numbers(case, model, tmp_path):
    arguments = {"labels": NAMES, "plain": True} | CASES[case]
    if arguments.get("precision") == "int8":
        normalized = arguments.get("normalize") is False
        arguments["calibration"] = PIXELS / 64 - 2 if normalized else PIXELS
    report = export_tflite(model, tmp_path / "m.tflite", **arguments)
    code = tflite_usage(report).snippets["kotlin"]
    assert '"m.tflite"' in code
    assert "createScaledBitmap(square, 48, 32, true)" in code
    assert ("mean[channel]" in code) == (not report.image_config.takes_pixels)
    source, target = report.inputs[0], report.outputs[0]
    assert ("writeInt8" in code, "readInt8" in code) == (
        source.scale is not None,
        target.scale is not None,
    )
    if target.scale is not None:
        (scale,) = re.findall(r"\* ([\d.]+)f }", code)
        assert float(scale) == pytest.approx(target.scale, rel=1e-6)


def test_what_is_no_classifier_has_facts_only(tmp_path):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    page = tflite_usage(export_tflite(model, tmp_path / "m.tflite"))
    assert [name for name, _ in page.facts] == ["Size", "Input", "Output"]
    assert page.snippets == {}
    assert "```" not in page.markdown()


@pytest.mark.slow
@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("labels", [NAMES, None])
def test_swift(image, labels, model, tmp_path):
    pytest.importorskip("coremltools", reason="needs coremltools")
    from keras_mobileone.export.coreml import export_coreml

    path = tmp_path / "My-Net.mlpackage"
    page = coreml_usage(export_coreml(model, path, image=image, labels=labels))
    code = page.snippets["swift"]
    assert "My_Net(configuration:" in code
    assert ("VNCoreMLRequest" in code) == image
    assert ("VNClassificationObservation" in code or "classLabel" in code) == bool(labels)
    assert "48" in code and "32" in code
    assert "(Keras; " in page.facts[-1][1]
