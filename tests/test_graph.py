"""Tests the entry point for models of users, and the graphs made from them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mobileone
from keras_mobileone.errors import InputTypeError
from keras_mobileone.models.graph import as_functional, call_copy, output_names, rebuild

SHAPE = (32, 32, 3)


@pytest.fixture
def backbone(tiny, randomize):
    """Returns a function for a train-time backbone with pooled features and random weights."""

    def make(name, deploy=False, seed=0):
        model = keras_mobileone.MobileOne(
            tiny, include_top=False, weights=None, input_shape=SHAPE, pooling="avg", deploy=deploy
        )
        # As in Keras Applications, the name of the model may differ, but not the names of the
        # layers.
        model = keras.Model(model.input, model.output, name=name)
        return randomize(model, seed)

    return make


class Subclassed(keras.Model):
    """A backbone and a head in a custom `call`."""

    def __init__(self, base, **kwargs):
        super().__init__(**kwargs)
        self.scale = layers.Rescaling(1 / 255)
        self.base = base
        self.head = layers.Dense(3)

    def call(self, inputs, training=None):
        return self.head(self.base(self.scale(inputs), training=training))


class Traceless(keras.Model):
    """A model whose `call` needs the values of its input."""

    def call(self, inputs):
        return inputs * float(np.asarray(inputs).max())


def sequential(base):
    return keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), base, layers.Dense(3)])


def subclassed(base):
    model = Subclassed(base, name="own")
    model(np.zeros((2, *SHAPE), np.float32))
    return model


def nested(base):
    image = keras.Input(SHAPE)
    return keras.Model(image, layers.Dense(2)(Subclassed(base, name="own")(image)))


def in_sequential(base):
    return keras.Sequential([keras.Input(SHAPE), Subclassed(base), layers.Dense(2)])


KINDS = [sequential, subclassed, nested, in_sequential]


@pytest.mark.parametrize("kind", KINDS)
def test_as_functional_computes_the_same_with_the_same_weights(kind, backbone, noise):
    model = kind(backbone("base"))
    found = as_functional(model)
    assert type(found).__name__ == "Functional" and found.name == model.name
    images = 255 * np.abs(noise(2, *SHAPE))
    np.testing.assert_allclose(found(images), model(images), rtol=1e-5, atol=1e-5)
    assert {id(v) for v in found.variables} == {id(v) for v in model.variables}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_fused_and_counted(kind, backbone, noise, relative_error):
    model = kind(backbone("base"))
    images = 255 * np.abs(noise(2, *SHAPE))
    fused = keras_mobileone.fuse(model)
    assert relative_error(fused(images), model(images)) < 1e-4
    base_macs = keras_mobileone.model_complexity(backbone("base")).macs
    heads = keras_mobileone.model_complexity(model).dense_macs
    assert keras_mobileone.model_complexity(model).macs == base_macs + heads
    features = backbone("base").output_shape[-1]
    assert heads in (features * 3, features * 3 + 3 * 2)


def test_a_functional_model_is_returned_as_it_is(backbone):
    model = backbone("base")
    assert as_functional(model) is model


@pytest.mark.parametrize("training", [False, True])
def test_a_nested_call_keeps_its_arguments(training, backbone, noise):
    """Transfer learning uses such arguments, as in `base(x, training=…)`."""
    base, image = backbone("base"), keras.Input(SHAPE)
    head = Subclassed(layers.Dense(4))
    head(np.zeros((1, 16)))
    model = keras.Model(image, head(layers.Dense(16)(base(image, training=training))))
    found, images = as_functional(model), noise(2, *SHAPE)
    assert found is not model
    np.testing.assert_allclose(found(images), model(images), rtol=1e-5, atol=1e-6)
    frozen = base(images, training=not training)
    assert np.abs(frozen - base(images, training=training)).max() > 0.1


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_model_without_a_graph_is_refused_by_name(where):
    model = Traceless(name="by_value")
    model(np.ones((1, 4), np.float32))
    if where == "inside":
        model = keras.Sequential([layers.Identity(), model])
        model(np.ones((1, 4), np.float32))
        with pytest.raises(ValueError, match="no input shape yet"):
            as_functional(model)
        return
    with pytest.raises(InputTypeError, match="'by_value' of type Traceless"):
        as_functional(model)


def test_models_without_an_input_shape_and_other_things_are_refused():
    with pytest.raises(ValueError, match="'empty' has no input shape"):
        as_functional(keras.Sequential([layers.Dense(2)], name="empty"))
    with pytest.raises(ValueError, match="'own' has no single input shape"):
        as_functional(Subclassed(layers.Identity(), name="own"))
    with pytest.raises(TypeError, match="Received: str"):
        as_functional("model.keras")


def two_backbones(backbone, **options):
    left, right = keras.Input(SHAPE, name="left"), keras.Input(SHAPE, name="right")
    both = [
        backbone("a", seed=1, **options)(left),
        backbone("b", seed=2, **options)(right),
    ]
    return keras.Model([left, right], layers.Dense(2, name="head")(layers.concatenate(both)))


def test_two_backbones_are_counted(backbone):
    counted = keras_mobileone.model_complexity(two_backbones(backbone, deploy=True))
    one = keras_mobileone.model_complexity(backbone("base", deploy=True))
    features = backbone("base").output_shape[-1]
    assert counted.macs == 2 * one.macs + 2 * features * 2
    assert counted.trainable == 2 * one.trainable + 2 * (2 * features) + 2


def test_two_backbones_are_flattened_under_unique_names(backbone, noise, relative_error):
    model = keras_mobileone.fuse(two_backbones(backbone))
    copies, before = {}, [layer.name for layer in model.layers]
    flat = rebuild(model, lambda layer, *a, **k: call_copy(copies, layer, a, k), flatten=True)
    names = [layer.name for layer in flat.layers]
    assert len(names) == len(set(names))
    assert {"a_stem_conv", "b_stem_conv", "a_stage4", "head"} <= set(names)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    # The model itself keeps its names.
    assert [layer.name for layer in model.layers] == before
    assert model.get_layer("a").get_layer("stem_conv").name == "stem_conv"
    images = [noise(1, *SHAPE), noise(1, *SHAPE, seed=1)]
    assert relative_error(flat(images), model(images)) < 1e-6


def test_one_backbone_called_twice_is_flattened(backbone, noise, relative_error):
    base = keras_mobileone.fuse(backbone("base"))
    left, right = keras.Input(SHAPE), keras.Input(SHAPE)
    model = keras.Model([left, right], base(left) - base(right))
    copies = {}
    flat = rebuild(model, lambda layer, *a, **k: call_copy(copies, layer, a, k), flatten=True)
    assert "stem_conv" in [layer.name for layer in flat.layers]
    images = [noise(1, *SHAPE), noise(1, *SHAPE, seed=1)]
    assert relative_error(flat(images), model(images)) < 1e-6


def test_operations_of_nested_models_have_unique_names(noise):
    def inner(name):
        x = keras.Input((4,))
        return keras.Model(x, ops.relu(layers.Dense(4, name="dense")(x) * 2.0), name=name)

    x = keras.Input((4,))
    model = keras.Model(x, inner("a")(x) + inner("b")(x))
    copies = {}
    flat = rebuild(model, lambda layer, *a, **k: call_copy(copies, layer, a, k), flatten=True)
    names = [operation.name for operation in flat.operations]
    assert len(names) == len(set(names)) and {"a_dense", "b_dense"} <= set(names)
    np.testing.assert_allclose(flat(noise(2, 4)), model(noise(2, 4)), rtol=1e-6)


def test_output_names_are_unique_and_in_order():
    image = keras.Input((8, 8, 3), name="image")
    dense = layers.Dense(4, name="dense")(image)
    a, b = ops.split(dense, 2, -1)
    values, indices = ops.top_k(dense, 2)
    head = layers.Conv2D(2, 1, name="head")
    levels = [head(dense), head(layers.MaxPooling2D()(dense))]
    model = keras.Model(image, [a, b, dense, values, indices, *levels])
    names = output_names(model)
    assert len(names) == 7 and len(set(names)) == 7
    assert names[2] == "dense" and names[5:] == ["head", "head_1"]
    assert names[1] == f"{names[0]}_1" and names[4] == f"{names[3]}_1"
    assert output_names(keras.Sequential([keras.Input((3,)), layers.Dense(2, name="only")])) == [
        "only"
    ]


def test_an_output_name_does_not_take_that_of_another_layer():
    x = keras.Input((4,))
    dense = layers.Dense(4, name="dense")
    other = layers.Dense(4, name="dense_1")(x)
    model = keras.Model(x, [dense(x), dense(other), other])
    assert output_names(model) == ["dense", "dense_2", "dense_1"]


def test_a_lambda_is_copied(tiny, randomize, noise, relative_error):
    image = keras.Input(SHAPE)
    base = randomize(keras_mobileone.MobileOne(tiny, weights=None, input_shape=SHAPE, classes=3))
    doubled = layers.Lambda(lambda x, by: x * by, arguments={"by": 2.0}, name="twice")(image)
    model = keras.Model(image, base(doubled))
    fused = keras_mobileone.fuse(model)
    assert relative_error(fused(noise(1, *SHAPE)), model(noise(1, *SHAPE))) < 1e-4
    assert fused.get_layer("twice") is not model.get_layer("twice")
    copy = rebuild(model, lambda layer, *a, **k: call_copy({}, layer, a, k, dtype="float64"))
    assert copy.get_layer("twice").compute_dtype == "float64"


class Foreign(layers.Layer):
    """A layer without its argument in `get_config`, which can't be made a second time."""

    def __init__(self, factor, weighted=False, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.weighted = factor, weighted

    def build(self, input_shape):
        if self.weighted:
            self.kernel = self.add_weight(shape=(input_shape[-1],), name="kernel")

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {"name": self.name}


def test_a_foreign_layer_without_weights_is_used_itself(backbone, noise, relative_error):
    image = keras.Input(SHAPE)
    foreign = Foreign(2.0, name="foreign")
    model = keras.Model(image, backbone("base")(foreign(image)))
    fused = keras_mobileone.fuse(model)
    assert fused.get_layer("foreign") is foreign
    assert relative_error(fused(noise(1, *SHAPE)), model(noise(1, *SHAPE))) < 1e-4


def test_a_foreign_layer_with_weights_is_named(backbone):
    image = keras.Input(SHAPE)
    model = keras.Model(image, backbone("base")(Foreign(2.0, weighted=True, name="heavy")(image)))
    with pytest.raises(InputTypeError, match="'heavy' of type Foreign") as raised:
        keras_mobileone.fuse(model)
    assert "get_config" in str(raised.value)
