"""Tests `train`: a run in a directory, killed and resumed, and its errors."""

import csv
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_mobileone
from keras_mobileone.data.pipeline import BadImages, sample_crops
from keras_mobileone.data.sources import open_source
from keras_mobileone.training import finalize
from keras_mobileone.training.recipe import Phase, Recipe, get_recipe
from keras_mobileone.training.train import train
from keras_mobileone.variants import Variant

IMAGES, BATCH, EPOCHS = 36, 8, 4  # a pass is not an integer number of batches
STEPS = IMAGES // BATCH
# Its depthwise block at stride 1 is trained in one pass only if the input is large enough.
MINI = Variant("mini", (1, 1, 1, 1), 1, depths=(2, 1, 1, 1), base_filters=(8, 8, 16, 16))
RECIPE = Recipe(
    "mini",
    MINI,
    EPOCHS,
    phases=(Phase(0, 32, 0.5), Phase(2, 48)),
    batch_size=BATCH,
    learning_rate=1.0,
    warmup_epochs=1,
    ema_decay=0.8,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns three classes of images of one color with noise, which are easy to distinguish."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 10)):
        for index in range(count):
            label = index % 3
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 80, (60, 70, 3))
            pixels[..., label] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.jpg")
    return root


@pytest.fixture(scope="module")
def unbroken(folders, tmp_path_factory):
    """Returns (report, directory) of a run from start to end."""
    directory = tmp_path_factory.mktemp("runs") / "unbroken"
    return train(RECIPE, folders, directory, exports=["float32"], save_every=3), directory


def state(directory) -> dict:
    return load_file(directory / "checkpoint.safetensors")


def same_state(a, b):
    a, b = state(a), state(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def start_command(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_mobileone", *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_command(*arguments, **options):
    process = start_command(*arguments, **options)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.slow
def test_what_a_run_leaves(unbroken, folders):
    report, directory = unbroken
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "checkpoint.safetensors",
        "classes.txt",
        "deploy.keras",
        "log.csv",
        "model.keras",
        "model_float32.tflite",
        "recipe.json",
        "report.json",
    }
    assert (directory / "classes.txt").read_text() == "class0\nclass1\nclass2\n"
    assert get_recipe(directory / "recipe.json") == RECIPE
    stored = json.loads((directory / "report.json").read_text())
    assert stored == json.loads(json.dumps(dataclasses.asdict(report)))
    assert report.steps == EPOCHS * STEPS
    with open(directory / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "top1", "val_loss", "val_top1", "val_average_top1", "learning_rate"} <= set(
        rows[0]
    )


@pytest.mark.slow
def test_the_finished_models_agree(unbroken, folders):
    """The train-time, deploy and TFLite models have the averaged weights, tested on all images."""
    report, directory = unbroken
    assert report.top1["model.keras"] == report.top1["deploy.keras"]
    assert report.agreement == report.validation_images == 10
    last = report.history[-1]["val_average_top1"]
    assert report.top1["model.keras"] == pytest.approx(10 * last)
    model, deploy = (keras.models.load_model(directory / name) for name in report.top1)
    assert model.input_shape == (None, 48, 48, 3)
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 3)).astype(np.float32)
    expected = model.predict_on_batch(images)
    np.testing.assert_allclose(deploy.predict_on_batch(images), expected, atol=1e-4)
    result = keras_mobileone.compare(deploy, directory / "model_float32.tflite", images)
    assert result.agreement == result.images


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 2 * STEPS + 1])
def test_killed_and_resumed_ends_with_the_same_weights(
    step, unbroken, folders, tmp_path, steps_done
):
    """A run killed by SIGKILL in the middle of an epoch gives bitwise equal weights.

    A run that begins in the second phase must compute its steps as one that comes from the first.
    """
    report, directory = unbroken
    recipe, broken = tmp_path / "mini.json", tmp_path / "broken"
    RECIPE.save(recipe)
    arguments = ("train", "--data", folders, "--recipe", recipe, "--output", broken)
    process = start_command(*arguments, "--save-every", 3)
    while process.poll() is None and steps_done(broken) < step:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = steps_done(broken)
    assert step <= done < EPOCHS * STEPS, "the run was over before it could be killed"
    resumed = train(RECIPE, folders, broken, resume=True, save_every=3)
    same_state(directory, broken)
    assert (broken / "log.csv").read_text().splitlines()[0].startswith("epoch,loss")
    for name in ("val_loss", "val_average_top1", "learning_rate"):
        assert [row[name] for row in resumed.history] == [row[name] for row in report.history]


