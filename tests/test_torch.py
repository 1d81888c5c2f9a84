"""Tests training in one pass on the PyTorch backend against branch by branch."""

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(not find_spec("torch"), reason="needs torch: the extra `torch`")

SOURCE = """ import keras, numpy as np, torch from keras_mobileone import MobileOneBlock from
keras_mobileone.layers import one_pass assert keras.backend.backend() == "torch"
one_pass.DEPTHWISE_WORK = 0  # also for small images rng = np.random.default_rng(0)

def step(block, images): images = torch.tensor(images, requires_grad=True) outputs = block(images,
    training=True) (outputs * outputs).sum().backward() # Compared as one vector, because that of a
    1×1 depthwise kernel is zero except for epsilon and rounding. gradients =
    torch.cat([v.value.grad.ravel() for v in block.trainable_variables]) statistics = [v.value for v
    in block.non_trainable_variables] values = [outputs, images.grad, gradients, *statistics] return
    [value.detach().cpu().numpy() for value in values]

for arguments, shape in (
    ({"filters": 16, "kernel_size": 1, "num_conv_branches": 4}, (4, 12, 11, 16)),
    ({"filters": 16, "depthwise": True, "num_conv_branches": 4}, (4, 12, 11, 16)),
    ({"filters": 48, "strides": 2}, (4, 12, 12, 3)),
):
    blocks = [MobileOneBlock(one_pass=one_pass, **arguments) for one_pass in (True, False)]
    for block in blocks:
        block.build(shape)
    assert blocks[0]._in_one_pass(shape)
    blocks[0].set_weights([rng.uniform(0.5, 1.5, v.shape) for v in blocks[0].weights])
    blocks[1].set_weights(blocks[0].get_weights())
    images = rng.standard_normal(shape).astype("float32")
    for found, expected in zip(*(step(block, images) for block in blocks), strict=True):
        error = abs(found - expected).max() / abs(expected).max()
        assert error < 2e-5, (arguments, found.shape, error)
print("done")
"""


@pytest.mark.slow
def test_outputs_gradients_and_statistics(run_python):
    assert "done" in run_python(SOURCE, KERAS_BACKEND="torch")
