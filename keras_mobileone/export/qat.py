"""`export_qat`: writes a quantization-aware tf-keras model as a full-integer TFLite file."""

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
from keras_mobileone.export.checking import random_images
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.tflite import measure_deviation, write_file
from keras_mobileone.files import require_writable
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import Tensor, convert_function, normalized
from keras_mobileone.litert.metadata import with_metadata
from keras_mobileone.litert.runner import NORMALIZED_INPUT, PIXEL_INPUT
from keras_mobileone.models.attachment import CONFIG_KEY
from keras_mobileone.models.complexity import Complexity
from keras_mobileone.quantization.qat import on_pixels, wrapped_layers
from keras_mobileone.quantization.qat_model import KERNELS, PREFIX, kernels_unrounded, packages

if TYPE_CHECKING:
    import tf_keras

SPLIT_SUFFIX = "_activation"  # ends the name of an activation that `trace` made a separate layer


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
    """Writes a quantization-aware model as a full-integer TFLite file with the learned ranges.

    The file has a fixed batch of 1, int8 kernels with a scale for each output channel, metadata and
    labels. Repeated exports of a model give identical files.

    Args:
        qat_model: Result of `quantize_aware`, trained or not.
        path: File to write, ending in `.tflite`. An existing file is replaced atomically.
        normalize: As in `export_tflite`.
        input_dtype: Type of the file's input: `"float32"`, `"int8"` or `"uint8"`.
        output_dtype: Type of the file's output: `"float32"`, `"int8"` or `"uint8"`.
        labels: As in `export_tflite`.
        about: Description, author, license and version for the metadata.

    Returns:
        An `ExportReport`. Its `error` compares the file with `qat_model`.

    Raises:
        ImportError: If the extra `[qat]` is not installed.
        ValueError: If `qat_model` was not made by `quantize_aware` or has an open image size, if
            the suffix of `path` or a type is not one of those above, or if an operator would stay
            in floating point. The message names the tensor of the operator.
        OSError: If `path` cannot be written.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(
        ...     tiny, weights=None, input_shape=(32, 32, 3), classes=10, deploy=True
        ... )
        >>> images = km.preprocess_input(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)))
        >>> student = km.quantize_aware(model, calibration=images)
        >>> report = km.export_qat(student, "model.tflite", input_dtype="uint8")
        >>> report.precision, report.inputs[0].dtype
        ('int8', 'uint8')
    """
    packages()
    path = Path(path)
    wrapped = wrapped_layers(qat_model)
    _check_arguments(qat_model, path, input_dtype, output_dtype)
    config = getattr(qat_model, CONFIG_KEY)
    file, normalization = config_of_file(config, normalize)
    classes = default_labels(qat_model, labels)
    names = [_original_name(name, wrapped) for name in qat_model.output_names]
    content = _convert(qat_model, names, normalization, input_dtype, output_dtype)
    _require_integers(content)
    name, about = qat_model.name, about or About()
    content = with_metadata(content, name, about, classes, file)
    images = random_images(qat_model)
    reference = _outputs(qat_model, config.normalize(images))
    deviation = measure_deviation(
        content, file.normalize(images), dict(zip(names, reference, strict=True))
    )
    return write_file(
        path,
        content,
        file,
        classes,
        name=name,
        about=about,
        precision="int8",
        error=deviation.error,
        sqnr=deviation.sqnr,
        compared="noise",
        train=None,
        deploy=_complexity(wrapped),
        quantization=None,
    )


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
            f"Received: {qat_model.name!r} with input shape {qat_model.input_shape}. "
            "Build the model with input_shape=(height, width, 3) before `quantize_aware`."
        )
    require_writable(path)


def _original_name(name: str, names: dict[str, Any]) -> str:
    """Returns the name of an output in the model that was passed to `quantize_aware`."""
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

    The converter adopts the ranges of the activations. It quantizes the kernels itself, with a
    scale for each output channel, to the same integers as in training. Only the first convolutions
    of a file that takes pixels have others, since they absorb the normalization.
    """
    import tensorflow as tf

    taking_pixels = on_pixels(qat_model, normalization) if normalization else None
    model = taking_pixels or qat_model

    def serve(image: Tensor) -> dict[str, Tensor]:
        if normalization and not taking_pixels:
            image = tf.quantization.fake_quant_with_min_max_args(image, *PIXELS)
            image = normalized(image, normalization)
        outputs = tf.nest.flatten(model(image, training=False))
        return dict(zip(names, outputs, strict=True))

    input_name = PIXEL_INPUT if normalization else NORMALIZED_INPUT
    with kernels_unrounded():
        return convert_function(
            serve,
            (input_name, qat_model.input_shape[1:]),
            model.variables,
            "int8",
            input_dtype=input_dtype,
            output_dtype=output_dtype,
        )


def _require_integers(content: bytes) -> None:
    """Raises ValueError if a TFLite file has float tensors other than its inputs and outputs."""
    graph = flatbuffer.parse(content).subgraphs[0]
    ends = {int(index) for index in (*graph.inputs, *graph.outputs)}
    for index, tensor in enumerate(graph.tensors):
        if tensor.type == flatbuffer.tensor_type("FLOAT32") and index not in ends:
            raise InputValueError(
                "Expected integers throughout the file. "
                f"Received: the float tensor {tensor.name.decode()!r}, whose operator TFLite's "
                "converter does not quantize. Replace the layer that the tensor belongs to."
            )


def _outputs(qat_model: "tf_keras.Model", images: np.ndarray) -> list[np.ndarray]:
    """Runs a model of `quantize_aware` and returns its outputs in order."""
    import tensorflow as tf

    return [output.numpy() for output in tf.nest.flatten(qat_model(images, training=False))]


def _complexity(wrapped: dict[str, Any]) -> Complexity:
    """Counts parameters and multiply-accumulates as `model_complexity` does."""
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
