"""`export_tflite`: from a Keras model to a TFLite file that has been compared with it.

The file normalizes pixels itself by default, since MediaPipe refuses files whose metadata ask for
another mean and standard deviation in each channel ("Per-channel image normalization is not
available", mediapipe 1.2.2).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import INTEGER, INTEGER_TYPES, PRECISIONS
from keras_mobileone.data.imagenet import (
    preprocess_input,
    top_labels,
)
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.report import ExportReport
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.metadata import with_metadata
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import in_float32, require_graph
from keras_mobileone.quantization.calibration import calibration_images, scales_itself
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.ptq import quantize

COMPARED_IMAGES = 8


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration=None,
    *,
    normalize: bool | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    plain: bool = False,
    labels: Sequence[str] | None = None,
    about: About | None = None,
) -> ExportReport:
    """Writes `model` as a TFLite file with a fixed batch of 1, metadata and labels.

    Args:
        model: Functional or Sequential model with one image input of fixed size. MobileOne blocks
            are fused first; `model` itself stays untouched.
        path: File to write, ending in `.tflite`. It appears whole or not at all.
        precision: `"float32"`; `"float16"` weights; `"int8-dynamic"`, int8 weights with activations
            quantized on the fly; `"int8"`, integers throughout; `"int16x8"`, the same with 16-bit
            activations: more accurate, slow, since LiteRT has no fast kernels for it.
        calibration: For `"int8"` and `"int16x8"`, images that set the ranges of the activations:
            a directory, an array (count, height, width, 3), or an iterable of such batches. Arrays
            are in the units that the file will take: 0 … 255 with `normalize`, else normalized.
        normalize: True: the file takes RGB pixels 0 … 255 under the input name `"pixels"`, and
            normalizes them. False: it takes what the model takes, under the name `"image"`. None:
            True for a model of RGB images, unless a Rescaling or Normalization layer shows that
            it takes pixels already.
        input_dtype: For `"int8"`: `"float32"`, `"int8"` or `"uint8"` at the file's input.
        output_dtype: The same at its output.
        plain: For `"int8"` and `"int16x8"` the converter's own result, without equalization and
            correction: for comparison.
        labels: Names of the classes in the order of the outputs, for the metadata. None:
            ImageNet's for a model of 1,000 classes, none for another.
        about: What the metadata say of the model.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: For arguments out of range or contradicting each other, a missing calibration,
            an image size left open, labels that are not as many as the outputs.
        TypeError: If `model` is not Functional or Sequential.
        OSError: If `path` can't be written.

    Example:

    >>> model = keras_mobileone.MobileOneS0(weights=None)
    >>> keras_mobileone.export_tflite(model, "mobileone_s0.tflite").bytes < 8.4e6
    True
    """
    path = Path(path)
    _check_arguments(path, precision, calibration, input_dtype, output_dtype)
    _check_input(model, normalize)
    scaled = scales_itself(model)
    if normalize is None:
        normalize = model.input_shape[3] == 3 and not scaled
    labels = default_labels(model, labels)
    unfused = has_blocks(model)
    deploy = in_float32(fuse(model) if unfused else model)
    quantization = None
    types = {"normalize": normalize, "input_dtype": input_dtype, "output_dtype": output_dtype}
    if precision not in INTEGER:
        images, compared = random_images(deploy, normalize), "random input"
        content = convert(deploy, precision, normalize=normalize)
    else:
        images, compared = calibration_images(calibration, deploy, normalize), "calibration images"
        if precision == "int8" and not plain:
            quantization = quantize(deploy, images, **types)
            content = quantization.content
        else:
            source = deploy
            if not plain:
                source = equalize(deploy, preprocess_input(images) if normalize else images).model
            names = deploy.output_names
            content = convert(source, precision, images, output_names=names, **types)
        images = images[:COMPARED_IMAGES]
    about, takes_pixels = about or About(), normalize or scaled
    content = with_metadata(content, model.name, about, labels, takes_pixels=takes_pixels)
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    report = ExportReport(
        path=path,
        precision=precision,
        bytes=len(content),
        inputs=inputs,
        outputs=outputs,
        operators=flatbuffer.operator_counts(content),
        takes_pixels=takes_pixels,
        labels=labels and tuple(labels),
        expected=expected_classes(content, takes_pixels, labels),
        error=largest_error(content, images, _keras_outputs(deploy, images, normalize)),
        compared=compared,
        train=model_complexity(model) if unfused else None,
        deploy=model_complexity(deploy),
        quantization=quantization,
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return report


def require_exportable(precision: str) -> None:
    """Raises ValueError unless files of `precision` can be made here."""
    if keras.backend.backend() != "tensorflow":
        raise InputValueError(
            "TFLite export needs Keras' TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )
    if precision not in PRECISIONS:
        raise InputValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {precision!r}."
        )


def _check_arguments(path, precision, calibration, input_dtype, output_dtype):
    require_exportable(precision)
    if precision in INTEGER and calibration is None:
        raise InputValueError(
            f"`calibration` is required for precision {precision!r}. Received: calibration=None. "
            "Pass a directory of images, an array or an iterable of batches."
        )
    for argument, value in (("input_dtype", input_dtype), ("output_dtype", output_dtype)):
        if value not in INTEGER_TYPES:
            raise InputValueError(
                f"`{argument}` must be one of {', '.join(INTEGER_TYPES)}. Received: {value!r}."
            )
        if value != "float32" and precision != "int8":
            raise InputValueError(
                f"`{argument}` can be an integer only with precision 'int8'. "
                f"Received: {argument}={value!r} with precision={precision!r}."
            )
    if path.suffix != ".tflite":
        raise InputValueError(f"`path` must end in .tflite. Received: {path}.")
    require_writable(path)


def _check_input(model, normalize):
    require_graph(model)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise InputValueError(
            "Expected a model with one image input of fixed size, since phones' accelerators "
            f"refuse open ones. Received: {model.name!r} with input shape {shape}. "
            "Build it with input_shape=(height, width, channels)."
        )
    if normalize and shape[3] != 3:
        raise InputValueError(
            f"`normalize` needs a model of RGB images. Received: {shape[3]} channels. "
            "Pass normalize=False, and normalize where the file is used."
        )


def expected_classes(content, takes_pixels, labels) -> tuple[tuple[str, float], ...] | None:
    """The best classes of the example image by the file itself."""
    run = LiteRTRunner(content)
    shape = run.inputs[0].shape
    if shape[3] != 3 or len(run.outputs) != 1 or len(run.outputs[0].shape) != 2:
        return None
    image = example_image(shape[1:3])
    batch = (image.astype(np.float32) if takes_pixels else preprocess_input(image))[None]
    return top_labels(run(batch)[run.outputs[0].name][0], labels)


def random_images(model, normalize) -> np.ndarray:
    """Random pixels as the file takes them; normal values for a model that is not of RGB images."""
    rng = np.random.default_rng(0)
    shape = (COMPARED_IMAGES, *model.input_shape[1:])
    if shape[3] != 3:
        return rng.standard_normal(shape).astype(np.float32)
    pixels = rng.integers(0, 256, shape, np.uint8)
    return pixels.astype(np.float32) if normalize else preprocess_input(pixels)


def largest_error(content: bytes, images: np.ndarray, outputs: dict[str, np.ndarray]) -> float:
    """Largest difference between a file's outputs and those given, relative to their magnitude.

    Args:
        content: Of the file.
        images: As the file takes them.
        outputs: What the source gives for the same images, by the names of the file's outputs.
    """
    run = LiteRTRunner(content)
    found = [run(image[None]) for image in images]
    worst = 0.0
    for name, expected in outputs.items():
        difference = np.concatenate([output[name] for output in found]) - expected
        worst = max(worst, float(np.abs(difference).max() / np.abs(expected).max()))
    return worst


def _keras_outputs(model, images, normalize) -> dict[str, np.ndarray]:
    """A model's outputs by name, for images in the units of the file's input."""
    outputs = model.predict_on_batch(preprocess_input(images) if normalize else images)
    return dict(zip(model.output_names, keras.tree.flatten(outputs), strict=True))
