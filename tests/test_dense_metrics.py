"""Tests the metrics of masks and boxes against cases computed by hand."""

import sys

import keras
import numpy as np
import pytest

from keras_mobileone.data.dense.description import DenseImage
from keras_mobileone.data.dense.mask_codes import IGNORE
from keras_mobileone.evaluation.detection import Detections, coco_scores
from keras_mobileone.evaluation.segmentation import (
    iou_by_class,
    mask_confusion,
    mean_iou,
    pixel_accuracy,
)

LABELS = np.array([[0, 0, 1, 1], [0, 2, 2, IGNORE]])
PREDICTED = np.array([[0, 1, 1, 1], [0, 2, 0, 2]])


def test_confusion_and_iou_by_hand():
    confusion = mask_confusion(LABELS, PREDICTED, classes=4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(iou_by_class(confusion), [2 / 4, 2 / 3, 1 / 2, np.nan])
    assert mean_iou(confusion) == pytest.approx((0.5 + 2 / 3 + 0.5) / 3)
    assert pixel_accuracy(confusion) == pytest.approx(5 / 7)
    halves = [mask_confusion(LABELS[k], PREDICTED[k], 4) for k in range(2)]
    np.testing.assert_array_equal(sum(halves), confusion)


def test_keras_metric_of_training_agrees():
    """`Trainer` uses Keras' metric, which must count as the NumPy function does."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, IGNORE], (3, 8, 9)).astype(np.uint8)
    logits = rng.standard_normal((3, 8, 9, 5)).astype(np.float32)
    metric = keras.metrics.MeanIoU(5, ignore_class=IGNORE, sparse_y_pred=False)
    metric.update_state(labels, logits)
    confusion = mask_confusion(labels, logits.argmax(-1), 5)
    assert float(metric.result()) == pytest.approx(mean_iou(confusion), abs=1e-6)


def test_nothing_to_count():
    confusion = mask_confusion(np.full((2, 2), IGNORE), np.zeros((2, 2), int), 3)
    assert confusion.sum() == 0
    assert np.isnan(mean_iou(confusion)) and np.isnan(pixel_accuracy(confusion))


@pytest.mark.parametrize(
    "labels, predictions, words",
    [([0, 1], [0], "same shape"), ([3], [0], "labels from 0 to 2"), ([0], [-1], "predictions")],
)
def test_unsuitable_masks_are_refused(labels, predictions, words):
    with pytest.raises(ValueError, match=words):
        mask_confusion(labels, predictions, 3)


def image(boxes, labels, ignored=None):
    count = len(labels)
    return DenseImage(
        "a.jpg",
        (400, 400),
        None,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(ignored if ignored is not None else [False] * count, bool),
    )


def found(boxes, labels, scores):
    return Detections(np.array(boxes, float).reshape(-1, 4), np.array(labels), np.array(scores))


@pytest.fixture(autouse=True, scope="module")
def package():
    pytest.importorskip("faster_coco_eval", reason="needs keras-mobileone[detect]")


def test_average_precision_by_hand():
    """Two objects of a class: one found exactly, one missed, and a false alarm in between.

    The precision is 1 up to recall 0.5 and then 0. Of COCO's 101 recalls 0, 0.01, …, 1, the 51 up
    to 0.5 count.
    """
    images = [image([[0, 0, 20, 20], [100, 100, 300, 300]], [0, 0])]
    detected = [found([[0, 0, 20, 20], [200, 0, 240, 40]], [0, 0], [0.9, 0.8])]
    scores = coco_scores(images, detected, ("cell", "absent"))
    assert scores.map == scores.map50 == scores.map75 == pytest.approx(51 / 101)
    assert scores.map_small == pytest.approx(1.0)
    assert scores.map_medium is None
    assert scores.map_large == 0
    assert scores.by_class == {"cell": pytest.approx(51 / 101), "absent": None}


def test_thresholds_of_the_overlap_by_hand():
    """A box whose IoU is 0.68 counts at 0.50, 0.55, 0.60 and 0.65: four of ten thresholds."""
    images = [image([[0, 0, 100, 100]], [1])]
    scores = coco_scores(images, [found([[0, 0, 68, 100]], [1], [0.5])], ("a", "b"))
    assert scores.map == pytest.approx(0.4)
    assert scores.map50 == pytest.approx(1.0)
    assert scores.map75 == pytest.approx(0.0)
    assert scores.by_class50 == {"a": None, "b": pytest.approx(1.0)}
    assert scores.map_large == pytest.approx(0.4)  # 100² pixels


def test_a_wrong_class_and_a_second_detection_are_false_alarms():
    images = [image([[0, 0, 100, 100]], [0])] * 2
    box = [0, 0, 100, 100]
    detected = [found([box, box], [0, 0], [0.9, 0.8]), found([box, box], [1, 0], [0.9, 0.1])]
    scores = coco_scores(images, detected, ("a", "b"))
    # Precision 1 up to recall 0.5, then 2/3: 51 + 50 · 2/3 of 101.
    assert scores.by_class["a"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_objects_to_ignore_are_neither_right_nor_wrong():
    box, other = [0, 0, 100, 100], [200, 200, 300, 300]
    images = [image([box, other], [0, 0], [False, True])]
    for detected in (found([box], [0], [0.5]), found([box, other], [0, 0], [0.5, 0.9])):
        assert coco_scores(images, [detected], ("a",)).map == pytest.approx(1.0)


def test_nothing_found_and_nothing_to_find():
    nothing = found([], [], [])
    scores = coco_scores([image([[0, 0, 20, 20]], [0])], [nothing], ("a", "b"))
    assert (scores.map, scores.map50, scores.map_small, scores.map_large) == (0, 0, 0, None)
    assert scores.by_class == {"a": 0, "b": None}
    scores = coco_scores([image([], [])], [found([[0, 0, 9, 9]], [0], [0.5])], ("a",))
    assert scores.map is None
    with pytest.raises(ValueError, match="each of 1 images"):
        coco_scores([image([], [])], [], ("a",))


def test_the_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"keras-mobileone\[detect\]"):
        coco_scores([image([], [])], [found([], [], [])], ("a",))
