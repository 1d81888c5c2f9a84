"""`quantize_aware`: rebuilds a fused model in tf-keras for quantization-aware training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from keras_mobileone.compat import flatten_layers
from keras_mobileone.data.image_config import PIXELS, ImageConfig, image_config
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import CONFIG_KEY
from keras_mobileone.models.fusing import has_blocks
from keras_mobileone.models.graph import call_copy, in_float32, rebuild, require_graph
from keras_mobileone.models.tasks import task_config
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.pixel_input import (
    CENTERED_PIXELS,
    CENTERED_RANGE,
    taking_pixels,
)
from keras_mobileone.quantization.qat_model import (
    KERNELS,
    PREFIX,
    activation_ranges,
    config_class,
    input_layer,
    learned_range,
    output_rule,
    packages,
    rebuild_in_tf_keras,
    require_rules,
    scheme,
    set_range,
)
from keras_mobileone.quantization.trace import Trace, trace

if TYPE_CHECKING:
    import tf_keras

Layer = Any  # a layer of tf-keras, which is imported late
SOURCE_KEY = "keras_mobileone_source"  # attribute with the Keras 3 model


def quantize_aware(model: keras.Model, calibration: Any = None) -> "tf_keras.Model":
    """Builds a trainable tf-keras model that computes as the int8 file of `model` will.

    Kernels are rounded to int8, with a scale for each output channel. Activations are rounded to 8
    bits over a range that follows the training data (a moving average with decay 0.999). Biases
    stay in float, since the file stores them with 32 bits. All layers are trainable. There is no
    batch normalization.

    Args:
        model: Fused Functional or Sequential model with one image input, preferably the result of
            `equalize`. Nested models are flattened. The model is not changed.
        calibration: Images that set the initial ranges of the activations: a directory, an array
            (count, height, width, 3), or an iterable of such batches, normalized, float32. None
            keeps tfmot's default of −6 … 6, which clips values and takes thousands of steps to
            adapt.

    Returns:
        A `tf_keras.Model` with the same inputs and outputs, which is not compiled. The names of its
        layers are those in `model` with the prefix `"quant_"`. Train it with tf-keras' optimizers
        and losses.

    Raises:
        ImportError: If the extra `[qat]` is not installed.
        ValueError: If `model` is not fused, has several inputs, calls a layer twice, or has a
            layer for which there is no rule. The message names the layer.
        TypeError: If `model` is not Functional or Sequential.

    Examples:
        ```python
        model = keras_mobileone.MobileOneS0(deploy=True, classifier_activation=None)
        student = quantize_aware(model, calibration="photos/")
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        student.compile(tf_keras.optimizers.Adam(1e-5), loss)
        student.fit(dataset, epochs=2)
        export_qat(student, "mobileone_s0_int8.tflite")
        ```
    """
    _, keras2 = packages()
    require_graph(model)
    if has_blocks(model):
        raise InputValueError(
            "Quantization-aware training needs a fused model. "
            f"Received: {model.name!r}, which has MobileOne blocks. "
            "Fold them first: keras_mobileone.fuse(model)."
        )
    if task_config(model) is not None:
        raise InputValueError(
            "Quantization-aware training is for classifiers. "
            f"Received: {model.name!r}, which segments or detects. Use `quantize` after training."
        )
    config = image_config(model, normalize=True)
    traced = trace(in_float32(model))
    require_rules(traced)
    rules, student = _wrapped(traced)
    if calibration is not None:
        images = calibration_images(calibration, config)
        learned = [name for name, rule in rules.items() if rule == "range"]
        copy = rebuild_in_tf_keras(traced, keras2)
        for name, limits in activation_ranges(copy, learned, images).items():
            set_range(student.get_layer(PREFIX + name), *limits)
    setattr(student, CONFIG_KEY, config)
    setattr(student, SOURCE_KEY, _Source(traced.model))
    return student


@dataclass(frozen=True)
class _Source:
    """Hides a model from tf-keras, which would count its weights as those of the student."""

    model: keras.Model


def _wrapped(traced: Trace) -> tuple[dict[str, str | None], "tf_keras.Model"]:
    """Rebuilds a model in tf-keras with quantizers.

    Returns:
        The rule of each layer's output by the layer's name, see `output_rule`, and the new model.
    """
    tfmot, keras2 = packages()
    rules = {input_layer(traced): "range"} | {
        call.layer.name: output_rule(call, traced) for call in traced.calls
    }
    layer_config = config_class()

    def annotate(layer: Layer) -> Layer:
        kernel = KERNELS.get(type(layer).__name__)
        return tfmot.quantization.keras.quantize_annotate_layer(
            layer, layer_config(kernel, rules[layer.name])
        )

    with tfmot.quantization.keras.quantize_scope({layer_config.__name__: layer_config}):
        # Annotating changes the layers of this model, which is therefore used for nothing else.
        source = rebuild_in_tf_keras(traced, keras2)
        annotated = keras2.models.clone_model(source, clone_function=annotate)
        return rules, tfmot.quantization.keras.quantize_apply(annotated, scheme())


def on_pixels(qat_model: "tf_keras.Model", config: ImageConfig) -> "tf_keras.Model | None":
    """Returns a copy of a quantization-aware model that takes pixels, see `taking_pixels`.

    Args:
        qat_model: Result of `quantize_aware`, trained or not.
        config: Mean and standard deviation of its images.

    Returns:
        A model that does not round the pixels, and has the weights and ranges of `qat_model` behind
        its first convolutions. None if the input reaches anything but convolutions and padding.
    """
    trained = tf_keras_to_keras(qat_model, getattr(qat_model, SOURCE_KEY).model)
    model = taking_pixels(trained, config)
    if model is None:
        return None
    traced = trace(model)
    rules, student = _wrapped(traced)
    learned = wrapped_layers(qat_model)
    exact = {input_layer(traced): PIXELS, CENTERED_PIXELS: CENTERED_RANGE}
    for name, rule in rules.items():
        if rule == "range":
            limits = exact.get(name) or learned_range(learned[name])
            set_range(student.get_layer(PREFIX + name), *limits)
    return student


def wrapped_layers(qat_model: "tf_keras.Model") -> dict[str, Any]:
    """Returns the wrapped layers of a model of `quantize_aware` by their names in the source."""
    layers = getattr(qat_model, "layers", ())
    wrapped = {
        layer.name.removeprefix(PREFIX): layer
        for layer in layers
        if isinstance(getattr(layer, "quantize_config", None), config_class())
    }
    if not wrapped:
        raise InputValueError(
            "Expected a model made by quantize_aware. "
            f"Received: {getattr(qat_model, 'name', qat_model)!r}."
        )
    return wrapped


def tf_keras_to_keras(qat_model: "tf_keras.Model", model: keras.Model) -> keras.Model:
    """Returns a Keras 3 model with the weights from quantization-aware training.

    Args:
        qat_model: Result of `quantize_aware(model)` after training.
        model: The model that was passed to `quantize_aware`. It is not changed.

    Returns:
        A new model with the structure and layer names of `model`.

    Raises:
        ImportError: If the extra `[qat]` is not installed.
        ValueError: If a layer of `model` is missing in `qat_model` or its weights differ in shape.

    Examples:
        ```python
        student = quantize_aware(fused, calibration=images)
        student.fit(dataset)
        tf_keras_to_keras(student, fused).save("finetuned.keras")
        ```
    """
    packages()
    learned = {
        name: [w.numpy() for w in layer.weights if w.name.endswith(("kernel:0", "bias:0"))]
        for name, layer in wrapped_layers(qat_model).items()
    }
    copies: dict[int, keras.Layer] = {}
    carried = rebuild(model, lambda layer, *args, **kw: call_copy(copies, layer, args, kw))
    for layer in flatten_layers(carried, include_self=False):
        if isinstance(layer, keras.Model) or not layer.weights:
            continue
        found = [weight.shape for weight in learned.get(layer.name, [])]
        expected = [tuple(weight.shape) for weight in layer.weights]
        if found != expected:
            raise InputValueError(
                f"Expected weights of shapes {expected} for layer {layer.name!r} of "
                f"{model.name!r}. Received: {found or 'none of that name'} in {qat_model.name!r}. "
                "Pass the model that was passed to quantize_aware."
            )
        layer.set_weights(learned[layer.name])
    return carried
