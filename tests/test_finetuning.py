"""Tests `finetune`, and the commands `train` and `finetune` on real photographs."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_mobileone
from keras_mobileone.cli import main
from keras_mobileone.data.sources import open_source
from keras_mobileone.training import finetuning
from keras_mobileone.training.finetuning import pretrained_network, weights_path
from keras_mobileone.training.recipe import RECIPES, Phase
from keras_mobileone.variants import S0

TRAIN_IMAGES, VAL_IMAGES = 120, 30  # images of each class


@pytest.fixture(scope="module")
def slice_of_imagenette(shared, tmp_path_factory):
    """Returns 120 training and 30 validation photographs of each of the ten classes."""
    root = tmp_path_factory.mktemp("imagenette")
    for split, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        for folder in sorted((shared / "imagenette" / split).iterdir()):
            target = root / split / folder.name
            target.mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, target)
    return root


def command(*arguments):
    return [sys.executable, "-m", "keras_mobileone", *map(str, arguments)]


@pytest.mark.slow
def test_a_small_network_learns_through_the_whole_command(
    slice_of_imagenette, tmp_path, steps_done
):
    """Recipe `ci` is trained from scratch, killed, resumed, fused, exported and evaluated."""
    run = tmp_path / "run"
    arguments = command("train", "--data", slice_of_imagenette, "--recipe", "ci", "--output", run)
    arguments += ["--export", "int8", "--export", "float16", "--save-every", "20"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and steps_done(run) < 60:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "model.keras").exists()

    done = subprocess.run([*arguments, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((run / "report.json").read_text())
    assert report["steps"] == RECIPES["ci"].epochs * (10 * TRAIN_IMAGES // 32)
    top1 = report["top1"]["deploy.keras"] / report["validation_images"]
    assert top1 > 0.35, "chance is 0.1"
    assert report["agreement"] == report["validation_images"]

    for name in ("deploy.keras", "model_int8.tflite"):
        result = tmp_path / f"{name}.json"
        arguments = ["evaluate", slice_of_imagenette / "val", "--model", run / name]
        arguments += ["--classes", run / "classes.txt", "--json", result, "--crop-fraction", "0.9"]
        evaluated = CliRunner().invoke(main, list(map(str, arguments)))
        assert evaluated.exit_code == 0, evaluated.output[-2000:]
        found = json.loads(result.read_text())
        assert found["top1"] / found["images"] == pytest.approx(top1, abs=0.05)


@pytest.fixture(scope="module")
def fused_weights(shared):
    return shared / "weights" / "mobileone_s0_apple_fused.safetensors"


@pytest.mark.slow
def test_fused_weights_become_a_network_with_a_new_classifier(slice_of_imagenette, fused_weights):
    """The features are those of the fused file, and the classifier starts at zero."""
    recipe = dataclasses.replace(RECIPES["finetune"], phases=(Phase(0, 96),))
    source = open_source(slice_of_imagenette, "train")
    model = pretrained_network(recipe, fused_weights, source)
    images = np.random.default_rng(0).standard_normal((2, 96, 96, 3)).astype(np.float32)
    assert model.output_shape == (None, 10)
    np.testing.assert_array_equal(model.predict_on_batch(images), 0)
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    deploy = keras_mobileone.MobileOneS0(
        include_top=False, pooling="avg", weights=fused_weights, deploy=True
    )
    expected = deploy.predict_on_batch(images)
    np.testing.assert_allclose(
        pooled.predict_on_batch(images), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_broken_images_before_training_are_skipped_or_named(fused_weights, tmp_path, monkeypatch):
    """Fused weights need the statistics of some images before the first step."""
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(4):
            path = tmp_path / "data" / label / f"{index}.png"
            Image.new("RGB", (70, 60), (60 * index, 90, 9)).save(path)
        path.write_bytes(b"no image")
    seen = []

    def stop(features, variant, images):
        seen.append(images)
        raise KeyError("far enough")

    monkeypatch.setattr(finetuning, "unfuse", stop)
    recipe = dataclasses.replace(RECIPES["finetune"], phases=(Phase(0, 64),), batch_size=4)
    options = {"weights": fused_weights, "recipe": recipe}
    with pytest.raises(KeyError, match="far enough"):
        keras_mobileone.finetune(tmp_path / "data", tmp_path / "run", skip_bad=True, **options)
    assert seen[0].shape == (6, 64, 64, 3)
    with pytest.raises(ValueError, match=r"[ab].3\.png, which can't be decoded.*--skip-bad"):
        keras_mobileone.finetune(tmp_path / "data", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_finetune_learns_from_fused_weights(slice_of_imagenette, fused_weights, tmp_path):
    """Thirty steps at 96 pixels on ten classes of ImageNet give an accuracy far above chance."""
    recipe = dataclasses.replace(
        RECIPES["finetune"], epochs=1, phases=(Phase(0, 96),), ema_decay=0.9, warmup_epochs=0.1
    )
    report = keras_mobileone.finetune(
        slice_of_imagenette, tmp_path / "run", weights=fused_weights, recipe=recipe
    )
    assert report.classes == 10
    assert report.top1["deploy.keras"] / report.validation_images > 0.65
    assert report.agreement >= report.validation_images - 1


def test_where_the_weights_come_from(shared, tmp_path, monkeypatch):
    """Train-time weights are preferred over fused ones, without the network."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(shared / "weights"))
    assert weights_path(S0, "imagenet").name == "mobileone_s0_apple_fused.safetensors"
    monkeypatch.setenv("KERAS_MOBILEONE_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="No ImageNet weights for mobileone_s0"):
        weights_path(S0, "imagenet")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        weights_path(S0, tmp_path / "none.safetensors")


def test_wrong_input_is_told_before_the_run_begins(tmp_path):
    with pytest.raises(ValueError, match="must be one of"):
        keras_mobileone.finetune("photos", tmp_path / "run", variant="s7")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        keras_mobileone.finetune("photos", tmp_path / "run", weights="none.safetensors")
    with pytest.raises(TypeError, match="resum"):
        keras_mobileone.finetune("photos", tmp_path / "run", weights=__file__, resum=True)
    assert not (tmp_path / "run").exists()
