"""Tests the package on the JAX backend in a process where importing TensorFlow fails."""

from importlib.util import find_spec

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_mobileone.weights import naming

pytestmark = pytest.mark.skipif(not find_spec("jax"), reason="needs jax: the extra `test` has it")

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # importing it raises
import keras, numpy as np, keras_mobileone
from keras_mobileone import MobileOne, MobileOneBlock, Variant
assert keras.backend.backend() == "jax"

def train(model, images, labels): # The step runs eagerly, because XLA takes minutes to compile a
    network with many branches. model.compile(keras.optimizers.SGD(1e-2),
    "sparse_categorical_crossentropy", run_eagerly=True) before = [np.array(v) for v in
    model.trainable_variables] losses = model.fit(images, labels, verbose=0,
    batch_size=len(images)).history["loss"] assert np.isfinite(losses).all() still = [ v.path for v,
    b in zip(model.trainable_variables, before, strict=True) if (np.array(v) == b).all()
    ]
    assert not still, still

def check_fused(model, images):
    expected = np.array(model(images, training=False))
    fused = model.fuse()
    assert not any(type(l).__module__.startswith("keras_mobileone") for l in fused.layers)
    error = abs(np.array(fused(images)) - expected).max() / abs(expected).max()
    assert error < 1e-5, error
    return fused

def finish():
    assert not [m for m in sys.modules if m.startswith("tensorflow.")]
    print("done")

rng = np.random.default_rng(0)
"""

SMALL = """
block = MobileOneBlock(8, strides=2, num_conv_branches=2, se_ratio=0.25)
images = rng.standard_normal((4, 9, 9, 3)).astype("float32")
assert block(images).shape == (4, 5, 5, 8)

inputs = keras.Input((9, 9, 3))
outputs = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(block(inputs)))
model = keras.Model(inputs, outputs)
train(model, images, np.arange(4) % 2)
error = np.array(block(images, training=False)) - np.array(block.fuse()(images))
assert abs(error).max() < 1e-5

tiny = Variant("tiny", (1, 1, 1, 1), 2, (0, 1, 0, 1), (2, 1, 1, 1), (16, 16, 32, 32))
model = MobileOne(tiny, weights=sys.argv[1], classes=10, input_shape=(64, 64, 3),
                  classifier_activation=None)
images, expected = np.load(sys.argv[2]), np.load(sys.argv[3])
error = abs(np.array(model(images, training=False)) - expected).max() / abs(expected).max()
assert error < 1e-4, error
fused = check_fused(model, images)
fused.save(sys.argv[4])
found = np.array(keras.models.load_model(sys.argv[4])(images))
assert abs(found - expected).max() / abs(expected).max() < 1e-4
assert keras_mobileone.model_complexity(fused).macs > 0
np.testing.assert_allclose(
    keras_mobileone.preprocess_input(keras.ops.ones((1, 2, 2, 3))),
    keras_mobileone.preprocess_input(np.ones((1, 2, 2, 3), "float32")), atol=1e-6)
try:
    keras_mobileone.export_tflite(model, "model.tflite")
except ValueError as error:
    assert "KERAS_BACKEND=tensorflow" in str(error)
else:
    raise AssertionError("export_tflite needs TensorFlow")
finish()
"""

# One block of each stage is sufficient. Eagerly, each further block takes JAX seconds.
S0 = """
import dataclasses
short = dataclasses.replace(keras_mobileone.VARIANTS["s0"], depths=(1, 1, 1, 1))
model = MobileOne(short, weights=None, input_shape=(32, 32, 3), classes=4)
images = rng.standard_normal((4, 32, 32, 3)).astype("float32")
train(model, images, np.arange(4))
check_fused(model, images)
finish()
"""


@pytest.mark.slow
def test_block_and_small_network(run_python, tmp_path, tiny_model, tiny, noise):
    """Inference, a training step, weights from a file, fusing and saving work as on TensorFlow."""
    slots = naming.slots(tiny_model, tiny, naming.TIMM)
    save_file({k: s.to_torch().copy() for k, s in slots.items()}, tmp_path / "w.safetensors")
    images = noise(2, 64, 64, 3)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "outputs.npy", tiny_model(images, training=False))
    files = ("w.safetensors", "images.npy", "outputs.npy", "fused.keras")
    arguments = [tmp_path / name for name in files]
    assert "done" in run_python(WITHOUT_TENSORFLOW + SMALL, *arguments, KERAS_BACKEND="jax")


@pytest.mark.slow
def test_s0(run_python):
    assert "done" in run_python(WITHOUT_TENSORFLOW + S0, KERAS_BACKEND="jax")


@pytest.mark.slow
def test_the_guard_against_tensorflow_works(run_python):
    """The tests above would find an import of TensorFlow."""
    source = "try:\n    import tensorflow\nexcept ImportError:\n    print('refused')"
    assert "refused" in run_python(WITHOUT_TENSORFLOW + source, KERAS_BACKEND="jax")
