"""Quantization-aware training: a fused model in tf-keras, trained as its int8 file computes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from keras_mobileone.about import About
from keras_mobileone.compat import flatten_layers
from keras_mobileone.data.imagenet import PIXEL_RANGE
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import normalized
from keras_mobileone.litert.metadata import with_metadata
from keras_mobileone.litert.runner import NORMALIZED_INPUT, PIXEL_INPUT
from keras_mobileone.models.fusing import has_blocks
from keras_mobileone.models.graph import call_copy, in_float32, rebuild, require_graph
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.qat_model import (
    KERNELS,
    PREFIX,
    activation_ranges,
    config_class,
    input_layer,
    kernels_unrounded,
    output_rule,
    packages,
    rebuild_twin,
    require_rules,
    scheme,
    set_range,
)
from keras_mobileone.quantization.trace import trace

if TYPE_CHECKING:
    import tf_keras

END_TYPES = ("float32", "int8", "uint8")  # that a file's input and output can have
SPLIT_SUFFIX = "_activation"  # of activations that `trace` made layers of their own


def quantize_aware(model: keras.Model, calibration=None) -> "tf_keras.Model":
    """A tf-keras model that computes as the int8 file of `model` will, ready to be trained.

    Kernels are rounded to int8 for each output channel, activations to 8 bits over a range that
    follows the training data (a moving average with decay 0.999). Biases stay float, as in the
    file they have 32 bits. Every layer trains; there is no BatchNorm.

    Args:
        model: Fused Functional or Sequential model with one image input, best equalized before.
            Nested models are replayed in place. It stays untouched.
        calibration: Images that set the first ranges of the activations: a directory, an array
            (count, height, width, 3), or an iterable of such batches, normalized, float32. None
            leaves tfmot's −6 … 6, which clips and takes thousands of steps to move.

    Returns:
        A `tf_keras.Model` with the same inputs and outputs, not compiled. Its layers are called
        `"quant_"` and the name in `model`. Use tf-keras' optimizers and losses with it.

    Raises:
        ImportError: Without the extra `[qat]`.
        ValueError: If `model` is not fused, has several inputs, calls a layer twice, or holds a
            layer that has no rule here; names it.
        TypeError: If `model` is not Functional or Sequential.

    Example:

    ```python
    model = keras_mobileone.MobileOneS0(deploy=True, classifier_activation=None)
    student = quantize_aware(model, calibration="photos/")
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(tf_keras.optimizers.Adam(1e-5), loss)
    student.fit(dataset, epochs=2)
    export_qat(student, "mobileone_s0_int8.tflite")
    ```
    """
    tfmot, keras2 = packages()
    require_graph(model)
    if has_blocks(model):
        raise InputValueError(
            "Quantization-aware training needs a fused model. "
            f"Received: {model.name!r}, which still has MobileOne blocks. "
            "Fold them first: keras_mobileone.fuse(model)."
        )
    traced = trace(in_float32(model))
    require_rules(traced)
    twin = rebuild_twin(traced, keras2)
    spots = {input_layer(traced): "range"} | {
        call.layer.name: output_rule(call, traced) for call in traced.calls
    }
    layer_config = config_class()

    def annotate(layer):
        kernel = KERNELS.get(type(layer).__name__)
        return tfmot.quantization.keras.quantize_annotate_layer(
            layer, layer_config(kernel, spots[layer.name])
        )

    with tfmot.quantization.keras.quantize_scope({layer_config.__name__: layer_config}):
        # Annotating takes the layers over, so it is done to a twin of the twin.
        annotated = keras2.models.clone_model(rebuild_twin(traced, keras2), clone_function=annotate)
        student = tfmot.quantization.keras.quantize_apply(annotated, scheme())
    if calibration is not None:
        images = calibration_images(calibration, model, normalize=False)
        learned = [name for name, rule in spots.items() if rule == "range"]
        for name, limits in activation_ranges(twin, learned, images).items():
            set_range(student.get_layer(PREFIX + name), *limits)
    return student


def export_qat(
    qat_model: "tf_keras.Model",
    path: str | os.PathLike,
    *,
    normalize: bool | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    labels: Sequence[str] | None = None,
    about: About | None = None,
) -> Path:
    """Writes a model of `quantize_aware` as a full-integer TFLite file with the ranges it learned.

    The same model gives the same file, byte for byte. Batch 1, kernels int8 for each output
    channel, metadata and labels.

    Args:
        qat_model: What `quantize_aware` returned, trained or not.
        path: File to write, ending in `.tflite`. It appears whole or not at all.
        input_dtype: `"float32"`, `"int8"` or `"uint8"` at the file's input.
        output_dtype: The same at its output.
        normalize, labels, about: As in `export_tflite`.

    Returns:
        `path`.

    Raises:
        ImportError: Without the extra `[qat]`.
        ValueError: For another model, suffix or type, an image size left open, or an operator
            that is left in float; names it.
        OSError: If `path` can't be written.

    Example:

    ```python
    student = quantize_aware(model, calibration=images)
    student.fit(dataset)
    export_qat(student, "model.tflite", input_dtype="uint8")
    ```
    """
    packages()
    path = Path(path)
    wrapped = _wrapped_layers(qat_model)
    for argument, value in (("input_dtype", input_dtype), ("output_dtype", output_dtype)):
        if value not in END_TYPES:
            raise InputValueError(
                f"`{argument}` must be one of {', '.join(END_TYPES)}. Received: {value!r}."
            )
    if path.suffix != ".tflite":
        raise InputValueError(f"`path` must end in .tflite. Received: {path}.")
    if None in qat_model.input_shape[1:]:
        raise InputValueError(
            "Expected a model with a fixed image size. "
            f"Received: {qat_model.name!r} with input shape {qat_model.input_shape}."
        )
    require_writable(path)
    if normalize is None:
        normalize = qat_model.input_shape[3] == 3
    labels = default_labels(qat_model, labels)
    content = _convert(qat_model, set(wrapped), normalize, input_dtype, output_dtype)
    _require_integers(content)
    name = qat_model.name
    content = with_metadata(content, name, about or About(), labels, takes_pixels=normalize)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def _wrapped_layers(qat_model) -> dict:
    """The wrapped layers of a model of `quantize_aware`, by their names in its source."""
    layers = getattr(qat_model, "layers", ())
    found = {
        layer.name.removeprefix(PREFIX): layer
        for layer in layers
        if isinstance(getattr(layer, "quantize_config", None), config_class())
    }
    if not found:
        raise InputValueError(
            "Expected a model made by quantize_aware. "
            f"Received: {getattr(qat_model, 'name', qat_model)!r}."
        )
    return found


def _convert(qat_model, names, normalize, input_dtype, output_dtype) -> bytes:
    """The TFLite file's content. Where the model rounds activations, the converter takes over the
    range; kernels it quantizes itself, for each output channel, to the same integers."""
    import tensorflow as tf

    def original(name):
        name = name.removeprefix(PREFIX)
        source = name.removesuffix(SPLIT_SUFFIX)
        return source if source in names else name

    input_name = PIXEL_INPUT if normalize else NORMALIZED_INPUT

    def serve(**inputs):
        image = inputs[input_name]
        if normalize:
            image = normalized(tf.quantization.fake_quant_with_min_max_args(image, *PIXEL_RANGE))
        outputs = tf.nest.flatten(qat_model(image, training=False))
        return dict(zip(map(original, qat_model.output_names), outputs, strict=True))

    module = tf.Module()
    module.variables_of_model = qat_model.variables
    module.serve = tf.function(serve)
    shape = (1, *qat_model.input_shape[1:])
    spec = tf.TensorSpec(shape, tf.float32, name=input_name)
    with kernels_unrounded():
        function = module.serve.get_concrete_function(**{input_name: spec})
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.dtypes.as_dtype(input_dtype)
    converter.inference_output_type = tf.dtypes.as_dtype(output_dtype)
    return converter.convert()


def _require_integers(content: bytes) -> None:
    """Raises ValueError if a TFLite file computes anything but its two ends in float."""
    graph = flatbuffer.parse(content).subgraphs[0]
    ends = {int(index) for index in (*graph.inputs, *graph.outputs)}
    for index, tensor in enumerate(graph.tensors):
        if tensor.type == flatbuffer.tensor_type("FLOAT32") and index not in ends:
            raise InputValueError(
                "Expected integers throughout the file. "
                f"Received: the float tensor {tensor.name.decode()!r}, whose operator TFLite's "
                "converter does not quantize. Replace that layer."
            )


def tf_keras_to_keras(qat_model: "tf_keras.Model", model: keras.Model) -> keras.Model:
    """A Keras 3 model like `model` with the weights that quantization-aware training learned.

    Args:
        qat_model: What `quantize_aware(model)` returned, trained.
        model: The model it was made from. It stays untouched.

    Returns:
        A new model of `model`'s structure and layer names.

    Raises:
        ImportError: Without the extra `[qat]`.
        ValueError: If the two do not fit: a layer that the other has not, or of another shape.

    Example:

    ```python
    student = quantize_aware(fused, calibration=images)
    student.fit(dataset)
    tf_keras_to_keras(student, fused).save("finetuned.keras")
    ```
    """
    packages()
    learned = {
        name: [w.numpy() for w in layer.weights if w.name.endswith(("kernel:0", "bias:0"))]
        for name, layer in _wrapped_layers(qat_model).items()
    }
    copies = {}
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
                "Pass the model that quantize_aware was given."
            )
        layer.set_weights(learned[layer.name])
    return carried
