"""The command line: what it prints, its exit codes, and the sentences for bad input."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_mobileone
from keras_mobileone.cli import main
from keras_mobileone.cli.prediction import probabilities

EXPORT = ("export", "tflite", "--model", "{model}")


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two class folders with two noise images each, and a file that is no image."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for wnid in ("n01440764", "n02123045"):
        (root / "classes" / wnid).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (80, 100, 3), np.uint8)
            Image.fromarray(pixels).save(root / "classes" / wnid / f"{i}.png")
    (root / "empty").mkdir()
    (root / "text.jpg").write_text("not an image")
    whole = (root / "classes" / "n01440764" / "0.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A small train-time network with ImageNet's classes, saved."""
    variant = keras_mobileone.Variant("tiny", (0.25,) * 4, depths=(1, 1, 1, 1))
    model = keras_mobileone.MobileOne(
        variant, weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    model.save(path)
    return path


def test_info_prints_both_forms():
    result = run("info", "s0")
    assert result.exit_code == 0
    for figure in ("5,293,272", "88,192", "2,078,504", "274,136,576", "71.398"):
        assert figure in result.output


def test_every_command_has_help_with_an_example():
    names = [n for n in main.commands if n != "export"]
    for arguments in [*([name] for name in names), ["export", "tflite"], ["export", "coreml"]]:
        result = run(*arguments, "--help")
        assert result.exit_code == 0
        assert "Example: keras-mobileone" in result.output


def test_fuse_then_export_then_evaluate_then_predict(model_file, folder, tmp_path):
    fused, exported = tmp_path / "fused.keras", tmp_path / "tiny.tflite"
    assert run("fuse", model_file, fused).exit_code == 0
    assert all(
        type(x).__module__.startswith("keras.") for x in keras.models.load_model(fused).layers
    )
    classes = folder / "classes"
    result = run(
        *("export", "tflite", "--model", fused, "--precision", "int8", "--calibration", classes),
        *("--normalize", "--input-dtype", "uint8", "--output", exported),
    )
    assert result.exit_code == 0, result.stderr
    assert "pixels (1, 64, 64, 3) uint8" in result.output
    out = tmp_path / "result.json"
    result = run("evaluate", classes, "--model", exported, "--limit", 3, "--json", out)
    assert result.exit_code == 0, result.stderr
    assert json.loads(out.read_text())["images"] == 3
    result = run("predict", classes / "n01440764" / "0.png", "--model", exported, "--top", 2)
    assert result.exit_code == 0, result.stderr
    assert result.output.count("%") == 2


def test_labels_go_into_the_file_and_come_out(folder, tmp_path):
    """Classes of one's own: `export --labels`, `predict` without --classes, a page for the app."""
    variant = keras_mobileone.Variant("tiny", (0.25,) * 4, depths=(1, 1, 1, 1))
    model = keras_mobileone.MobileOne(variant, weights=None, input_shape=(32, 32, 3), classes=3)
    model.save(tmp_path / "three.keras")
    (tmp_path / "classes.txt").write_text("n01440764\nkitchen\nhall\n")
    exported, page = tmp_path / "three.tflite", tmp_path / "page.md"
    result = run(
        *("export", "tflite", "--model", tmp_path / "three.keras", "--output", exported),
        *("--labels", tmp_path / "classes.txt", "--author", "Ada", "--usage", page),
    )
    assert result.exit_code == 0, result.stderr
    assert "3, `labels.txt` inside the file: tench, kitchen, hall" in page.read_text()
    photograph = folder / "classes" / "n01440764" / "0.png"
    result = run("predict", photograph, "--model", exported, "--top", 3)
    assert result.exit_code == 0, result.stderr
    assert all(name in result.output for name in ("tench", "kitchen", "hall"))
    result = run(
        *(
            "export",
            "tflite",
            "--model",
            tmp_path / "three.keras",
            "--output",
            tmp_path / "x.tflite",
        ),
        *("--labels", tmp_path / "none.txt"),
    )
    assert (result.exit_code, (tmp_path / "x.tflite").exists()) == (2, False)
    assert "Expected a file of class names" in result.stderr


def test_convert_weights_makes_what_the_file_holds(tmp_path):
    from keras_mobileone.weights.checkpoint import write_safetensors
    from keras_mobileone.weights.loading import export_tensors

    for deployed in (False, True):
        model = keras_mobileone.MobileOneS1(weights=None, deploy=deployed)
        source, target = tmp_path / f"{deployed}.safetensors", tmp_path / f"{deployed}.keras"
        write_safetensors(source, export_tensors(model, keras_mobileone.get_variant("s1")))
        result = run("convert-weights", source, target, "--variant", "s1")
        assert result.exit_code == 0, result.stderr
        converted = keras.models.load_model(target)
        for a, b in zip(model.get_weights(), converted.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("info", "s9"), ["'s9'", "'s4'"]),
        (("bogus",), ["bogus", "--help"]),
        (("evaluate",), ["DIRECTORY", "--help"]),
        (("predict", "{root}/none.jpg"), ["none.jpg", "does not exist"]),
        (("predict", "{root}/text.jpg"), ["text.jpg", "can't be decoded"]),
        (("predict", "{root}/cut.png"), ["cut.png", "can't be decoded"]),
        (("predict", "{image}", "--model", "{root}/text.jpg"), ["text.jpg", ".tflite"]),
        (("predict", "{image}", "--model", "{model}", "--variant", "s0"), ["--model", "--variant"]),
        (("evaluate", "{root}/empty", "--model", "{model}"), ["Expected images", "none"]),
        (("evaluate", "{root}/none", "--model", "{model}"), ["Expected a directory"]),
        (("evaluate", "{root}", "--model", "{model}"), ["WordNet", "n01440764"]),
        (("evaluate", "{root}/classes", "--model", "{model}", "--crop-fraction", "2"), ["(0, 1]"]),
        (("fuse", "{root}/none.keras", "{tmp}/x.keras"), ["none.keras"]),
        (("fuse", "{root}/text.jpg", "{tmp}/x.keras"), ["text.jpg", "Keras 3"]),
        (("fuse", "{model}", "{tmp}/none/x.keras"), ["none", "Create it first"]),
        (("fuse", "{model}", "{tmp}/x.h5"), [".keras", "x.h5"]),
        (("convert-weights", "{root}/text.jpg", "{tmp}/x.keras", "--variant", "s0"), [".pth"]),
        ((*EXPORT, "--output", "{tmp}/x.bin"), [".tflite"]),
        ((*EXPORT, "--precision", "int8", "--output", "{tmp}/x.tflite"), ["calibration"]),
        ((*EXPORT, "--precision", "int4", "--output", "{tmp}/x.tflite"), ["int4", "float16"]),
        (("benchmark", "{root}/text.jpg"), ["text.jpg", "TFL3"]),
        (("benchmark", "{root}/none.tflite"), ["none.tflite"]),
        (("deploy", "--output", "{tmp}/none/deeper"), ["none", "Create it first"]),
        (("deploy", "--output", "{root}/text.jpg"), ["text.jpg"]),
        (("deploy", "--output", "{tmp}/out", "--calibration", "{root}/empty"), ["Expected images"]),
        (("deploy", "--output", "{tmp}/out", "--weights", "none.bin"), ["none.bin"]),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    arguments, words, folder, model_file, tmp_path, refused
):
    places = {
        "root": folder,
        "image": folder / "classes" / "n01440764" / "0.png",
        "model": model_file,
        "tmp": tmp_path,
    }
    result = run(*(a.format(**places) for a in arguments))
    refused(result, words, untouched=tmp_path)


def test_wrong_classes_are_refused(folder, tmp_path):
    variant = keras_mobileone.Variant("ten", (0.25,) * 4, depths=(1, 1, 1, 1))
    model = keras_mobileone.MobileOne(variant, weights=None, input_shape=(32, 32, 3), classes=10)
    model.save(tmp_path / "ten.keras")
    result = run("evaluate", folder / "classes", "--model", tmp_path / "ten.keras")
    assert result.exit_code == 2
    assert "one class for each of the model's 10 outputs" in result.stderr
    assert "Received: 2 in" in result.stderr


def test_module_runs_as_a_process_without_traceback():
    process = subprocess.run(
        [sys.executable, "-m", "keras_mobileone", "predict", "no-such.jpg"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("Error: Expected an image file.")
    assert "Traceback" not in process.stderr


def test_probabilities_leaves_a_softmax_alone():
    logits = np.array([[1.0, 2.0, 4.0]], np.float32)
    once = probabilities(logits)
    np.testing.assert_allclose(once.sum(), 1, rtol=1e-6)
    np.testing.assert_array_equal(probabilities(once), once)
