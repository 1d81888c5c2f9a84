"""Describes how to use an exported file in an app: its properties, and example code."""

from collections.abc import Sequence
from dataclasses import dataclass

from keras_mobileone.data.images import EXAMPLE_IMAGE
from keras_mobileone.export.coreml import CoreMLReport, tensor_values
from keras_mobileone.export.coreml_forms import INPUT as COREML_INPUT
from keras_mobileone.export.coreml_forms import LABEL
from keras_mobileone.export.dense_python import detection_code, segmentation_code
from keras_mobileone.export.dense_snippets import (
    kotlin_detection,
    kotlin_segmentation,
    suits_mediapipe,
    swift_results,
)
from keras_mobileone.export.openvino import SECTION
from keras_mobileone.export.python_code import (
    LIMITS,
    image_statistics,
    numbers,
    plain_bytes,
    python_code,
)
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.saved_model import EXTRA_DIRECTORY
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.litert.metadata import LABELS_FILE

SHOWN_LABELS = 3
# What runs a file, by format.
RUNTIMES = {
    "tflite": "LiteRT",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "saved_model": "TensorFlow",
}
# Where the labels are in a file, by format.
LABEL_PLACES = {
    "tflite": f"`{LABELS_FILE}` inside the file",
    "coreml": "inside the package",
    "onnx": "`labels` of the file's metadata, as a JSON list",
    "openvino": f"`{SECTION}/labels` of `rt_info`, as a JSON list",
    "saved_model": f"`{EXTRA_DIRECTORY}/{LABELS_FILE}`",
}


@dataclass(frozen=True)
class Usage:
    """Explains how an app uses a file.

    Attributes:
        title: Name of the file.
        facts: Properties of the file as (name, value): its size, tensors, preprocessing, labels,
            and the answer for the example image.
        snippets: Example code by language; empty unless the file classifies, segments or finds
            objects in RGB images.
    """

    title: str
    facts: list[tuple[str, str]]
    snippets: dict[str, str]

    def markdown(self, heading: str = "#") -> str:
        """Formats the explanation as Markdown.

        Args:
            heading: Marker of the heading, such as `"##"`.
        """
        parts = [f"{heading} {self.title}"]
        parts += ["\n".join(f"- {name}: {value}" for name, value in self.facts)]
        for language, code in self.snippets.items():
            parts.append(f"```{language}\n{code}```")
        return "\n\n".join(parts) + "\n"


def usage(report: ExportReport) -> Usage:
    """Explains how an app uses the file of any export, with example code."""
    return coreml_usage(report) if isinstance(report, CoreMLReport) else file_usage(report)


def tflite_usage(report: ExportReport) -> Usage:
    """Explains how an app uses a TFLite file, with example code for LiteRT in Python and Kotlin."""
    return file_usage(report)


def file_usage(report: ExportReport) -> Usage:
    """Explains how an app uses a file of a format whose runtime has an interface in Python."""
    facts = [("Size", f"{report.bytes / 1e6:.2f} MB")]
    facts += [("Input", describe(tensor)) for tensor in report.inputs]
    facts += [("Output", describe(tensor)) for tensor in report.outputs]
    if report.task is not None and report.image_config is not None and report.image_config.is_rgb:
        labels = _labels(report.labels, LABEL_PLACES[report.format])
        facts += [("Preprocessing", _preprocessing(report)), ("Labels", labels)]
        return Usage(report.path.name, facts, _dense_snippets(report))
    if report.expected is None:
        return Usage(report.path.name, facts, {})
    facts += [
        ("Preprocessing", _preprocessing(report)),
        ("Labels", _labels(report.labels, LABEL_PLACES[report.format])),
        _expected(report.expected, "Keras" if report.error is None else RUNTIMES[report.format]),
    ]
    snippets = {"python": python_code(report)}
    if report.format == "tflite":
        snippets["kotlin"] = _kotlin(report)
    return Usage(report.path.name, facts, snippets)


