"""Model cards: a README for the Hugging Face Hub, written from the report of an export."""

import json
import os
from collections.abc import Sequence

from keras_mobileone.errors import InputValueError
from keras_mobileone.export.formats import FORMATS
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.snippets import usage
from keras_mobileone.files import atomic_write

# The tag of each format; those of other formats are the names of libraries of the Hub.
TAGS = {"tflite": "tflite", "coreml": "coreml", "onnx": "onnx", "openvino": "openvino"}
# Licenses by the identifiers of the Hub (huggingface.co/docs/hub/repositories-licenses); any other
# text becomes the name of a license called "other".
LICENSES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")
# The Hub's names of the tasks, by `ExportReport.task`.
PIPELINES = {
    None: "image-classification",
    "segment": "image-segmentation",
    "detect": "object-detection",
}


def model_card(reports: ExportReport | Sequence[ExportReport]) -> str:
    """Writes a model card in Markdown with the front matter that the Hugging Face Hub reads.

    Args:
        reports: Reports of exports of one model, in any formats.

    Returns:
        The text of a `README.md`.

    Raises:
        ValueError: If there is no report, or the reports are of different models.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(
        ...     tiny, weights=None, input_shape=(32, 32, 3), classes=2, deploy=True
        ... )
        >>> about = km.About("Tells tenches from dogs.", license="MIT")
        >>> report = km.export(model, "model.tflite", labels=["tench", "dog"], about=about)
        >>> card = model_card(report)
        >>> card.splitlines()[1:3]
        ['license: "mit"', 'pipeline_tag: "image-classification"']
    """
    reports = [reports] if isinstance(reports, ExportReport) else list(reports)
    names = list(dict.fromkeys(report.name for report in reports))
    if len(names) != 1:
        raise InputValueError(
            "Expected reports of exports of one model. Received: "
            f"{', '.join(map(repr, names)) or 'none'}. Write one model card for each model."
        )
    first = reports[0]
    parts = [
        _front_matter(reports),
        f"# {first.name}",
        first.about.text(first.name),
        _table(reports),
        _facts(first),
        *(usage(report).markdown("##").rstrip() for report in reports),
        "## How the files were made\n\nExported by "
        "[keras-mobileone](https://github.com/keras-mobileone/keras-mobileone).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_model_card(
    reports: ExportReport | Sequence[ExportReport], path: str | os.PathLike
) -> None:
    """Writes `model_card(reports)` to a file, atomically.

    Raises:
        ValueError: As `model_card`.
        OSError: If `path` cannot be written.
    """
    text = model_card(reports)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _front_matter(reports: Sequence[ExportReport]) -> str:
    """Writes the YAML between two lines of dashes. A JSON string is a string of YAML too."""
    first = reports[0]
    fields: dict[str, object] = {}
    if first.about.license:
        fields |= _license(first.about.license)
    if first.task is not None or first.expected is not None:
        fields["pipeline_tag"] = PIPELINES[first.task]
    formats = list(dict.fromkeys(report.format for report in reports))
    fields["tags"] = [*(TAGS[name] for name in formats if name in TAGS), "keras"]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _license(text: str) -> dict[str, object]:
    """Returns the fields of the front matter for a license."""
    identifier = text.strip().lower().replace(" ", "-")
    if identifier in LICENSES:
        return {"license": identifier}
    return {"license": "other", "license_name": text.strip()}


def _table(reports: Sequence[ExportReport]) -> str:
    """Writes one row for each file."""
    header = ("File", "Format", "Precision", "Size", "Difference from Keras")
    rows = [
        (
            f"`{report.path.name}`",
            FORMATS[report.format].title,
            report.precision,
            f"{report.bytes / 1e6:.2f} MB",
            report.difference,
        )
        for report in reports
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * 5, *rows))


def _facts(report: ExportReport) -> str:
    """Writes what is true of the model in every format."""
    facts = [
        ("Parameters", f"{report.deploy.trainable + report.deploy.non_trainable:,}"),
        ("Multiply-accumulates", f"{report.deploy.macs:,} for one input"),
        ("Author", report.about.author),
        ("Version", report.about.version),
        ("License", report.about.license),
    ]
    return "\n".join(f"- {name}: {value}" for name, value in facts if value)
