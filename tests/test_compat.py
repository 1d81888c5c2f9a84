"""Tests the private parts of Keras and related packages that are used, and that no others are."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_mobileone import MobileOneBlock, compat
from keras_mobileone.training.optimizer import SGD

PACKAGE = Path(compat.__file__).parent
# A name that begins with an underscore is private. These names are public nevertheless: methods of
# named tuples, and `keras.Layer.__call__` and similar methods.
PUBLIC = {"_replace", "_asdict", "_fields"}
OWN = {"self", "cls"}


def test_flatten_layers_sees_what_model_layers_does_not():
    image = keras.Input((8, 8, 4))
    block = MobileOneBlock(4, name="block")
    model = keras.Model(image, block(image))
    names = [layer.name for layer in compat.flatten_layers(model)]
    assert names[0] == model.name
    assert {"block", "conv0", "conv0_norm", "scale", "skip_norm"} <= set(names)
    assert compat.flatten_layers(model, include_self=False)[0] is not model
    assert not any("norm" in layer.name for layer in model.layers)


def test_run_through_graph_calls_each_operation():
    image = keras.Input((3,))
    model = keras.Model(image, keras.layers.ReLU(name="relu")(image) + 1.0)
    called = []

    def call(operation, *args, **kwargs):
        called.append(operation.name)
        return operation(*args, **kwargs)

    found = compat.run_through_graph(model, np.array([[-1.0, 0.0, 2.0]]), call)
    np.testing.assert_array_equal(found, [[1, 1, 3]])
    assert called[0] == "relu" and len(called) == 2


def test_producer():
    relu = keras.layers.ReLU()
    assert compat.producer(relu(keras.Input((3,)))) is relu


def test_lambda_output_shape():
    assert compat.lambda_output_shape(keras.layers.Lambda(abs, output_shape=(3,))) == (3,)
    assert compat.lambda_output_shape(keras.layers.Lambda(abs)) is None


def test_prepare_tf2onnx():
    tfonnx = pytest.importorskip("tf2onnx.tfonnx", reason="needs the extra onnx")
    compat.prepare_tf2onnx()
    assert tfonnx.rewrite_constant_fold.__module__.startswith("keras.")


def test_variable_index():
    variables = [keras.Variable(np.zeros(size), name=f"v{size}") for size in (1, 2, 3)]
    optimizer = SGD()
    optimizer.build(variables)
    assert [compat.variable_index(optimizer, v) for v in variables] == [0, 1, 2]


def test_output_quantizer_variables(qat_packages):
    tfmot, tf_keras = qat_packages
    wrapped = tfmot.quantization.keras.quantize_model(
        tf_keras.Sequential([tf_keras.layers.ReLU(input_shape=(3,))])
    )
    variables = compat.output_quantizer_variables(wrapped.layers[-1])
    assert {"min_var", "max_var"} <= set(variables)


def private_names(source: str) -> list[str]:
    """Returns the private modules and private attributes of other objects that a source uses."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            own = isinstance(node.value, ast.Name) and node.value.id in OWN
            dunder = node.attr.startswith("__") or node.attr in PUBLIC
            if not own and not dunder:
                found.append(node.attr)
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        found += [name for name in names if "keras.src" in name or "._" in name]
    return found


@pytest.mark.parametrize(
    "source",
    ["model._flatten_layers()", "from keras.src import tree", "self.norm._fused", "import a._b"],
)
def test_the_search_for_private_names_finds_them(source):
    assert private_names(source)


def test_private_names_are_used_in_compat_alone():
    used = {
        str(path.relative_to(PACKAGE)): private_names(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    assert used.pop("compat.py")
    assert not {module: names for module, names in used.items() if names}
    # A method of that name in the optimizer would be the private one of Keras.
    inherited = {"_get_variable_index", "_flatten_layers", "_run_through_graph"}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "compat.py":
            assert not any(name in path.read_text(encoding="utf-8") for name in inherited), path