@pytest.mark.slow
def test_resuming_before_the_first_checkpoint_starts_anew(unbroken, folders, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    RECIPE.save(directory / "recipe.json")
    train(RECIPE, folders, directory, resume=True)
    same_state(unbroken[1], directory)


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(unbroken, folders, tmp_path):
    directory = shutil.copytree(unbroken[1], tmp_path / "run")
    report = train(RECIPE, folders, directory, resume=True)
    same_state(unbroken[1], directory)
    assert report.top1 == unbroken[0].top1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"learning_rate": 0.7}, "learning_rate=0.7, where"),
        ({"epochs": 5}, "epochs=5, where"),
        ({"phases": (Phase(0, 64),)}, "phases="),
        ({"variant": dataclasses.replace(MINI, num_conv_branches=2)}, "variant="),
    ],
)
def test_another_recipe_is_refused_on_resume(unbroken, folders, changes, words):
    before = state(unbroken[1])
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(RECIPE, **changes), folders, unbroken[1], resume=True)
    assert before.keys() == state(unbroken[1]).keys()


@pytest.mark.slow
def test_other_classes_are_refused_on_resume(unbroken, folders, tmp_path):
    data = shutil.copytree(folders, tmp_path / "data")
    (data / "train" / "class2").rename(data / "train" / "class9")
    (data / "val" / "class2").rename(data / "val" / "class9")
    with pytest.raises(ValueError, match="Resuming needs the classes"):
        train(RECIPE, data, unbroken[1], resume=True)


@pytest.mark.slow
def test_wrong_input(unbroken, folders, tmp_path):
    with pytest.raises(FileExistsError, match="Add --resume"):
        train(RECIPE, folders, unbroken[1])
    with pytest.raises(FileNotFoundError, match="Start without --resume"):
        train(RECIPE, folders, tmp_path / "nothing", resume=True)
    with pytest.raises(FileNotFoundError):
        train(RECIPE, tmp_path / "nothing", tmp_path / "run")
    with pytest.raises(ValueError, match="at least one batch of 64"):
        train(dataclasses.replace(RECIPE, batch_size=64), folders, tmp_path / "run")
    with pytest.raises(ValueError, match="`precision` must be one of"):
        train(RECIPE, folders, tmp_path / "run", exports=["int4"])
    with pytest.raises(ValueError, match="no teacher"):
        train(dataclasses.replace(RECIPE, distillation=0.5), folders, tmp_path / "run")
    teacher = keras_mobileone.MobileOne(MINI, weights=None, input_shape=(32, 32, 3), classes=4)
    with pytest.raises(ValueError, match="a teacher"):
        train(RECIPE, folders, tmp_path / "run", teacher=teacher)
    with pytest.raises(ValueError, match="each of the 3 classes"):
        train(
            dataclasses.replace(RECIPE, distillation=0.5),
            folders,
            tmp_path / "run",
            teacher=teacher,
        )
    assert not (tmp_path / "run").exists(), "nothing is written before everything is checked"


