"""Tests the benchmark of a training step without timing: its networks and its report."""

import keras
import pytest

from keras_mobileone import VARIANTS
from keras_mobileone.models.network import build
from keras_mobileone.training.recipe import Phase, Recipe


def test_plain_network_is_the_deploy_topology(load_script):
    """The kernels are the same in the same order, with batch normalization instead of biases."""
    recipe = Recipe("step", VARIANTS["s0"], 10, (Phase(0, 64),), 2)
    plain = load_script("train_step").plain_network(recipe)
    deploy = build(recipe.variant, keras.Input((None, None, 3)), deploy=True)
    kernels = [
        [tuple(weight.shape) for weight in model.weights if len(weight.shape) > 1]
        for model in (plain, deploy)
    ]
    assert kernels[0] == kernels[1]
    norms = [x for x in plain.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == len(kernels[0]) - 1  # not after the classifier


def test_ratio_to_the_authors_code_is_paired_within_rounds(load_script):
    """The machine is busy in the second round, which does not affect the paired ratios."""
    seconds = {"one pass": [1.0, 3.0, 1.0], "authors' PyTorch": [2.0, 6.0, 2.0]}
    rows = [
        {
            "variant": "s0",
            "method": method,
            "seconds_per_step": values,
            "conditions": {"torch": "2.0"},
        }
        for method, values in seconds.items()
    ]
    sentence = load_script("training_pages").against_pytorch(rows)
    assert "PyTorch 2.0" in sentence and "2.00 times with S0" in sentence
    assert load_script("training_pages").against_pytorch(rows[:1]) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pytorch", "nowhere.py"], "nowhere.py"),
        (["--pytorch", __file__, "--dtype", "bfloat16"], "float32"),
        (["--pytorch", __file__, "--pytorch-python", "nowhere/python"], "nowhere/python"),
    ],
)
def test_wrong_arguments(load_script, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr("sys.argv", ["train_step.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        load_script("train_step").main()
    assert stop.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
