"""`export_tflite`: from a Keras model to a TFLite file that has been compared with it.

The file normalizes pixels itself by default, since MediaPipe refuses files whose metadata ask for
another mean and standard deviation in each channel ("Per-channel image normalization is not
available", mediapipe 1.2.2).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import INTEGER, INTEGER_TYPES, PRECISIONS
from keras_mobileone.data.image_config import ImageConfig, config_of_file, image_config
from keras_mobileone.data.imagenet import top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputValueError, VerificationError
from keras_mobileone.export.report import ExportReport
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.metadata import read_file_config, with_metadata
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import as_functional, in_float32, output_names
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.ptq import quantize

COMPARED_IMAGES = 8
# Largest difference from Keras over the largest magnitude of an output, beyond which an export has
# failed. Rounding costs a well-behaved network a hundredth of these; int8 of a network with random
# weights comes near its limit.
ERROR_LIMITS = {
    "float32": 1e-3,
    "float16": 5e-2,
    "int8-dynamic": 0.5,
    "int8": 0.5,
    "int16x8": 0.5,
}
TINY = np.finfo(np.float32).tiny


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration: Any = None,
    *,
    normalize: bool | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    plain: bool = False,
    labels: Sequence[str] | None = None,
    about: About | None = None,
    verify: bool = True,
) -> ExportReport:
    """Writes `model` as a TFLite file with a fixed batch of 1, metadata and labels.

    The file is run on photographs, fed as its metadata say, and compared with `model` as given.

    Args:
        model: Keras model with one image input of fixed size: Functional, Sequential, nested, or
            subclassed if it can be called on a symbolic input. MobileOne blocks are fused first;
            `model` itself stays untouched.
        path: File to write, ending in `.tflite`. If anything fails, there is no file.
        precision: `"float32"`; `"float16"` weights; `"int8-dynamic"`, int8 weights with activations
            quantized on the fly; `"int8"`, integers throughout; `"int16x8"`, integers with 16-bit
            activations: more accurate, slow, since LiteRT has no fast kernels for it.
        calibration: For `"int8"` and `"int16x8"`, images that set the ranges of the activations:
            a directory, a list of paths, an array (count, height, width, 3), or an iterable of such
            batches, with labels or without. Arrays are in the units that the file takes: 0 … 255
            with `normalize`, else what the model takes.
        normalize: True: the file takes RGB pixels 0 … 255, under the input name `"pixels"` if it
            normalizes them before the model does. False: it takes what the model takes. None: True
            for a model of RGB images. What the model takes is found by `image_config`; where its
            graph is not clear, True stands for what `preprocess_input` returns, False for pixels.
        input_dtype: For `"int8"`: `"float32"`, `"int8"` or `"uint8"` at the file's input.
        output_dtype: For `"int8"`: the type at the file's output, likewise.
        plain: For `"int8"` and `"int16x8"` the converter's own result, without equalization and
            correction, for comparison.
        labels: Names of the classes in the order of the outputs, for the metadata. None: those that
            the model carries, else ImageNet's for a model of 1,000 classes.
        about: What the metadata say of the model.
        verify: Whether an error beyond the limit of the precision (`ERROR_LIMITS`) is refused. The
            limit does not hold for `plain`.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: For arguments out of range or contradicting each other, a missing calibration,
            an image size left open, labels that are not as many as the outputs, a model whose
            graph does not tell what it takes.
        TypeError: If `model` is subclassed and has no graph.
        ArithmeticError: If the file's outputs are too far from the model's.
        OSError: If `path` can't be written.

    Example:

    >>> model = km.MobileOneS0(weights=None, input_shape=(64, 64, 3))
    >>> km.export_tflite(model, "mobileone_s0.tflite").bytes < 8.4e6
    True
    """
    path = Path(path)
    _check_arguments(path, precision, calibration, input_dtype, output_dtype)
    functional = copy_attachment(model, as_functional(model))
    _check_input(functional)
    config = image_config(functional, normalize)
    file, wrapped = config_of_file(config, normalize)
    labels = default_labels(functional, config.labels if labels is None else labels)
    unfused = has_blocks(functional)
    deploy = copy_attachment(functional, in_float32(fuse(functional) if unfused else functional))
    quantization = None
    names = output_names(functional)
    types = {"input_dtype": input_dtype, "output_dtype": output_dtype}
    ends = {"normalize": wrapped, "output_names": names}
    if precision not in INTEGER:
        images = None
        content = convert(deploy, precision, **ends)
    else:
        images = calibration_images(calibration, file)
        if precision == "int8" and not plain:
            quantization = quantize(deploy, images, normalize=normalize, **types)
            content = quantization.content
        else:
            source = deploy
            if not plain:
                source = equalize(deploy, wrapped.normalize(images) if wrapped else images).model
            content = convert(source, precision, images, **ends, **types)
    content = with_metadata(content, model.name, about or About(), labels, file)
    compared, error = _compare(in_float32(functional), config, content, names, images)
    limit = ERROR_LIMITS[precision]
    if verify and not plain and not error <= limit:
        raise VerificationError(
            f"Expected outputs of the file within {limit:g} of those of "
            f"{model.name!r}, relative to their largest magnitude. Received: {error:.2g} on "
            f"{compared}. No file was written. Pass verify=False to write it nevertheless."
        )
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    report = ExportReport(
        path=path,
        precision=precision,
        bytes=len(content),
        inputs=inputs,
        outputs=outputs,
        operators=flatbuffer.operator_counts(content),
        image_config=file,
        labels=labels and tuple(labels),
        expected=expected_classes(content, labels),
        error=error,
        compared=compared,
        train=model_complexity(functional) if unfused else None,
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


def _check_input(model: keras.Model) -> None:
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        inputs = f"{len(model.inputs)} inputs of shapes" if len(model.inputs) > 1 else "input shape"
        raise InputValueError(
            "Expected a model with one image input of fixed size, since phones' accelerators "
            f"refuse open ones. Received: {model.name!r} with {inputs} {shape}. "
            + (
                "Make a model of the part that takes the image."
                if len(model.inputs) > 1
                else "Build it with input_shape=(height, width, channels)."
            )
        )


def expected_classes(
    content: bytes, labels: Sequence[str] | None
) -> tuple[tuple[str, float], ...] | None:
    """The best classes of the example image by the file itself, fed as its metadata say."""
    run, config = LiteRTRunner(content), read_file_config(content)
    if not config.is_rgb or len(run.outputs) != 1 or len(run.outputs[0].shape) != 2:
        return None
    image = config.normalize(example_image(config.image_size))
    return top_labels(run(image[None])[run.outputs[0].name][0], labels)


def _compare(
    model: keras.Model,
    config: ImageConfig,
    content: bytes,
    names: Sequence[str],
    calibration: np.ndarray | None,
) -> tuple[str, float]:
    """How far the outputs of a file are from those of the model that was given.

    The two are fed by different ways: the model as its configuration says, the file as a client
    feeds it that knows nothing but its metadata.

    Args:
        model: The model as given.
        config: How it takes images.
        content: The file with its metadata.
        names: Of the model's outputs, in order.
        calibration: Images in the units of the file, or None.

    Returns:
        What they were compared on, and the largest difference of any output over the largest
        magnitude of that output.
    """
    run, file = LiteRTRunner(content), read_file_config(content)
    if len(run.outputs) != len(names):
        raise VerificationError(
            f"Expected a file with the {len(names)} outputs of {model.name!r}. Received: "
            f"{len(run.outputs)}. Give each output a layer of its own, such as Identity."
        )
    if calibration is not None:
        # The ranges of an integer file are made for such images and no others.
        images = calibration[:COMPARED_IMAGES]
        wraps = file.takes_pixels and not config.takes_pixels
        reference = config.normalize(images) if wraps else images
        compared = "calibration images"
    elif config.is_rgb:
        pixels = np.concatenate([example_image(config.image_size)[None], random_images(model)])
        images, reference = file.normalize(pixels), config.normalize(pixels)
        compared = "a photograph and noise"
    else:
        images = reference = random_images(model).astype(np.float32)
        compared = "noise"
    expected = keras.tree.flatten(model.predict_on_batch(reference))
    return compared, largest_error(content, images, dict(zip(names, expected, strict=True)))


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
        worst = max(worst, float(np.abs(difference).max() / max(np.abs(expected).max(), TINY)))
    return worst


def random_images(model: Any) -> np.ndarray:
    """Random pixels for a model of RGB images, else standard normal values."""
    rng = np.random.default_rng(0)
    shape = (COMPARED_IMAGES - 1, *model.input_shape[1:])
    return rng.integers(0, 256, shape, np.uint8) if shape[3] == 3 else rng.standard_normal(shape)
