"""`export_tflite`: writes a Keras model as a TFLite file and compares the two.

By default the file normalizes pixels itself, since MediaPipe refuses files whose metadata ask for a
different mean and standard deviation in each channel ("Per-channel image normalization is not
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
from keras_mobileone.data.image_config import (
    ImageConfig,
    config_of_file,
    image_config,
    image_shape,
)
from keras_mobileone.data.imagenet import top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputValueError, VerificationError
from keras_mobileone.export.checking import (
    COMPARED_IMAGES,
    Deviation,
    check_deviation,
    compared_images,
    deviation_of,
    exportable,
)
from keras_mobileone.export.network import require_tensorflow
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.tasks import FileForm, task_name
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.litert import flatbuffer
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.gpu import gpu_warnings
from keras_mobileone.litert.metadata import require_file_config, with_metadata
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import in_float32, output_names
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.ptq import quantize_images


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
    images: Any = None,
    verify: bool = True,
    nms: bool = True,
) -> ExportReport:
    """Writes `model` as a TFLite file with a fixed batch of 1, metadata and labels.

    The file is run on images that are prepared according to its metadata, and its outputs are
    compared with those of `model`.

    Args:
        model: Keras model with one image input of fixed size: Functional, Sequential, nested, or
            subclassed if it can be called on a symbolic input. MobileOne blocks are fused first;
            `model` itself is not changed.
        path: File to write, ending in `.tflite`. If the export fails, no file is written.
        precision: `"float32"`; `"float16"` weights; `"int8-dynamic"`, int8 weights with activations
            quantized on the fly; `"int8"`, integers throughout; `"int16x8"`, integers with 16-bit
            activations, which is more accurate but slow, since LiteRT has no fast kernels for it.
        calibration: For `"int8"` and `"int16x8"`, images that set the ranges of the activations:
            a directory, a list of paths, an array (count, height, width, 3), or an iterable of such
            batches, with or without labels, such as a batched `tf.data.Dataset`. Arrays are in the
            units that the file takes: pixels 0 … 255 if the file normalizes, otherwise the values
            that the model takes.
        normalize: True: the file takes RGB pixels 0 … 255. If the model does not normalize them,
            the file does, and its input is named `"pixels"`. False: the file takes what the model
            takes. None: True for a model of RGB images. `image_config` finds out what the model
            takes; where its graph is not clear, True means what `preprocess_input` returns, and
            False means pixels.
        input_dtype: Type of the file's input for `"int8"`: `"float32"`, `"int8"` or `"uint8"`.
        output_dtype: Type of the file's output for `"int8"`: `"float32"`, `"int8"` or `"uint8"`.
        plain: For `"int8"` and `"int16x8"`, whether to keep the converter's own result, without
            equalization and correction, for comparison.
        labels: Names of the classes in the order of the outputs, for the metadata. None: the labels
            attached to the model, or else ImageNet's for a model of 1,000 classes.
        about: Description, author, license and version for the metadata.
        images: Images on which the file is compared with `model`, in any form that `calibration`
            may have. None: for the integer precisions the first calibration images, otherwise a
            photograph and noise.
        verify: Whether to refuse an error beyond the limit of the precision
            (`export.checking.ERROR_LIMITS`). With `plain` there is no limit.
        nms: For a detector, whether the file decodes the boxes and suppresses overlapping ones
            itself, by the operator `TFLite_Detection_PostProcess`, which runs on the CPU. False:
            the file returns the offsets from the anchors and the probabilities of the classes, and
            MediaPipe, which finds the anchors in the metadata, does both.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If arguments are out of range or contradict each other, the calibration is
            missing, the model has several inputs or an open image size, the number of labels is not
            that of the outputs, or the graph of the model does not show what it takes.
        TypeError: If `model` is subclassed and has no graph.
        ArithmeticError: If the outputs of the file differ too much from those of the model.
        OSError: If `path` cannot be written.

    Examples:
        >>> model = km.MobileOneS0(weights=None, classes=2, input_shape=(64, 64, 3), deploy=True)
        >>> report = km.export_tflite(model, "model.tflite", "float16", labels=["tench", "dog"])
        >>> report.inputs[0].name, report.error < 0.01, report.bytes < 2.5e6
        ('pixels', True, True)
    """
    path = Path(path)
    _check_arguments(path, precision, calibration, input_dtype, output_dtype)
    functional = exportable(model)
    _check_input(functional)
    form = FileForm(functional, nms)
    if output_dtype != "float32" and form.model is not functional and nms:
        raise InputValueError(
            "A detector that suppresses boxes itself returns float32. Received: "
            f"output_dtype={output_dtype!r}. Leave it out, or pass nms=False."
        )
    functional = form.model
    config = image_config(functional, normalize)
    file, wrapped = config_of_file(config, normalize)
    classes = default_labels(functional, config.labels if labels is None else labels)
    unfused = has_blocks(functional)
    deploy = copy_attachment(functional, in_float32(fuse(functional) if unfused else functional))
    ranges = calibration_images(calibration, file) if precision in INTEGER else None
    own = None if images is None else calibration_images(images, file)
    names = output_names(functional)
    quantization = None
    if precision == "int8" and ranges is not None and not plain:
        quantization = quantize_images(
            deploy, ranges, wrapped, input_dtype=input_dtype, output_dtype=output_dtype
        )
        content = quantization.content
    else:
        source = deploy
        if ranges is not None and not plain:
            source = equalize(deploy, wrapped.normalize(ranges) if wrapped else ranges).model
        content = convert(source, precision, ranges, wrapped, input_dtype, output_dtype, names)
    about = about or About()
    described = with_metadata(content, model.name, about, classes, file)
    compared, deviation = _compare(in_float32(functional), config, described, names, own, ranges)
    if verify and not plain:
        check_deviation(deviation, precision, model.name, compared)
    content = form.finish(content)
    return write_file(
        path,
        with_metadata(content, model.name, about, classes, file, form.metadata),
        file,
        classes,
        name=model.name,
        about=about,
        precision=precision,
        error=deviation.error,
        sqnr=deviation.sqnr,
        compared=compared,
        train=model_complexity(functional) if unfused else None,
        deploy=model_complexity(deploy),
        quantization=quantization,
        task=task_name(functional),
    )


def write_file(
    path: Path, content: bytes, file: ImageConfig, classes: Sequence[str] | None, **facts: Any
) -> ExportReport:
    """Writes an exported file and describes it in a report.

    Args:
        path: The file to write.
        content: Content of the file, with metadata.
        file: How the file takes images.
        classes: Names of the classes in the file, or None.
        **facts: The other attributes of the report.

    Returns:
        An `ExportReport`.
    """
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    report = ExportReport(
        format="tflite",
        path=path,
        bytes=len(content),
        inputs=inputs,
        outputs=outputs,
        operators=flatbuffer.operator_counts(content),
        image_config=file,
        labels=None if classes is None else tuple(classes),
        expected=expected_classes(content, classes),
        gpu_warnings=gpu_warnings(content),
        **facts,
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return report


def require_exportable(precision: str) -> None:
    """Raises ValueError if `precision` is unknown or Keras' backend cannot export TFLite files."""
    require_tensorflow("TFLite")
    if precision not in PRECISIONS:
        raise InputValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {precision!r}."
        )