def coreml_usage(report: CoreMLReport) -> Usage:
    """Explains how an app uses a Core ML package, with example code in Swift."""
    facts = [("Size", f"{report.bytes / 1e6:.2f} MB")]
    facts += [("Input", f"{COREML_INPUT}: {report.input}"), ("Output", report.output)]
    if report.task is None and report.expected is None:
        return Usage(report.path.name, facts, {})
    facts.append(("Labels", _labels(report.labels, LABEL_PLACES["coreml"])))
    if report.expected is not None:
        facts.append(_expected(report.expected, "Keras; Core ML predictions need an Apple device"))
    swift = _swift_image(report) if report.image else _swift_tensor(report)
    return Usage(report.path.name, facts, {"swift": swift})


def _dense_snippets(report: ExportReport) -> dict[str, str]:
    """Returns example code for a file that segments photographs or finds objects in them."""
    segments = report.task == "segment"
    snippets = {}
    if segments or report.format == "tflite":  # other formats do not decode boxes
        snippets["python"] = (segmentation_code if segments else detection_code)(report)
    if report.format == "tflite" and suits_mediapipe(report):
        snippets["kotlin"] = (kotlin_segmentation if segments else kotlin_detection)(report)
    return snippets


def describe(tensor: TensorInfo) -> str:
    """Describes an input or output of a file in one line."""
    text = f"{tensor.name} {tensor.shape} {tensor.dtype}"
    if tensor.scale is not None:
        text += f", real = {tensor.scale:.6g} · (stored − {tensor.zero_point})"
    return text


def _preprocessing(report: ExportReport) -> str:
    """Describes in one line how an image becomes the input of a file."""
    (tensor,) = report.inputs
    _, height, width, _ = tensor.shape
    stretch = report.image_config is not None and report.image_config.stretch
    cropped = "stretched" if stretch else "square crop, resized"
    text = f"RGB, {cropped} to {width}×{height}, "
    statistics = image_statistics(report.image_config)
    if statistics is None:
        text += "0 … 255"
    else:
        mean, std = map(numbers, statistics)
        text += f"(x − {mean}) / {std}"
    if tensor.scale is None or (tensor.scale, tensor.zero_point) == (1, 0):
        return f"{text}, {tensor.dtype}"
    return f"{text}, then round(x / {tensor.scale:.6g}) + {tensor.zero_point}, {tensor.dtype}"


def _labels(labels: Sequence[str] | None, place: str) -> str:
    """Describes in one line how many labels there are, where, and the first of them."""
    if labels is None:
        return "none"
    shown = [*labels[:SHOWN_LABELS], *["…"] * (len(labels) > SHOWN_LABELS)]
    return f"{len(labels)}, {place}: {', '.join(shown)}"


def _expected(expected: Sequence[tuple[str, float]], runtime: str) -> tuple[str, str]:
    """Returns name and value of the property with the expected classes of the example image."""
    answers = ", ".join(f"{label} {score:.3f}" for label, score in expected)
    return f"{EXAMPLE_IMAGE} gives", f"{answers} ({runtime})"


