"""`export_qat`: from a quantization-aware tf-keras model to a full-integer TFLite file."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import INTEGER_TYPES
from keras_mobileone.data.image_config import PIXELS, ImageConfig, config_of_file
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.tflite import (
    expected_classes,
    largest_error,
    random_images,
)
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import Tensor, convert_function, normalized
from keras_mobileone.litert.metadata import with_metadata
from keras_mobileone.litert.runner import NORMALIZED_INPUT, PIXEL_INPUT
from keras_mobileone.models.attachment import CONFIG_KEY
from keras_mobileone.models.complexity import Complexity
from keras_mobileone.quantization.qat import wrapped_layers
from keras_mobileone.quantization.qat_model import KERNELS, PREFIX, kernels_unrounded, packages

if TYPE_CHECKING:
    import tf_keras

SPLIT_SUFFIX = "_activation"  # of activations that `trace` made layers of their own


def export_qat(
    qat_model: "tf_keras.Model",
    path: str | os.PathLike,
    *,
    normalize: bool | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    labels: Sequence[str] | None = None,
    about: About | None = None,
) -> ExportReport:
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
        An `ExportReport` as `export_tflite` returns it. Its `error` compares the file with
        `qat_model`.

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
    wrapped = wrapped_layers(qat_model)
    _check_arguments(qat_model, path, input_dtype, output_dtype)
    config = getattr(qat_model, CONFIG_KEY)
    file, normalization = config_of_file(config, normalize)
    labels = default_labels(qat_model, labels)
    names = [_original_name(name, wrapped) for name in qat_model.output_names]
    content = _convert(qat_model, names, normalization, input_dtype, output_dtype)
    _require_integers(content)
    name = qat_model.name
    content = with_metadata(content, name, about or About(), labels, file)
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    images = random_images(qat_model)
    reference = _outputs(qat_model, config.normalize(images))
    report = ExportReport(
        path=path,
        precision="int8",
        bytes=len(content),
        inputs=inputs,
        outputs=outputs,
        operators=flatbuffer.operator_counts(content),
        image_config=file,
        labels=None if labels is None else tuple(labels),
        expected=expected_classes(content, labels),
        error=largest_error(
            content, file.normalize(images), dict(zip(names, reference, strict=True))
        ),
        compared="noise",
        train=None,
        deploy=_complexity(wrapped),
        quantization=None,
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return report


def _check_arguments(
    qat_model: "tf_keras.Model", path: Path, input_dtype: str, output_dtype: str
) -> None:
    for argument, value in (("input_dtype", input_dtype), ("output_dtype", output_dtype)):
        if value not in INTEGER_TYPES:
            raise InputValueError(
                f"`{argument}` must be one of {', '.join(INTEGER_TYPES)}. Received: {value!r}."
            )
    if path.suffix != ".tflite":
        raise InputValueError(f"`path` must end in .tflite. Received: {path}.")
    if None in qat_model.input_shape[1:]:
        raise InputValueError(
            "Expected a model with a fixed image size. "
            f"Received: {qat_model.name!r} with input shape {qat_model.input_shape}."
        )
    require_writable(path)


def _original_name(name: str, names: dict[str, Any]) -> str:
    """Name that an output has in the model that `quantize_aware` was given."""
    name = name.removeprefix(PREFIX)
    source = name.removesuffix(SPLIT_SUFFIX)
    return source if source in names else name


def _convert(
    qat_model: "tf_keras.Model",
    names: list[str],
    normalization: ImageConfig | None,
    input_dtype: str,
    output_dtype: str,
) -> bytes:
    """Converts a model of `quantize_aware` to the content of a TFLite file.

    The converter takes over the ranges of the activations. Kernels it quantizes itself, for each
    output channel, to the same integers as in training.
    """
    import tensorflow as tf

    def serve(image: Tensor) -> dict[str, Tensor]:
        if normalization:
            image = tf.quantization.fake_quant_with_min_max_args(image, *PIXELS)
            image = normalized(image, normalization)
        outputs = tf.nest.flatten(qat_model(image, training=False))
        return dict(zip(names, outputs, strict=True))

    input_name = PIXEL_INPUT if normalization else NORMALIZED_INPUT
    with kernels_unrounded():
        return convert_function(
            serve,
            (input_name, qat_model.input_shape[1:]),
            qat_model.variables,
            "int8",
            input_dtype=input_dtype,
            output_dtype=output_dtype,
        )


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


def _outputs(qat_model: "tf_keras.Model", images: np.ndarray) -> list[np.ndarray]:
    import tensorflow as tf

    return [output.numpy() for output in tf.nest.flatten(qat_model(images, training=False))]


def _complexity(wrapped: dict[str, Any]) -> Complexity:
    """Parameters and multiply-accumulates, counted as `model_complexity` does."""
    parameters = macs = dense_macs = 0
    for wrapper in wrapped.values():
        layer, kind = wrapper.layer, type(wrapper.layer).__name__
        if kind in KERNELS:
            kernel = math.prod(getattr(layer, KERNELS[kind]).shape)
            parameters += kernel + (math.prod(layer.bias.shape) if layer.use_bias else 0)
            work = math.prod(wrapper.output_shape[1:-1]) * kernel
            macs += work
            dense_macs += work if kind == "Dense" else 0
        elif kind == "GlobalAveragePooling2D":
            macs += math.prod(wrapper.input_shape[1:])
    return Complexity(parameters, 0, macs, dense_macs)