def _check_arguments(
    path: Path, precision: str, calibration: Any, input_dtype: str, output_dtype: str
) -> None:
    require_exportable(precision)
    if precision in INTEGER and calibration is None:
        raise InputValueError(
            f"`calibration` is required for precision {precision!r}. Received: calibration=None. "
            "Pass a directory of images, a list of paths, an array or an iterable of batches."
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
    if None in image_shape(model):
        raise InputValueError(
            "Expected a model with one image input of fixed size, since the accelerators of phones "
            f"refuse open sizes. Received: {model.name!r} with input shape {model.input_shape}. "
            "Build it with input_shape=(height, width, channels)."
        )


def expected_classes(
    content: bytes, labels: Sequence[str] | None
) -> tuple[tuple[str, float], ...] | None:
    """Classifies the example image with a file, prepared according to the metadata of the file.

    Args:
        content: Content of the file with its metadata.
        labels: Names of the classes, or None.

    Returns:
        (label, score) of the best classes; None if the file does not classify RGB images.
    """
    run, config = LiteRTRunner(content), require_file_config(content)
    if not config.is_rgb or len(run.outputs) != 1 or len(run.outputs[0].shape) != 2:
        return None
    image = config.normalize(example_image(config.image_size))
    return top_labels(run(image[None])[run.outputs[0].name][0], labels)


def _compare(
    model: keras.Model,
    config: ImageConfig,
    content: bytes,
    names: Sequence[str],
    own: np.ndarray | None,
    calibration: np.ndarray | None,
) -> tuple[str, Deviation]:
    """Compares the outputs of a file with those of the model that was exported.

    Args:
        model: The exported model.
        config: How the model takes images.
        content: Content of the file with its metadata.
        names: Names of the outputs of the model, in order.
        own: Images to compare on, in the units of the file, or None.
        calibration: Calibration images in the units of the file, or None.

    Returns:
        The kind of images that were compared, and the deviation of the file.
    """
    run, file = LiteRTRunner(content), require_file_config(content)
    if len(run.outputs) != len(names):
        raise VerificationError(
            f"Expected a file with the {len(names)} outputs of {model.name!r}. Received: "
            f"{len(run.outputs)}. Give each output a separate layer, such as Identity."
        )
    # The ranges of an integer file fit the calibration images, not noise.
    calibrated = own is None and calibration is not None
    given = own if calibration is None or not calibrated else calibration[:COMPARED_IMAGES]
    images, reference, text = compared_images(model, config, file, given)
    expected = keras.tree.flatten(model.predict_on_batch(reference))
    compared = "calibration images" if calibrated else text
    return compared, measure_deviation(content, images, dict(zip(names, expected, strict=True)))


def measure_deviation(
    content: bytes, images: np.ndarray, outputs: dict[str, np.ndarray]
) -> Deviation:
    """Runs a file and compares its outputs with those of its source.

    Args:
        content: Content of the file.
        images: Images in the units that the file takes.
        outputs: Outputs of the source for the same images, by the names of the file's outputs.
    """
    run = LiteRTRunner(content)
    return deviation_of(outputs, [run(image[None]) for image in images])
