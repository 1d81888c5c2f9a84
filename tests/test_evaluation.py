"""Tests `evaluate`: counts on small folders, and the authors' accuracy on 300 photographs."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from keras_mobileone import MobileOne, evaluate, export_tflite
from keras_mobileone.data.imagenet import classes
from keras_mobileone.evaluation.predictor import load_predictor

# Gray levels of the images, and the class that `gray_reader` returns for them.
LEVELS = {10: 0, 60: 1, 120: 2, 200: 3}


@pytest.fixture(scope="module")
def gray_reader():
    """Returns a classifier whose best class is the one with the nearest gray level.

    Its logit for class c is −(x − level_c)² without the x² that all classes have in common.
    """
    levels = np.array(list(LEVELS), np.float32)
    gray = (levels / 255 - 0.485) / 0.229  # the red channel after normalization
    kernel = np.zeros((3, 1000), np.float32)
    bias = np.full(1000, -1e3, np.float32)
    kernel[0, :4], bias[:4] = 2 * gray, -(gray**2)
    bias[4] = -500  # class 4 is always fifth
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, layers.Dense(1000, name="predictions")(x), name="gray_reader")
    model.layers[-1].set_weights([kernel, bias])
    return model


@pytest.fixture
def folders(tmp_path):
    """Returns a function that writes images given by (class index of the folder, gray level)."""

    def write(*pictures):
        for number, (index, level) in enumerate(pictures):
            directory = tmp_path / "images" / classes()[index][0]
            directory.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 50), (level,) * 3).save(directory / f"{number:03}.png")
        return tmp_path / "images"

    return write


def test_counting(gray_reader, folders):
    # The labels are best, best, fifth, and not among the best five.
    directory = folders((0, 10), (1, 60), (4, 60), (5, 60))
    result = evaluate(gray_reader, directory)
    assert (result.images, result.top1, result.top5) == (4, 2, 3)
    assert (result.model, result.image_size, result.crop_fraction) == (
        "gray_reader",
        (32, 32),
        0.875,
    )
    assert result.agreement is None
    assert result.images_per_second > 0


def test_more_images_than_a_batch(gray_reader, folders):
    directory = folders(*[(0, 10)] * 40, *[(1, 10)] * 30)
    calls = []
    result = evaluate(gray_reader, directory, progress=lambda *call: calls.append(call))
    assert (result.images, result.top1, result.top5) == (70, 40, 70)
    assert calls[-1] == (70, 70)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert {total for _, total in calls} == {70}


def test_a_limit_spreads_over_the_classes(gray_reader, folders):
    directory = folders(*[(0, 10)] * 10, *[(1, 10)] * 10)
    result = evaluate(gray_reader, directory, limit=4)
    assert (result.images, result.top1) == (4, 2)
    assert evaluate(gray_reader, directory, limit=100).images == 20


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_tflite_file_gives_the_same(precision, gray_reader, folders, tmp_path):
    directory = folders((0, 10), (1, 60), (3, 60), (999, 60))
    path = tmp_path / "gray.tflite"
    calibration = directory if precision == "int8" else None
    export_tflite(gray_reader, path, precision, calibration)
    result = evaluate(path, directory, reference=gray_reader)
    assert (result.images, result.model) == (4, "gray.tflite")
    if precision == "float32":
        assert (result.top1, result.top5, result.agreement) == (2, 3, 4)


def test_a_file_that_takes_pixels_gets_pixels(gray_reader, folders, tmp_path):
    directory = folders((0, 10), (1, 60), (3, 60), (999, 60))
    path = tmp_path / "gray.tflite"
    export_tflite(gray_reader, path, normalize=True)
    result = evaluate(path, directory, reference=gray_reader)
    assert (result.top1, result.top5, result.agreement) == (2, 3, 4)


def test_agreement_counts_equal_answers(gray_reader, folders, tmp_path):
    directory = folders((0, 10), (1, 60), (3, 60), (999, 200))
    shifted = keras.models.clone_model(gray_reader)
    kernel, bias = gray_reader.layers[-1].get_weights()
    bias[1] = -1e3  # class 1 is never the best
    shifted.layers[-1].set_weights([kernel, bias])
    assert evaluate(shifted, directory, reference=gray_reader).agreement == 2
    assert evaluate(gray_reader, directory, reference=gray_reader).agreement == 4


def test_keras_files_are_loaded(gray_reader, folders, tmp_path):
    path = tmp_path / "gray.keras"
    gray_reader.save(path)
    assert evaluate(str(path), folders((0, 10))).top1 == 1


def test_the_result_as_json(gray_reader, folders, tmp_path):
    result = evaluate(gray_reader, folders((0, 10)))
    result.save(tmp_path / "result.json")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert (stored["top1"], stored["images"], stored["image_size"]) == (1, 1, [32, 32])


def test_a_folder_that_is_no_class_is_named(gray_reader, folders):
    directory = folders((0, 10))
    (directory / classes()[0][0]).rename(directory / "tench")
    with pytest.raises(ValueError, match=r"WordNet id\. Received: 1 in .*images, among them tench"):
        evaluate(gray_reader, directory)


def test_directories_without_images(gray_reader, tmp_path):
    with pytest.raises(ValueError, match=r"one folder of images for each class.*no folder"):
        evaluate(gray_reader, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate(gray_reader, tmp_path / "nowhere")


def test_a_damaged_image_is_named(gray_reader, folders):
    directory = folders((0, 10), (0, 10))
    damaged = directory / classes()[0][0] / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"001\.png"):
        evaluate(gray_reader, directory)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit=0"),
        ({"crop_fraction": 0}, "crop_fraction=0"),
        ({"crop_fraction": 1.5}, "crop_fraction=1.5"),
    ],
)
def test_arguments_out_of_range(arguments, message, gray_reader, folders):
    with pytest.raises(ValueError, match=message):
        evaluate(gray_reader, folders((0, 10)), **arguments)


def test_models_that_do_not_fit(folders, tiny_model, gray_reader, tmp_path):
    directory = folders((0, 10))
    with pytest.raises(ValueError, match=r"10 outputs. Received: 1 in"):
        evaluate(tiny_model, directory)
    with pytest.raises(
        ValueError, match=r"`classes` for each of the model's 10 outputs. Received: 2: n014"
    ):
        evaluate(tiny_model, directory, classes=["n01440764", "other"])
    with pytest.raises(ValueError, match=r"a classifier of 10 classes. Received: gray_reader"):
        evaluate(tiny_model, directory, reference=gray_reader)
    with pytest.raises(ValueError, match="Received: features, whose output has a different shape"):
        evaluate(keras.Model(tiny_model.input, tiny_model.layers[3].output, name="features"), ".")
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match=r"one image input.*'flat' with input shape \(None, 8\)"):
        evaluate(keras.Model(inputs, layers.Dense(1000)(inputs), name="flat"), directory)
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        evaluate(tmp_path / "none.tflite", directory)
    with pytest.raises(FileNotFoundError, match=r"none\.keras"):
        evaluate(tmp_path / "none.keras", directory)
    with pytest.raises(ValueError, match=r"\.keras or \.tflite.*model\.onnx"):
        evaluate(tmp_path / "model.onnx", directory)


def test_a_damaged_model_file_is_named(folders, tmp_path):
    for name in ("bad.keras", "bad.tflite"):
        (tmp_path / name).write_bytes(b"\0\0\0\0TFL3 and nothing more")
        with pytest.raises(ValueError, match=name):
            evaluate(tmp_path / name, folders((0, 10)))


def test_classes_of_ones_own(tmp_path):
    """The folders are in sorted order, or in the order of classes.txt of a training run."""
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x), name="dark_or_bright")
    model.layers[-1].set_weights([np.array([[-1, 1]] * 3, np.float32), np.zeros(2, np.float32)])
    for folder, level in (("a_dark", 10), ("b_bright", 240), ("b_bright", 20)):
        path = tmp_path / folder / f"{level}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 50), (level,) * 3).save(path)
    result = evaluate(model, tmp_path)
    assert (result.images, result.top1, result.top5) == (3, 2, 3)
    assert evaluate(model, tmp_path, classes=["b_bright", "a_dark"]).top1 == 1


@pytest.fixture(scope="module")
def s0(shared):
    path = shared / "weights" / "mobileone_s0_apple_fused.safetensors"
    return MobileOne("s0", weights=path, deploy=True)


@pytest.mark.slow
def test_the_authors_accuracy_in_keras_and_tflite(s0, shared, tmp_path):
    """PyTorch gives 243 and 281 of 300 with the same weights and transform."""
    directory = shared / "imagenet-sample" / "images"
    export_tflite(s0, tmp_path / "s0.tflite")
    result = evaluate(tmp_path / "s0.tflite", directory, reference=s0)
    assert result.images == 300
    assert abs(result.top1 - 243) <= 1
    assert abs(result.top5 - 281) <= 1
    assert result.agreement == 300
    in_keras = evaluate(s0, directory)
    assert (in_keras.top1, in_keras.top5) == (result.top1, result.top5)


@pytest.mark.slow
def test_predictors_agree_on_pixels(s0, shared, tmp_path, relative_error):
    export_tflite(s0, tmp_path / "s0.tflite", normalize=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found = load_predictor(tmp_path / "s0.tflite")(pixels)
    assert relative_error(found, load_predictor(s0)(pixels)) < 1e-4
