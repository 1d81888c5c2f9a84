"""Tests the command line: its output, its exit codes, and its messages for bad input."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_mobileone
from keras_mobileone.cli import main, prediction
from keras_mobileone.cli.console import progress_steps
from keras_mobileone.cli.prediction import probabilities
from keras_mobileone.evaluation import predictor

EXPORT = ("export", "tflite", "--model", "{model}")


def run(*arguments, **keywords):
    return CliRunner().invoke(main, [str(a) for a in arguments], **keywords)


def commands(group, words=()):
    """Yields the words of every command, including those in groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns two class folders with two noise images each, and a file that is not an image."""
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
def flat(tmp_path_factory):
    """Returns a deploy network of three classes with different logits, and its biases."""
    variant = keras_mobileone.Variant("tiny", (0.25,) * 4, depths=(1, 1, 1, 1))
    model = keras_mobileone.MobileOne(
        variant,
        weights=None,
        input_shape=(32, 32, 3),
        classes=3,
        classifier_activation=None,
        deploy=True,
    )
    logits = np.array([0.0, 2.0, 1.0], np.float32)
    model.layers[-1].set_weights([np.zeros_like(model.layers[-1].get_weights()[0]), logits])
    path = tmp_path_factory.mktemp("flat") / "flat.keras"
    model.save(path)
    return path, logits


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Returns the file of a small train-time network with ImageNet's classes."""
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


def test_info_prints_what_the_built_network_has():
    counts = keras_mobileone.model_complexity(keras_mobileone.MobileOneS4(weights=None))
    result = run("info", "s4")
    assert f"{counts.feature_macs:,}" in result.output
    assert f"{counts.trainable:,}" in result.output


def test_every_command_has_help_with_an_example():
    assert len(list(commands(main))) >= 13
    for words in commands(main):
        result = run(*words, "--help")
        assert result.exit_code == 0
        assert "Example: keras-mobileone" in result.output
    assert "_KERAS_MOBILEONE_COMPLETE=bash_source" in run("--help").output


QUICK = """
import json, sys
from click.testing import CliRunner
from keras_mobileone.cli import main

codes = []
for arguments in json.loads(sys.argv[1]):
    codes.append(CliRunner().invoke(main, arguments).exit_code)
    heavy = {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
print(json.dumps(codes))
"""


def test_help_and_usage_errors_import_no_keras(run_python):
    """All commands run in one process, so that the first one that imports Keras is named."""
    answers = [["--help"], ["--version"], ["recipes"], ["info"], ["info", "s4"]]
    answers += [[*words, "--help"] for words in commands(main)]
    errors = [["bogus"], ["info", "s9"], ["predict"], ["export", "tflite"]]
    errors += [["export", "tflite", "--precision", "int4"], ["train", "--epochs", "0"]]
    errors += [["benchmark", "--threads", "0"], ["qat"], ["deploy", "--variant", "s7"]]
    codes = json.loads(run_python(QUICK, json.dumps([*answers, *errors])))
    assert codes == [0] * len(answers) + [2] * len(errors)


@pytest.mark.slow
def test_fuse_then_export_then_evaluate_then_predict(model_file, folder, tmp_path, monkeypatch):
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
    threads = []

    class Runner(predictor.LiteRTRunner):
        def __init__(self, content, number=1):
            threads.append(number)
            super().__init__(content, number)

    monkeypatch.setattr(predictor, "LiteRTRunner", Runner)
    options = ("--limit", 3, "--threads", 2, "--json", out)
    result = run("evaluate", classes, "--model", exported, *options)
    assert result.exit_code == 0, result.stderr
    assert json.loads(out.read_text())["images"] == 3
    assert threads == [2]
    result = run("predict", classes / "n01440764" / "0.png", "--model", exported, "--top", 2)
    assert result.exit_code == 0, result.stderr
    assert result.output.count("%") == 2


