"""Tests every variant against stored outputs of the authors' and timm's PyTorch models."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_mobileone import VARIANTS, MobileOne, feature_extractor, fuse
from keras_mobileone.variants import STAGE_NAMES

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def fill(shared):
    """Returns the module that generates parameters from their names and shapes."""
    spec = importlib.util.spec_from_file_location("golden_fill", shared / "golden" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Without slow tests, S0 in the authors' naming remains.
@pytest.fixture(scope="module", params=["apple", pytest.param("timm", marks=pytest.mark.slow)])
def scheme(request):
    return request.param


@pytest.fixture(
    scope="module",
    params=[
        "s0",
        *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "s0"),
    ],
)
def reference(request, scheme, shared, fill, tmp_path_factory):
    """Returns the model with the weights of a file, and the stored outputs."""
    variant = VARIANTS[request.param]
    keys = json.loads((shared / "golden" / f"{scheme}_keys.json").read_text())[variant.name]
    path = tmp_path_factory.mktemp("golden") / f"{variant.name}.safetensors"
    save_file({name: fill.fill(name, tuple(shape)) for name, shape in keys.items()}, path)
    model = MobileOne(variant, weights=path, classifier_activation=None)
    with np.load(shared / "golden" / f"{scheme}_outputs.npz") as outputs:
        prefix = f"{variant.name}/"
        stored = {k.removeprefix(prefix): outputs[k] for k in outputs if k.startswith(prefix)}
    return model, stored


def outputs_of(model, images) -> dict[str, np.ndarray]:
    """Returns the logits and the spatial means of the four stages."""
    features = feature_extractor(model)(images, training=False)
    means = [np.mean(keras.ops.convert_to_numpy(x), axis=(1, 2)) for x in features]
    named = dict(zip((f"{stage}_mean" for stage in STAGE_NAMES), means, strict=True))
    return {"logits": model(images, training=False), **named}


def check(model, stored, images, relative_error):
    found = outputs_of(model, images)
    assert found.keys() == stored.keys()
    errors = {name: relative_error(found[name], stored[name]) for name in stored}
    assert max(errors.values()) < TOLERANCE, errors


def test_train_time_model(reference, fill, relative_error):
    model, stored = reference
    check(model, stored, fill.images(), relative_error)


def test_fused_model(reference, fill, relative_error):
    model, stored = reference
    check(fuse(model, verify=False), stored, fill.images(), relative_error)