def _kotlin(report: ExportReport) -> str:
    """Writes Kotlin code that finds the five best classes of a square bitmap."""
    (source,), (target,) = report.inputs, report.outputs
    _, height, width, _ = source.shape
    file, kind, write, x = report.path.name, "Float", "writeFloat", "x.toFloat()"
    constants: list[str] = []
    statistics = image_statistics(report.image_config)
    if statistics is not None:
        x = "(x - mean[channel]) / std[channel]"
        mean, std = map(_floats, statistics)
        constants = [f"val mean = {mean}", f"val std = {std}"]
    if source.scale is not None:
        kind, write = "Byte", "writeInt8"
        low, high = LIMITS[source.dtype]
        if plain_bytes(report):
            x = "x.toByte()"
        else:
            x = f"({x} / {source.scale:.8g}f).roundToInt() + {source.zero_point}"
            x = f"({x}).coerceIn({low}, {high}).toByte()"
    read = "readFloat()"
    if target.scale is not None:
        stored = "it.toUByte().toInt()" if target.dtype == "uint8" else "it"
        read = f"readInt8().map {{ ({stored} - ({target.zero_point})) * {target.scale:.8g}f }}"
    asset = f"// Add {file} to the assets of the app."
    if report.labels:
        asset += f" To extract its labels: unzip {file} {LABELS_FILE}"
    lines = [
        '// implementation("com.google.ai.edge.litert:litert:2.1.0")',
        asset,
        "val options = CompiledModel.Options(Accelerator.CPU)",
        f'val model = CompiledModel.create(context.assets, "{file}", options)',
        "val inputs = model.createInputBuffers()",
        "val outputs = model.createOutputBuffers()",
        *constants,
        f"val picture = Bitmap.createScaledBitmap(square, {width}, {height}, true)",
        f"val colors = IntArray({width} * {height})",
        f"picture.getPixels(colors, 0, {width}, 0, 0, {width}, {height})",
        f"val values = {kind}Array(3 * colors.size)",
        "for ((i, color) in colors.withIndex()) {",
        "    val rgb = intArrayOf(Color.red(color), Color.green(color), Color.blue(color))",
        f"    for ((channel, x) in rgb.withIndex()) values[3 * i + channel] = {x}",
        "}",
        f"inputs[0].{write}(values)",
        "model.run(inputs, outputs)",
        f"val scores = outputs[0].{read}  // {target.shape[1]}",
        "val best = scores.indices.sortedByDescending { scores[it] }.take(5)",
    ]
    return "\n".join(lines) + "\n"


def _floats(constants: Sequence[float]) -> str:
    """Formats numbers as a Kotlin array."""
    return "floatArrayOf(" + ", ".join(f"{value:.7g}f" for value in constants) + ")"


def _swift_image(report: CoreMLReport) -> str:
    """Writes Swift code for a package that takes an image."""
    option = "scaleFill" if report.image_config.stretch else "centerCrop"
    lines = [
        "import CoreML",
        "import Vision",
        "",
        f"// Add {report.path.name} to the app; Xcode generates the class {_class_name(report)}.",
        f"let core = try {_class_name(report)}(configuration: MLModelConfiguration()).model",
        "let request = VNCoreMLRequest(model: try VNCoreMLModel(for: core))",
        f"request.imageCropAndScaleOption = .{option}  // to {report.shape[1]}×{report.shape[0]}",
        "try VNImageRequestHandler(cgImage: photo).perform([request])",
    ]
    if report.outputs[0].name == LABEL:
        lines += [
            "let classes = request.results as! [VNClassificationObservation]",
            "for best in classes.prefix(5) { print(best.identifier, best.confidence) }",
        ]
    else:
        lines += swift_results(report)
    return "\n".join(lines) + "\n"


def _swift_tensor(report: CoreMLReport) -> str:
    """Writes Swift code for a package that takes a multi-array."""
    height, width, channels = report.shape
    values = tensor_values(report.image_config) or ["the values that the model takes"]
    lines = [
        "import CoreML",
        "",
        f"let model = try {_class_name(report)}(configuration: MLModelConfiguration())",
        f"let tensor = try MLMultiArray(shape: [1, {height}, {width}, {channels}], "
        "dataType: .float32)",
        f"// Fill the tensor with {values[0]}.",
        f"let output = try model.prediction({COREML_INPUT}: tensor)",
        f"print(output.{report.outputs[0].name})",
    ]
    return "\n".join(lines) + "\n"


def _class_name(report: CoreMLReport) -> str:
    """Returns the name of the class that Xcode generates: other characters become underscores."""
    return "".join(c if c.isalnum() else "_" for c in report.path.stem)
