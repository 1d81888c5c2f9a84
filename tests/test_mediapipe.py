"""Tests that MediaPipe's ImageClassifier takes exported files and agrees with Keras.

MediaPipe and tensorflow-model-optimization need different versions of absl-py. MediaPipe is
therefore installed in a separate environment, `.venv-mediapipe`, which `make test` creates.
"""

import json
import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_mobileone
from keras_mobileone.data.imagenet import classes, preprocess_input, unique_labels
from keras_mobileone.data.images import evaluation_crop, list_images, load_image, spread
from keras_mobileone.export.tflite import export_tflite
from keras_mobileone.litert.runner import LiteRTRunner

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("MEDIAPIPE_PYTHON", ROOT / ".venv-mediapipe" / "bin" / "python"))

pytestmark = [
    pytest.mark.skipif(not PYTHON.is_file(), reason="needs .venv-mediapipe (make test makes it)"),
    pytest.mark.slow,
]


def classify(files, photographs) -> list:
    """Returns the results of MediaPipe, or raises its error as RuntimeError."""
    script = str(Path(__file__).with_name("mediapipe_classify.py"))
    command = [str(PYTHON), script, *map(str, files), "--", *map(str, photographs)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr)
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def s0(shared):
    path = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    return keras_mobileone.MobileOneS0(weights=path, deploy=True, classifier_activation=None)


@pytest.fixture(scope="module")
def crops(shared) -> np.ndarray:
    """Returns twelve photographs as the network takes them, uint8."""
    paths = spread(list_images(shared / "imagenet-sample" / "images"), 12)
    return np.stack([evaluation_crop(load_image(path), 224, 0.875) for path in paths])


@pytest.fixture(scope="module")
def photographs(crops, tmp_path_factory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("photographs") / f"{i}.png" for i in range(len(crops))]
    for path, crop in zip(paths, crops, strict=True):
        Image.fromarray(crop).save(path)
    return paths


def test_it_names_photographs_as_keras_does(s0, crops, photographs, tmp_path):
    files = [tmp_path / f"{name}.tflite" for name in ("float32", "float16", "int8")]
    export_tflite(s0, files[0])
    export_tflite(s0, files[1], "float16")
    # The same photographs calibrate, for speed. Accuracy on others is tested elsewhere.
    export_tflite(s0, files[2], "int8", crops)

    expected = s0.predict_on_batch(preprocess_input(crops))
    names = np.array(unique_labels(classes()))[expected.argmax(1)]
    float32, float16, int8 = classify(files, photographs)
    for answers, tolerance in ((float32, 1e-4), (float16, 1e-2)):
        assert [answer[0][0] for answer in answers] == names.tolist()
        scores = np.array([answer[0][2] for answer in answers])
        assert np.abs(scores - expected.max(1)).max() < tolerance * expected.max()
    agreed = [answer[0][0] == name for answer, name in zip(int8, names, strict=True)]
    assert sum(agreed) >= 11


def test_it_takes_bytes(crops, photographs, tmp_path):
    """The file takes and returns uint8. The expected result of the small network is LiteRT's."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((224, 224, 3))
    x = keras.layers.Conv2D(8, 7, strides=8, activation="relu")(inputs)
    x = keras.layers.Dense(5, name="scores")(keras.layers.GlobalAveragePooling2D()(x))
    model, labels = keras.Model(inputs, x), ["ant", "bee", "cat", "dog", "elk"]
    types = {"input_dtype": "uint8", "output_dtype": "uint8"}
    report = export_tflite(model, tmp_path / "m.tflite", "int8", crops, labels=labels, **types)
    runner = LiteRTRunner(report.path.read_bytes())
    (answers,) = classify([report.path], photographs)
    for crop, answer in zip(crops, answers, strict=True):
        scores = runner(crop[None])["scores"][0]
        assert answer[0][0] == labels[scores.argmax()]
        assert answer[0][2] == pytest.approx(scores.max(), abs=1e-4)


def test_it_refuses_normalized_input(s0, photographs, tmp_path):
    """This is why files normalize pixels by default. It fails if MediaPipe supports such files."""
    report = export_tflite(s0, tmp_path / "m.tflite", normalize=False)
    with pytest.raises(RuntimeError, match="Per-channel image normalization is not available"):
        classify([report.path], photographs[:1])