@pytest.mark.slow
def test_labels_go_into_the_file_and_come_out(folder, tmp_path):
    """The labels of a user are used by `export --labels`, `predict` and the page for the app."""
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


@pytest.mark.slow
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
        (("evaluate", "{root}/empty", "--model", "{model}"), ["one folder of images", "no folder"]),
        (("evaluate", "{root}/none", "--model", "{model}"), ["Expected a directory"]),
        (("evaluate", "{root}", "--model", "{model}"), ["cut.png outside", "Sort"]),
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
    assert "one class folder for each of the model's 10 outputs" in result.stderr
    assert "Received: 2 in" in result.stderr


def start(*arguments):
    """Runs the command in a process whose environment does not silence TensorFlow."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", "keras_mobileone", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_module_runs_as_a_process_without_traceback():
    process = start("predict", "no-such.jpg")
    assert process.returncode == 2
    assert process.stderr.startswith("Error: Expected an image file.")
    assert process.stderr.count("\n") == 1


@pytest.mark.slow
def test_nothing_but_answers_reaches_the_terminal(flat, folder, tmp_path):
    """TensorFlow, absl and LiteRT write to file descriptor 2 when they start."""
    path, _ = flat
    image = folder / "classes" / "n01440764" / "0.png"
    process = start("export", "tflite", "--model", path, "--output", tmp_path / "x.tflite")
    assert (process.returncode, process.stderr) == (0, "")
    for model in (path, tmp_path / "x.tflite"):
        process = start("predict", image, "--model", model)
        assert (process.returncode, process.stderr) == (0, "")
        assert "66.5 %" in process.stdout


def test_held_stderr_is_printed_only_if_the_import_fails(capfd):
    from keras_mobileone.cli.console import held_stderr, without_native_logs

    with held_stderr() as held:
        os.write(2, b"started\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), held_stderr() as held:
        os.write(2, b"no such device\n")
        held.forward = True
        raise ImportError
    assert capfd.readouterr().err == "no such device\n"
    with without_native_logs():
        os.write(2, b"W0000 00:00:1 x.cc:1] noise\nINFO: Created TensorFlow Lite\n")
        print("UserWarning: ours", file=sys.stderr)
        os.write(2, b"Warning: theirs\n")
    assert "noise" not in (err := capfd.readouterr().err)
    assert "Warning: theirs\n" in err


# Errors


@pytest.fixture
def broken(monkeypatch, model_file, tmp_path):
    """Returns a function that makes `fuse` raise an error and runs it."""
    from keras_mobileone.models import fusing

    def fails(error, *before):
        def fuse(*arguments, **keywords):
            raise error

        monkeypatch.setattr(fusing, "fuse", fuse)
        return run(*before, "fuse", model_file, tmp_path / "x.keras")

    return fails


def test_a_bug_ends_with_1_and_asks_for_a_traceback(broken):
    for error in (TypeError("unexpected 'x'"), RuntimeError("gone"), ValueError("NumPy's")):
        result = broken(error)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "This is a bug in keras-mobileone or in a library" in result.stderr
        assert f"{type(error).__name__}: {error}" in result.stderr
        assert "--traceback" in result.stderr


def test_traceback_shows_where_an_error_comes_from(broken):
    for error, code in ((TypeError("odd"), 1), (keras_mobileone.InputValueError("bad"), 2)):
        result = broken(error, "--traceback")
        assert result.exit_code == code
        assert "Traceback (most recent call last)" in result.stderr
        assert "in fuse_command" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in broken(TypeError("odd")).stderr


def test_a_full_disk_is_reported_with_the_path(broken, tmp_path):
    result = broken(OSError(errno.ENOSPC, "No space left on device"))
    assert result.exit_code == 2
    assert f"No space left on device: '{tmp_path / 'x.keras'}'" in result.stderr
    result = broken(OSError(errno.ENOSPC, "No space left on device", "other.bin"))
    assert "No space left on device: 'other.bin'" in result.stderr


def test_messages_of_libraries_are_cut(broken):
    result = broken(keras_mobileone.InputValueError(f"Expected a model. {'{config}' * 999} Redo."))
    assert len(result.stderr) < 700
    assert result.stderr.startswith("Error: Expected a model. ")
    assert result.stderr.endswith("Redo.\n")
    assert len(broken(TypeError("{config}" * 999)).stderr) < 700


def test_a_damaged_model_is_named_in_one_short_line(model_file, tmp_path):
    """Keras includes the whole configuration of an unknown layer in its message."""
    damaged = tmp_path / "damaged.keras"
    with zipfile.ZipFile(model_file) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                content = content.replace(b"MobileOneBlock", b"MobileTwoBlock")
            target.writestr(name, content)
    result = run("fuse", damaged, tmp_path / "x.keras")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: Keras can't load {damaged}: ")
    assert len(result.stderr) < 400 + len(str(damaged))
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("steps", [0, 7])
def test_ctrl_c_in_a_training_says_how_it_goes_on(steps, tmp_path, monkeypatch):
    from keras_mobileone.training import callbacks, checkpoint, train

    def interrupted(recipe, data, output, **options):
        output.mkdir()
        if steps:
            progress = {"step": steps, "history": [], "seconds": 1.0}
            checkpoint.write_state(output / callbacks.CHECKPOINT, [np.zeros(3)], progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    result = run("train", "--data", "x", "--recipe", "ci", "--output", tmp_path / "run")
    assert result.exit_code == 130
    assert "Stopped." in result.stderr
    expected = f"--resume to continue after step {steps}." if steps else "There is no checkpoint"
    assert expected in result.stderr


# Predictions


def test_predict_answers_what_it_can_and_ends_with_2(flat, folder, tmp_path):
    path, logits = flat
    image, cut = folder / "classes" / "n01440764" / "0.png", folder / "cut.png"
    result = run("predict", cut, image, "none.jpg", image, "--model", path)
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith("Error: Expected a whole image file.")
    assert "cut.png" in first
    assert "none.jpg" in second
    assert result.stdout.count(image.name) == 2
    shares = np.exp(logits) / np.exp(logits).sum()
    rows = [line.split() for line in result.stdout.splitlines() if "%" in line]
    assert rows[:3] == [[str(i), f"{100 * shares[i]:.1f}", "%"] for i in (1, 2, 0)]


def test_predict_takes_directories_and_names(flat, folder, tmp_path):
    """Labels with square brackets and colons are printed without change, like file names."""
    path, _ = flat
    directory = tmp_path / "photos [new]"
    (directory / "a [").mkdir(parents=True)
    for name in ("a [/b].png", "[bold]c.png"):
        shutil.copy(folder / "classes" / "n01440764" / "0.png", directory / name)
    (tmp_path / "classes.txt").write_text("bird [female]\n[red]:smile:\n[/b]\n")
    result = run("predict", directory, "--model", path, "--classes", tmp_path / "classes.txt")
    assert result.exit_code == 0, result.stderr
    words = result.output.split()
    for name in ("a [/b].png", "[bold]c.png"):
        assert f"{directory / name}\n" in result.output
    for label in ("bird [female]", "[red]:smile:", "[/b]"):
        assert result.output.count(f"{label}  ") >= 2, label
    assert words.count("[/b]") == 4  # as name and as folder, twice
    result = run("predict", folder / "empty", "--model", path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "Expected images" in result.stderr


def test_exports_print_names_with_brackets(flat, tmp_path):
    path, _ = flat
    output = tmp_path / "out[v2].tflite"
    result = run("export", "tflite", "--model", path, "--output", output)
    assert result.exit_code == 0, result.stderr
    assert f"{output}\n" in result.output


def test_titles_of_progress_keep_their_brackets(capsys):
    with progress_steps() as step:
        step("Exporting a [/b] [red]")(1, 1)
    assert "Exporting a [/b] [red]" in capsys.readouterr().out


def test_predict_answers_before_it_reads_the_next(flat, folder, monkeypatch):
    from keras_mobileone.data import images

    path, _ = flat
    image = folder / "classes" / "n01440764" / "0.png"
    events, load = [], images.load_image
    monkeypatch.setattr(images, "load_image", lambda p: events.append("read") or load(p))
    monkeypatch.setattr(prediction, "print_table", lambda *a, **k: events.append("answer"))
    assert run("predict", image, image, image, "--model", path).exit_code == 0
    assert events == ["read", "answer"] * 3


def test_predict_refuses_a_decompression_bomb_in_one_line(flat, tmp_path):
    path, _ = flat
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    result = run("predict", bomb, "--model", path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "bomb.png" in result.stderr


# Exports


def test_softmax_works_with_a_model_of_ones_own(flat, tmp_path):
    from keras_mobileone.litert.runner import LiteRTRunner

    path, logits = flat
    expected = {"softmax": np.exp(logits) / np.exp(logits).sum(), "logits": logits}
    for name, options in (("softmax", ["--softmax"]), ("logits", [])):
        output = tmp_path / f"{name}.tflite"
        result = run("export", "tflite", "--model", path, "--output", output, *options)
        assert result.exit_code == 0, result.stderr
        runner = LiteRTRunner(output.read_bytes())
        (found,) = runner(np.zeros((1, 32, 32, 3), np.float32)).values()
        np.testing.assert_allclose(found[0], expected[name], rtol=1e-5)


def test_softmax_is_appended_once(flat):
    from keras_mobileone.models.adaptation import with_softmax

    path, _ = flat
    once = with_softmax(keras.models.load_model(path))
    assert with_softmax(once) is once
    with pytest.raises(ValueError, match="append a softmax"):
        with_softmax(keras.Model(once.input, once.get_layer("stage4").output))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["model", "variant"])
def test_export_builds_another_size(source, flat, tmp_path):
    options = ["--model", flat[0]] if source == "model" else ["--weights", "imagenette"]
    output = tmp_path / "x.tflite"
    result = run("export", "tflite", *options, "--size", 64, "--output", output)
    assert result.exit_code == 0, result.stderr
    assert "pixels (1, 64, 64, 3)" in result.output


def test_a_model_that_fits_one_size_refuses_another(tmp_path):
    image = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    keras.Model(image, outputs, name="flattening").save(tmp_path / "f.keras")
    output = tmp_path / "x.tflite"
    result = run(
        *("export", "tflite", "--model", tmp_path / "f.keras", "--size", 64, "--output", output)
    )
    assert (result.exit_code, output.exists()) == (2, False)
    assert "'flattening'" in result.stderr


def test_list_models():
    names = [f"mobileone_s{i}" for i in range(5)]
    micro = [f"mobileone_micro{index}_unofficial" for index in range(3)]
    assert keras_mobileone.list_models() == micro + names
    assert keras_mobileone.list_models("*s[34]", pretrained=True) == names[3:]
    assert keras_mobileone.list_models("resnet*") == []


def test_probabilities_leaves_a_softmax_alone():
    logits = np.array([[1.0, 2.0, 4.0]], np.float32)
    once = probabilities(logits)
    np.testing.assert_allclose(once.sum(), 1, rtol=1e-6)
    np.testing.assert_array_equal(probabilities(once), once)


def test_what_is_not_read_as_an_image_is_said(model_file, tmp_path):
    folder = tmp_path / "n01440764"
    folder.mkdir()
    Image.new("RGB", (40, 40), "blue").save(folder / "a.png")
    for name in ("b.gif", "c.tif", "._a.png"):
        (folder / name).write_bytes(b"not read")
    result = run("evaluate", tmp_path, "--model", model_file)
    assert result.exit_code == 0, result.output
    expected = f"1 image in {tmp_path}. Files left out: 1 .gif, 1 .tif, 1 hidden."
    assert expected in result.output.replace("\n", " ").replace("  ", " ")
