"""Python code that classifies a photograph with an exported file, for each runtime."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import EXAMPLE_IMAGE
from keras_mobileone.export.openvino import FLOAT32, SECTION
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.saved_model import EXTRA_DIRECTORY, SIGNATURE
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.litert.metadata import LABELS_FILE

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}  # lowest and highest integer


@dataclass(frozen=True)
class Runtime:
    """The lines that differ from one runtime to the other.

    Attributes:
        imports: Import of the runtime.
        run: Lines that compute `scores`, (classes,), from `x`.
        labels_import: Import from the standard library that `labels` needs.
        labels: Line that reads the labels.
    """

    imports: str
    run: list[str]
    labels_import: str
    labels: str


def python_code(report: ExportReport) -> str:
    """Writes Python code that prints the five best classes of the example image."""
    (target,) = report.outputs
    runtime = RUNTIMES[report.format](report)
    lines = [f"{runtime.labels_import}\n"] if report.labels else []
    lines += [
        "import numpy as np",
        runtime.imports,
        "from PIL import Image",
        "",
        *input_lines(report),
        *runtime.run,
    ]
    lines += dequantization_lines(target)
    if report.labels:
        lines.append(runtime.labels)
    shown = "labels[i]" if report.labels else "i"
    lines += ["for i in (-scores).argsort()[:5]:", f'    print({shown}, f"{{scores[i]:.3f}}")']
    return "\n".join(lines) + "\n"


def dequantization_lines(target: TensorInfo) -> list[str]:
    """Writes the line that makes real numbers of quantized `scores`, if they are quantized."""
    if target.scale is None:
        return []
    return [f"scores = (scores.astype(np.float32) - ({target.zero_point})) * {target.scale:.9g}"]


def input_lines(report: ExportReport) -> list[str]:
    """Writes the lines that make the input `x` of the example image `photo`."""
    (source,) = report.inputs
    _, height, width, _ = source.shape
    stored = source.scale is None or plain_bytes(report)  # the input needs no quantization
    stretch = report.image_config is not None and report.image_config.stretch
    note = "stretched, whatever its shape" if stretch else "a square crop"
    lines = [
        f'photo = Image.open("{EXAMPLE_IMAGE}").convert("RGB")  # {note}',
        f"image = photo.resize(({width}, {height}), Image.Resampling.BILINEAR)",
        f"x = np.asarray(image, np.{source.dtype if stored else 'float32'})[None]",
    ]
    statistics = image_statistics(report.image_config)
    if statistics is not None:
        mean, std = map(numbers, statistics)
        lines.append(f"x = (x - np.float32({mean})) / np.float32({std})")
    if source.scale is not None and not plain_bytes(report):
        low, high = LIMITS[source.dtype]
        lines += [
            f"x = np.round(x / {source.scale:.9g}) + {source.zero_point}",
            f"x = x.clip({low}, {high}).astype(np.{source.dtype})",
        ]
    return lines


def _litert(report: ExportReport) -> Runtime:
    file, source, target = report.path.name, report.inputs[0].name, report.outputs[0].name
    return Runtime(
        "from ai_edge_litert.interpreter import Interpreter",
        [
            f'run = Interpreter("{file}").get_signature_runner()',
            f'scores = run({source}=x)["{target}"][0]',
        ],
        "import zipfile",
        f'labels = zipfile.ZipFile("{file}").read("{LABELS_FILE}").decode().splitlines()',
    )


def _onnxruntime(report: ExportReport) -> Runtime:
    file, source, target = report.path.name, report.inputs[0].name, report.outputs[0].name
    return Runtime(
        "import onnxruntime",
        [
            f'session = onnxruntime.InferenceSession("{file}")',
            f'scores = session.run(["{target}"], {{"{source}": x}})[0][0]',
        ],
        "import json",
        'labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])',
    )


def _openvino(report: ExportReport) -> Runtime:
    file, source, target = report.path.name, report.inputs[0].name, report.outputs[0].name
    return Runtime(
        "import openvino",
        [
            f'graph = openvino.Core().read_model("{file}")',
            "# Without the hint, processors with bfloat16 compute in it, which is faster.",
            f'model = openvino.compile_model(graph, "CPU", {json.dumps(FLOAT32)})',
            f'scores = model({{"{source}": x}})["{target}"][0]',
        ],
        "import json",
        f'labels = json.loads(graph.get_rt_info(["{SECTION}", "labels"]).value)',
    )


def _tensorflow(report: ExportReport) -> Runtime:
    file, source, target = report.path.name, report.inputs[0].name, report.outputs[0].name
    return Runtime(
        "import tensorflow as tf",
        [
            f'model = tf.saved_model.load("{file}")',
            f'run = model.signatures["{SIGNATURE}"]',
            f'scores = run({source}=tf.constant(x))["{target}"][0].numpy()',
        ],
        "import pathlib",
        f'labels = pathlib.Path("{file}/{EXTRA_DIRECTORY}/{LABELS_FILE}").read_text().splitlines()',
    )


RUNTIMES: dict[str, Callable[[ExportReport], Runtime]] = {
    "tflite": _litert,
    "onnx": _onnxruntime,
    "openvino": _openvino,
    "saved_model": _tensorflow,
}


def image_statistics(
    config: ImageConfig | None,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns the mean and standard deviation that the app must apply; None if it passes pixels."""
    if config is None or config.mean is None or config.std is None or config.takes_pixels:
        return None
    return config.mean, config.std


def plain_bytes(report: ExportReport) -> bool:
    """Returns whether the file takes the bytes of an image without conversion."""
    (source,) = report.inputs
    pixels = report.image_config is not None and report.image_config.takes_pixels
    return pixels and source[2:] == ("uint8", 1, 0)


def numbers(constants: Sequence[float]) -> str:
    """Formats numbers as a Python list."""
    return "[" + ", ".join(f"{value:.7g}" for value in constants) + "]"
