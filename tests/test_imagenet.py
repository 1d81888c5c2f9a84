"""Tests ImageNet's conventions: the formula of the normalization, and the names of the classes."""

import csv

import keras
import numpy as np
import pytest

from keras_mobileone import decode_predictions, preprocess_input
from keras_mobileone.data.imagenet import class_index, classes

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def formula(pixels):
    return (np.asarray(pixels, np.float64) / 255 - MEAN) / STD


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_arrays(pixels, dtype):
    found = preprocess_input(pixels.astype(dtype))
    assert isinstance(found, np.ndarray)
    assert found.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(found, formula(pixels), atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_tensors(pixels, dtype):
    found = preprocess_input(keras.ops.convert_to_tensor(pixels, dtype))
    assert keras.ops.is_tensor(found)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(found, formula(pixels), atol=1e-6)


def test_half_precision_stays_half(pixels):
    for images in (pixels.astype("float16"), keras.ops.convert_to_tensor(pixels, "float16")):
        found = preprocess_input(images)
        assert keras.backend.standardize_dtype(found.dtype) == "float16"
        np.testing.assert_allclose(found, formula(pixels), atol=1e-2)


def test_inside_a_tensorflow_pipeline(pixels):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(pixels).map(preprocess_input).batch(2)
    (found,) = dataset
    np.testing.assert_allclose(found, formula(pixels), atol=1e-6)


def test_inside_a_model(pixels):
    inputs = keras.Input((5, 4, 3), dtype="uint8")
    model = keras.Model(inputs, preprocess_input(inputs))
    np.testing.assert_allclose(model(pixels), formula(pixels), atol=1e-6)


def test_the_input_is_not_written_to(pixels):
    images = pixels.astype(np.float32)
    preprocess_input(images)
    np.testing.assert_array_equal(images, pixels)


def test_one_image_without_batch(pixels):
    np.testing.assert_allclose(preprocess_input(pixels[0]), formula(pixels[0]), atol=1e-6)


def test_what_is_not_rgb_channels_last_is_an_error(pixels):
    with pytest.raises(ValueError, match=r"\(2, 5, 4, 1\)"):
        preprocess_input(pixels[..., :1])
    with pytest.raises(ValueError, match="channels_first"):
        preprocess_input(pixels, data_format="channels_first")
    preprocess_input(pixels, data_format="channels_last")


def test_a_thousand_classes():
    names = classes()
    assert len(names) == len(class_index()) == 1000
    assert names[0] == ("n01440764", "tench")
    assert names[-1][0] == "n15075141"
    assert all(wnid[0] == "n" and len(wnid) == 9 and name for wnid, name in names)
    assert [class_index()[wnid] for wnid, _ in names] == list(range(1000))
    assert [wnid for wnid, _ in names] == sorted(wnid for wnid, _ in names)


def test_the_classes_are_the_reference_ones(shared):
    with open(shared / "imagenet-sample" / "classes.csv", newline="") as file:
        assert classes() == tuple((row["wnid"], row["name"]) for row in csv.DictReader(file))


def test_decode_predictions():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, [7, 0, 999]] = 0.5, 0.3, 0.2
    scores[1, 1] = 3.5
    first, second = decode_predictions(scores, top=3)
    assert [wnid for wnid, _, _ in first] == [classes()[i][0] for i in (7, 0, 999)]
    assert [name for _, name, _ in first] == [classes()[i][1] for i in (7, 0, 999)]
    np.testing.assert_allclose([score for _, _, score in first], [0.5, 0.3, 0.2])
    assert second[0] == (*classes()[1], 3.5)
    assert isinstance(second[0][2], float)


def test_decode_predictions_takes_tensors_and_gives_five():
    found = decode_predictions(keras.ops.ones((3, 1000)))
    assert [len(row) for row in found] == [5, 5, 5]
    assert [wnid for wnid, _, _ in found[0]] == [wnid for wnid, _ in classes()[:5]]


@pytest.mark.parametrize("shape", [(1000,), (2, 1001), (2, 10), (1, 1, 1000)])
def test_decode_predictions_of_another_shape(shape):
    with pytest.raises(ValueError, match="batch, 1000") as raised:
        decode_predictions(np.zeros(shape))
    assert str(shape) in str(raised.value)
