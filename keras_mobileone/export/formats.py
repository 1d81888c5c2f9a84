"""The formats of `keras_mobileone.export`: their suffixes, precisions, packages and checks."""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from keras_mobileone.choices import COMPUTE_PRECISIONS, FORMAT_PRECISIONS, PRECISIONS
from keras_mobileone.errors import InputValueError, MissingPackageError
from keras_mobileone.files import require_writable

KERAS_SUFFIXES = (".keras", ".h5", ".pb")  # of other files of models, which no export writes


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: The value of `format`, and the command after `keras-mobileone export`.
        title: Name in texts.
        suffix: End of the path; empty for a directory, which may have any other name.
        precisions: What `precision` accepts. The first one is the default.
        packages: Modules that the export imports, beyond the dependencies of this package.
        extra: Name of the extra that installs them, or None.
        runtime: Module that runs a file to compare it with Keras, or None.
        checked: What is compared.
        runs_on: Where the files run.
        companion: Suffix of a second file beside the first; empty if there is one file only.
    """

    name: str
    title: str
    suffix: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str | None
    runtime: str | None
    checked: str
    runs_on: str
    companion: str = ""


FORMATS = {
    form.name: form
    for form in (
        Format(
            "tflite",
            "TFLite",
            ".tflite",
            PRECISIONS,
            (),
            None,
            "ai_edge_litert",
            "Each file runs in LiteRT and is compared with Keras. Its operators are compared with "
            "those of the GPU delegate.",
            "Android, iOS, browsers, Linux boards (LiteRT, MediaPipe)",
        ),
        Format(
            "coreml",
            "Core ML",
            ".mlpackage",
            COMPUTE_PRECISIONS,
            ("coremltools",),
            "coreml",
            None,
            "The tests compute packages again in NumPy. Core ML itself predicts on Apple's systems "
            "only.",
            "iOS, macOS (Core ML, Vision)",
        ),
        Format(
            "onnx",
            "ONNX",
            ".onnx",
            FORMAT_PRECISIONS["onnx"],
            ("onnx", "tf2onnx"),
            "onnx",
            "onnxruntime",
            "Each file runs in ONNX Runtime and is compared with Keras.",
            "servers, Windows, browsers, phones (ONNX Runtime)",
        ),
        Format(
            "openvino",
            "OpenVINO",
            ".xml",
            FORMAT_PRECISIONS["openvino"],
            ("openvino",),
            "openvino",
            "openvino",
            "Each file runs in OpenVINO on the CPU and is compared with Keras.",
            "Intel's processors, GPUs and NPUs; Arm processors (OpenVINO)",
            companion=".bin",
        ),
        Format(
            "saved_model",
            "SavedModel",
            "",
            FORMAT_PRECISIONS["saved_model"],
            (),
            None,
            "tensorflow",
            "Each SavedModel is loaded by TensorFlow and compared with Keras.",
            "servers (TensorFlow, TensorFlow Serving), converters",
        ),
    )
}


def find_format(path: Path, name: str | None) -> Format:
    """Returns the format called `name`, or by default that of the suffix of `path`.

    Raises:
        ValueError: If the format is unknown, or contradicts the suffix.
    """
    if name is None:
        by_suffix = {form.suffix: form for form in FORMATS.values() if form.suffix}
        if path.suffix in by_suffix:
            return by_suffix[path.suffix]
        raise InputValueError(
            f"Expected a path that ends in {', '.join(by_suffix)}, or a format. Received: {path} "
            f"without a format. Pass format={' or '.join(map(repr, FORMATS))}."
        )
    if name not in FORMATS:
        raise InputValueError(f"`format` must be one of {', '.join(FORMATS)}. Received: {name!r}.")
    require_suffix(path, FORMATS[name])
    return FORMATS[name]


def require_suffix(path: Path, form: Format) -> None:
    """Raises ValueError if the suffix of `path` is not that of `form`."""
    if form.suffix and path.suffix != form.suffix:
        raise InputValueError(
            f"A path for {form.title} must end in {form.suffix}. Received: {path}. Rename it, or "
            "choose the format that it is named after."
        )
    others = {other.suffix for other in FORMATS.values()} - {""}
    if not form.suffix and path.suffix in (*others, *KERAS_SUFFIXES):
        raise InputValueError(
            f"{form.title} is a directory. Received: {path}, which is named like a file. Pass a "
            f"path without {path.suffix}."
        )


def require_path(path: Path, form: Format) -> None:
    """Raises an error unless `path` can be written in a format.

    Raises:
        ValueError: If the suffix is wrong.
        FileExistsError: If the format is a directory and `path` exists.
        OSError: If the directory of `path` does not exist or is not writable.
    """
    require_suffix(path, form)
    if not form.suffix and os.path.lexists(path):
        raise FileExistsError(
            f"Expected the path of a new directory. Received: {path}, which exists. Remove it, or "
            "choose a different name."
        )
    require_writable(path)
    if form.companion:
        require_writable(path.with_suffix(form.companion))


def require_precision(precision: str, form: Format) -> None:
    """Raises ValueError unless a format has a precision."""
    if precision not in form.precisions:
        raise InputValueError(
            f"`precision` must be one of {', '.join(form.precisions)} for {form.title}. Received: "
            f"{precision!r}."
        )


def require_packages(form: Format) -> None:
    """Raises ImportError unless the packages that a format needs are installed."""
    for package in form.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingPackageError(
                f"{form.title} export needs {package}. Received: {error}. Install it with `pip "
                f"install keras-mobileone[{form.extra}]`."
            ) from error


def formats_markdown() -> str:
    """Writes the table of the formats in Markdown."""
    rows = [
        ("Format", "Path", "Precisions", "Needs", "Checked", "Runs on"),
        ("---",) * 6,
        *(
            (
                f"`{form.name}`",
                " and ".join(f"`*{end}`" for end in (form.suffix, form.companion) if end)
                or "a directory",
                ", ".join(form.precisions),
                f"`keras-mobileone[{form.extra}]`" if form.extra else "nothing more",
                form.checked,
                form.runs_on,
            )
            for form in FORMATS.values()
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
