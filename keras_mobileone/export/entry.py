"""`export`: one entry to every format."""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_mobileone.about import About
from keras_mobileone.errors import InputTypeError
from keras_mobileone.export.coreml import export_coreml
from keras_mobileone.export.formats import Format, find_format, require_precision
from keras_mobileone.export.onnx import export_onnx
from keras_mobileone.export.openvino import export_openvino
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.saved_model import export_saved_model
from keras_mobileone.export.snippets import usage
from keras_mobileone.export.tflite import export_tflite

EXPORTS: dict[str, Callable[..., ExportReport]] = {
    "tflite": export_tflite,
    "coreml": export_coreml,
    "onnx": export_onnx,
    "openvino": export_openvino,
    "saved_model": export_saved_model,
}


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str | None = None,
    precision: str | None = None,
    *,
    normalize: bool | None = None,
    labels: Sequence[str] | None = None,
    about: About | None = None,
    **options: Any,
) -> ExportReport:
    """Writes `model` as a file of any format, and compares the file with Keras.

    MobileOne blocks are fused first, and the file has a fixed batch of 1; `model` itself is not
    changed. Where a runtime of the format is installed, the file is run on images that are prepared
    as its metadata say.

    Args:
        model: Functional, Sequential, nested, or subclassed model whose inputs have fixed sizes.
            TFLite and Core ML take models with one image input; the other formats take any.
        path: File or directory to write. If the export fails, nothing is written.
        format: `"tflite"`, `"coreml"`, `"onnx"`, `"openvino"` or `"saved_model"`. None: the format
            of the suffix of `path`, which is `.tflite`, `.mlpackage`, `.onnx` or `.xml`.
        precision: A precision of the format, see `ExportReport` and the table of the formats.
            None: float16 for Core ML, otherwise float32.
        normalize: True: the file takes RGB pixels 0 … 255, and for Core ML an image. If the model
            does not normalize them, the file does, and its input is named `"pixels"`. False: the
            file takes what the model takes, and its image input is named `"image"`. None: True for
            a model of RGB images.
        labels: Names of the classes in the order of the outputs. None: the labels attached to the
            model, or else ImageNet's for a model of 1,000 classes.
        about: Description, author, license and version for the metadata.
        **options: For TFLite, the other arguments of `export_tflite`; for Core ML, those of
            `export_coreml`. For the formats other than Core ML, `images`: a directory, a list of
            paths, an array or batches, on which the file is compared with Keras instead of a
            photograph and noise; and `verify`: whether to refuse a file whose error is beyond the
            limit of its precision, by default True.

    Returns:
        An `ExportReport`, for Core ML a `CoreMLReport`.

    Raises:
        ValueError: If the format or the precision is unknown, the suffix of `path` is that of
            another format, the model is not built or has an open size, or arguments do not fit it.
        TypeError: If `model` is not a Keras model or has no graph, or if the format does not have
            an option.
        ArithmeticError: If the outputs of the file differ too much from those of the model.
        ImportError: If a package is missing. The message names the extra that installs it.
        OSError: If `path` cannot be written, or is a directory of a format and exists.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(tiny, weights=None, input_shape=(32, 32, 3), classes=2)
        >>> report = km.export(model, "model.tflite", labels=["tench", "dog"])
        >>> report.format, report.error < 1e-4, list(report.snippets)
        ('tflite', True, ['python', 'kotlin'])
        >>> km.export(model, "saved", format="saved_model").inputs[0].shape
        (1, 32, 32, 3)
    """
    path = Path(path)
    form = find_format(path, format)
    precision = form.precisions[0] if precision is None else precision
    require_precision(precision, form)
    _check_options(form, options)
    if form.name == "coreml":  # whose package normalizes images, and takes a multi-array otherwise
        options.setdefault("image", normalize is not False)
    report = EXPORTS[form.name](
        model, path, precision, normalize=normalize, labels=labels, about=about, **options
    )
    return replace(report, snippets=usage(report).snippets)


def _check_options(form: Format, options: dict[str, Any]) -> None:
    """Raises TypeError if the export of a format does not have an option."""
    parameters = list(inspect.signature(EXPORTS[form.name]).parameters)[3:]
    known = [name for name in parameters if name not in ("normalize", "labels", "about")]
    for name in options:
        if name not in known:
            raise InputTypeError(
                f"Expected options that {form.title} export has: {', '.join(known)}. "
                f"Received: {name!r}. Leave it out."
            )
