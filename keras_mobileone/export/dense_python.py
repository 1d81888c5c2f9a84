"""Python code that segments a photograph, or finds objects in it, with an exported file."""

from keras_mobileone.data.images import EXAMPLE_IMAGE
from keras_mobileone.evaluation.dense_pictures import SHOWN_SCORE
from keras_mobileone.export.python_code import RUNTIMES, dequantization_lines, input_lines
from keras_mobileone.export.report import ExportReport
from keras_mobileone.litert.postprocess import RESULTS


def suppresses_boxes(report: ExportReport) -> bool:
    """Returns whether a detector's TFLite file suppresses overlapping boxes itself."""
    return [tensor.name for tensor in report.outputs] == list(RESULTS)


def segmentation_code(report: ExportReport) -> str:
    """Writes Python code that prints the share of each class in the example image."""
    (target,) = report.outputs
    runtime = RUNTIMES[report.format](report)
    _, height, width, _ = target.shape
    lines = [
        *_imports(report),
        *input_lines(report),
        *runtime.run,
        *dequantization_lines(target),
        f"mask = scores.argmax(-1)  # the class of each pixel, {height}×{width}",
    ]
    if report.labels:
        lines.append(runtime.labels)
    shown = "labels[i]" if report.labels else "i"
    lines += [
        "for i in np.unique(mask):",
        f'    print({shown}, f"{{(mask == i).mean():.3f}}")',
    ]
    return "\n".join(lines) + "\n"


def detection_code(report: ExportReport) -> str:
    """Writes Python code that prints the objects in the example image, with boxes in its pixels."""
    return _suppressed_boxes(report) if suppresses_boxes(report) else _raw_boxes(report)


def _suppressed_boxes(report: ExportReport) -> str:
    """Writes code for a file that returns the boxes that are left."""
    (source,) = report.inputs
    runtime = RUNTIMES[report.format](report)
    location, category, score, number = RESULTS
    lines = [
        *_imports(report),
        *input_lines(report),
        f'run = Interpreter("{report.path.name}").get_signature_runner()',
        f"found = {{name: values[0] for name, values in run({source.name}=x).items()}}",
    ]
    if report.labels:
        lines.append(runtime.labels)
    shown = f'int(found["{category}"][i])'
    if report.labels:
        shown = f"labels[{shown}]"
    lines += [
        "width, height = photo.size",
        f'for i in range(int(found["{number}"])):',
        f'    score, label = found["{score}"][i], {shown}',
        f"    if score < {SHOWN_SCORE}:",
        "        continue",
        f'    y1, x1, y2, x2 = found["{location}"][i] * [height, width, height, width]',
        '    print(label, f"{score:.3f}", *np.round([x1, y1, x2, y2]).astype(int))',
    ]
    return "\n".join(lines) + "\n"


def _raw_boxes(report: ExportReport) -> str:
    """Writes code for a file that returns the offsets from all anchors."""
    lines = [
        "from PIL import Image",
        "",
        "import keras_mobileone  # finds the anchors in the file, and suppresses boxes",
        "",
        f'photo = Image.open("{EXAMPLE_IMAGE}").convert("RGB")',
        f'for found in keras_mobileone.detect("{report.path.name}", photo).objects:',
        '    print(found.label, f"{found.score:.3f}", *(round(side) for side in found.box))',
    ]
    return "\n".join(lines) + "\n"


def _imports(report: ExportReport) -> list[str]:
    runtime = RUNTIMES[report.format](report)
    first = [f"{runtime.labels_import}\n"] if report.labels else []
    return [*first, "import numpy as np", runtime.imports, "from PIL import Image", ""]
