"""Tests that each peer builds, keeps its activations in range, and runs in LiteRT."""

from importlib.metadata import PackageNotFoundError

import keras
import numpy as np
import pytest

import keras_mobileone
from keras_mobileone.benchmarking import baselines
from keras_mobileone.choices import DEPLOY_PRECISIONS, PRECISIONS
from keras_mobileone.litert.flatbuffer import inputs_and_outputs, operator_counts


def magnitudes(model) -> list[float]:
    """Returns the largest magnitude of each layer's output on noise."""
    outputs = [layer.output for layer in model.layers]
    values = keras.Model(model.input, outputs)(baselines.noise(model)[:1])
    return [float(np.abs(np.asarray(value)).max()) for value in values]


@pytest.mark.parametrize("name", ["MobileOneS0", "MobileNetV3Small"])
def test_settled_activations_neither_vanish_nor_overflow(name):
    peer = baselines.PEERS[name]
    model = peer.build()
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    baselines.settle(model)
    found = magnitudes(model)
    assert min(found) > 1e-2
    assert max(found) < 1e3


def test_fresh_deploy_activations_would_vanish():
    """This shows why `settle` is needed."""
    assert min(magnitudes(keras_mobileone.MobileOneS0(weights=None, deploy=True))[:-1]) < 1e-20


def test_settling_leaves_momentum_alone(tiny):
    model = keras_mobileone.MobileOne(tiny, weights=None, input_shape=(32, 32, 3))
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    baselines.settle(model)
    assert [norm.momentum for norm in norms] == momenta
    assert all(momenta)


def test_every_peer_has_a_figure_and_its_source():
    for name, peer in baselines.PEERS.items():
        assert peer.name == name
        assert 55 < peer.top1 < 85
        assert peer.source


@pytest.fixture
def small_peer(tiny, monkeypatch):
    """Adds a peer that is small enough to export quickly."""

    def build():
        return keras_mobileone.MobileOne(
            tiny, weights=None, input_shape=(32, 32, 3), classifier_activation=None, deploy=True
        )

    monkeypatch.setitem(baselines.PEERS, "Small", baselines.Peer("Small", build, 70.0, "nowhere"))
    return "Small"


@pytest.mark.slow
@pytest.mark.parametrize("precision", DEPLOY_PRECISIONS)
def test_a_peer_is_exported_once(small_peer, tmp_path, monkeypatch, precision):
    path = baselines.export_peer(small_peer, tmp_path / "cache", precision)
    content = path.read_bytes()
    inputs, outputs = inputs_and_outputs(content)
    assert inputs[0].shape == (1, 32, 32, 3)
    assert outputs[0].shape == (1, 1000)
    assert precision in path.name
    counts = operator_counts(content)
    assert ("QUANTIZE" in counts) == (precision == "int8")
    assert (counts.get("DEQUANTIZE", 0) > 1) == (precision == "float16")
    monkeypatch.setattr(baselines, "convert", None)  # not needed a second time
    assert baselines.export_peer(small_peer, tmp_path / "cache", precision) == path
    assert list(path.parent.iterdir()) == [path]


def test_unknown_peers_and_precisions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="MobileNetV2"):
        baselines.export_peer("MobileNetV9", tmp_path)
    with pytest.raises(ValueError, match="int16x8"):
        baselines.export_peer("MobileNet", tmp_path, "int16x8")
    assert not list(tmp_path.iterdir())


def test_an_upgrade_does_not_reuse_old_files(small_peer, tmp_path, monkeypatch):
    """The content of a file depends on this package's converter, on Keras and on TensorFlow."""
    paths = []
    for number in ("0.2.0", "0.3.0"):
        monkeypatch.setattr(baselines, "version", lambda name, number=number: number)
        paths.append(baselines.export_peer(small_peer, tmp_path))
    assert "mobileone0.2.0" in paths[0].name
    assert paths[1].name.endswith("-tf0.3.0-mobileone0.3.0.tflite")
    assert all(path.is_file() for path in paths)
    assert baselines.peer_label(paths[1]) == "Small float32"


def test_a_source_tree_without_an_installation_has_a_name_too(monkeypatch):
    def uninstalled(name):
        if name == "keras-mobileone":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(baselines, "version", uninstalled)
    assert baselines._versions().endswith("-tf1-mobileonesource")


def test_baselines_have_precisions_that_the_converter_knows():
    assert set(DEPLOY_PRECISIONS) <= set(PRECISIONS)