@pytest.mark.slow
def test_loss_that_is_not_finite(folders, tmp_path):
    """Training stops with the step and a remedy, and keeps the last good checkpoint."""
    recipe = dataclasses.replace(RECIPE, learning_rate=1e12, warmup_epochs=0, momentum=0.0)
    with pytest.raises(ArithmeticError, match="Lower the learning rate"):
        train(recipe, folders, tmp_path / "run", save_every=1)
    if (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert all(np.isfinite(a).all() for a in state(tmp_path / "run").values())


@pytest.fixture
def broken_folders(folders, tmp_path):
    data = shutil.copytree(folders, tmp_path / "data")
    whole = (data / "train" / "class1" / "1.jpg").read_bytes()
    (data / "train" / "class1" / "1.jpg").write_bytes(whole[: len(whole) // 3])
    (data / "val" / "class0" / "0.jpg").write_bytes(b"no image")
    return data


@pytest.mark.slow
def test_broken_image_stops_with_its_name(broken_folders, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, warmup_epochs=0, phases=(Phase(0, 32),))
    with pytest.raises(ValueError, match=r"class(1.1|0.0)\.jpg, which can't be decoded.*skip-bad"):
        train(recipe, broken_folders, tmp_path / "run")


@pytest.fixture
def many_broken(folders, tmp_path):
    """Returns class folders in which every second training image is damaged."""
    data = shutil.copytree(folders, tmp_path / "data")
    for path in sorted((data / "train").rglob("*.jpg"))[::2]:
        path.write_bytes(path.read_bytes()[:200])
    return data


def test_samples_are_drawn_in_place_of_broken_images(many_broken):
    source = open_source(many_broken, "train")
    bad = BadImages(skip=True)
    crops = sample_crops(source, 12, 32, 0.875, 0, bad)
    assert crops.shape == (12, 32, 32, 3)
    assert bad.names
    assert len(sample_crops(source, 100, 32, 0.875, 0, bad)) == IMAGES // 2
    assert len(bad.names) == IMAGES // 2
    with pytest.raises(ValueError, match=r"class\d.\d+\.jpg, which can't be decoded.*skip-bad"):
        sample_crops(source, 12, 32, 0.875, 0)
    for path in source.files:
        (source.root / path).write_bytes(b"no image")
    with pytest.raises(ValueError, match="Received: none of 36"):
        sample_crops(source, 12, 32, 0.875, 0, bad)


@pytest.mark.slow
def test_broken_images_do_not_end_an_export(many_broken, tmp_path, monkeypatch):
    """The report is written before the exports, and `resume` writes the missing ones."""
    recipe = dataclasses.replace(RECIPE, epochs=1, warmup_epochs=0, phases=(Phase(0, 32),))
    run, lines = tmp_path / "run", []

    def fail(*arguments, **options):
        raise OSError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(finalize, "export_tflite", fail)
        with pytest.raises(OSError, match="planted"):
            train(recipe, many_broken, run, skip_bad=True, exports=["int8"], log=lines.append)
    before = json.loads((run / "report.json").read_text())
    assert (before["steps"], before["exports"]) == (STEPS, {})
    assert lines[0] == f"Training: 36 images of 3 classes in {many_broken / 'train'}."
    assert lines[1].startswith("Validation: 10 images of 3 classes")
    report = train(recipe, many_broken, run, skip_bad=True, exports=["int8"], resume=True)
    assert report.exports == {"int8": "model_int8.tflite"}
    assert (run / "model_int8.tflite").is_file()
    assert json.loads((run / "report.json").read_text())["exports"] == report.exports


def test_one_class_is_refused(folders, tmp_path):
    data = tmp_path / "one"
    shutil.copytree(folders / "train" / "class0", data / "train" / "class0")
    with pytest.raises(ValueError, match="at least two classes"):
        train(RECIPE, data, tmp_path / "run")


@pytest.mark.slow
def test_broken_images_can_be_skipped(broken_folders, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=2, warmup_epochs=0, phases=(Phase(0, 32),))
    report = train(recipe, broken_folders, tmp_path / "run", skip_bad=True)
    assert [name.rsplit("/", 1)[-1] for name in report.skipped] == ["0.jpg", "1.jpg"]
    assert report.steps == 2 * STEPS
    assert max(report.top1.values()) <= 9  # of ten validation images, one is broken
    # A resumed run, which trains no more, still names the broken image of the training.
    again = train(recipe, broken_folders, tmp_path / "run", skip_bad=True, resume=True)
    assert again.skipped == report.skipped


@pytest.mark.slow
def test_full_disk_keeps_the_last_checkpoint(folders, tmp_path):
    """A real process has a real limit on the size of files."""
    recipe = tmp_path / "mini.json"
    RECIPE.save(recipe)
    run = tmp_path / "run"
    process = subprocess.run(
        [sys.executable, "-m", "keras_mobileone", "train", "--data", folders, "--recipe", recipe]
        + ["--output", run, "--save-every", "1"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("Error: ")
    assert "too large" in process.stderr.splitlines()[-1]
    assert {path.name for path in run.iterdir()} == {"classes.txt", "recipe.json"}


@pytest.mark.slow
def test_tensorboard_logs(folders, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, warmup_epochs=0, phases=(Phase(0, 32),))
    if not importable("tensorboard"):
        with pytest.raises(ImportError, match=r"keras-mobileone\[tensorboard\]"):
            train(recipe, folders, tmp_path / "run", tensorboard=True)
        return
    train(recipe, folders, tmp_path / "run", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").rglob("events.out.*"))


def importable(name) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
