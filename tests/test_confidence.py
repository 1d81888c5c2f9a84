"""Confidence: the calibration error by hand, and a known temperature that is found again."""

import numpy as np
import pytest

import keras_mobileone as km
from keras_mobileone.evaluation.confidence import expected_calibration_error, fit_temperature
from keras_mobileone.evaluation.metrics import softmax


def test_the_calibration_error_is_that_of_the_definition():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])
    # Bins of 1/15: 0.9 twice with one right answer, 0.6 and 0.7 each alone and right.
    by_hand = (abs(2 * 0.9 - 1) + abs(0.6 - 1) + abs(0.7 - 1)) / 4
    assert expected_calibration_error(probabilities, labels) == pytest.approx(by_hand)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_the_temperature_undoes_a_known_one():
    """Labels drawn from the probabilities of logits; the logits given are three times as large."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5))
    draws = rng.random((20_000, 1))
    labels = (softmax(logits).cumsum(1) < draws).sum(1).clip(max=4)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)
    found = km.measure_confidence(3 * logits, labels)
    assert found.temperature == pytest.approx(3, rel=0.04)
    assert found.scaled_expected_calibration_error < 0.02
    assert found.unscaled_expected_calibration_error > 0.15
    # Probabilities are taken as what they are.
    same = km.measure_confidence(softmax(3 * logits), labels)
    assert same.temperature == pytest.approx(found.temperature, rel=1e-3)
    with pytest.raises(ValueError, match="at least 2 images"):
        km.measure_confidence(logits[:1], labels[:1])
