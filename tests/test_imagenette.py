"""Tests the weights in the package, of S0 trained on Imagenette's ten classes."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_mobileone
from keras_mobileone.data.imagenet import IMAGENETTE, class_table, preprocess_input
from keras_mobileone.weights.pretrained import bundled_path

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def report(project) -> dict:
    """Returns the report that benchmarks/imagenette.py stored."""
    return json.loads((project / "benchmarks/results/imagenette/report.json").read_text())


@pytest.fixture(scope="module")
def deploy_model(report) -> keras.Model:
    """Returns the deploy model at the size of the evaluation."""
    size = report["evaluation"]["size"]
    return keras_mobileone.MobileOneS0(
        weights="imagenette", classes=10, input_shape=(size, size, 3), deploy=True
    )


def test_files_are_small_and_half_precise():
    paths = [bundled_path(deploy) for deploy in (False, True)]
    assert sum(path.stat().st_size for path in paths) < 12 * MEGABYTE
    for path in paths:
        assert {value.dtype for value in load_file(path).values()} == {np.dtype("float16")}


@pytest.mark.slow
def test_train_time_and_deploy_agree(deploy_model, noise, relative_error):
    """The deploy weights are folded from the train-time ones, up to half precision."""
    train_time = keras_mobileone.MobileOneS0(weights="imagenette", classes=10)
    images = noise(4, 224, 224, 3)
    assert relative_error(deploy_model(images), train_time(images, training=False)) < 2e-2
    assert hasattr(train_time, "fuse")


@pytest.mark.slow
def test_without_network_or_other_files(run_python, tmp_path):
    """The weights load in a separate process with an empty cache and no hub."""
    run_python(
        "import keras_mobileone, numpy as np\n"
        "model = keras_mobileone.MobileOneS0(weights='imagenette', classes=10, deploy=True)\n"
        "assert abs(float(np.sum(model(np.zeros((1, 224, 224, 3), 'float32')))) - 1) < 1e-3",
        KERAS_HOME=str(tmp_path),
        HF_ENDPOINT="http://127.0.0.1:9",
        KERAS_MOBILEONE_WEIGHTS="",
    )


@pytest.mark.slow
def test_accuracy_is_the_stored_one(shared, report, deploy_model):
    """Every fifth validation image is used, within four standard deviations for their number."""
    stored = report["evaluation"]["top1"]["deploy"] / report["evaluation"]["images"]
    result = keras_mobileone.evaluate(deploy_model, shared / "imagenette" / "val", limit=590)
    deviation = np.sqrt(stored * (1 - stored) / result.images)
    assert abs(result.top1 / result.images - stored) < 4 * deviation


def test_features_for_other_tasks(noise):
    model = keras_mobileone.MobileOneS0(
        include_top=False, weights="imagenette", pooling="avg", deploy=True
    )
    features = np.asarray(model(preprocess_input(255 * np.abs(noise(2, 64, 64, 3)))))
    assert features.shape == (2, 1024) and features.std() > 0


def test_the_ten_classes():
    assert [wnid for wnid, _ in class_table("imagenette")] == list(IMAGENETTE)
    assert class_table("imagenette")[0][1] == "tench"


def test_the_weights_imply_their_classes():
    model = keras_mobileone.MobileOneS0(weights="imagenette", deploy=True, input_shape=(64, 64, 3))
    assert model.output_shape == (None, 10)
    explicit = keras_mobileone.MobileOneS0(
        weights="imagenette", classes=1000, deploy=True, input_shape=(64, 64, 3)
    )
    assert explicit.output_shape == (None, 10)  # 1000 cannot be told from the default


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": 11}, "classes=10"),
        ({"classes": 9, "deploy": True}, "classes=9"),
        ({"weights": "imagenete"}, "'imagenette'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        keras_mobileone.MobileOneS0(**{"weights": "imagenette", **arguments})


def test_other_variants_have_none():
    with pytest.raises(ValueError, match="weights exist for mobileone_s0"):
        keras_mobileone.MobileOneS1(weights="imagenette", classes=10)
