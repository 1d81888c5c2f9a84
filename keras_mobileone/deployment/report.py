"""`DeployReport`, the result of `deploy`, and its output as JSON, Markdown and a figure."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_mobileone.benchmarking import Latency, ratio
from keras_mobileone.benchmarking.results import read_stored
from keras_mobileone.data.images import EXAMPLE_IMAGE
from keras_mobileone.errors import MissingPackageError
from keras_mobileone.export.snippets import Usage
from keras_mobileone.models.complexity import Complexity
from keras_mobileone.reports import Report

FORMAT = 1  # number of the JSON layout; it is raised when the meaning of a field changes
STORED = "report of deploy"
HEADER = ("", "MB", "ms", "p95", "ratio", "error", "SQNR", "agree", "top-1", "top-5")
LISTED_CLASSES = 20  # a report names the classes of a model that has no more than these
PERCENT_IMAGES = 100  # with fewer images a percentage says less than the count
COLORS = ("#4c72b0", "#55a868", "#c44e52")


@dataclass(frozen=True)
class DeployedFile:
    """A TFLite file written by `deploy`, compared with Keras on photographs.

    Attributes:
        file: Name of the file inside the output directory.
        precision: `"float32"`, `"float16"` or `"int8"`.
        bytes: Size of the file.
        latency: Time of one inference on this machine.
        error: Largest difference from the outputs of Keras divided by their largest magnitude.
        sqnr: Signal-to-quantization-noise ratio of the outputs, in dB.
        agreement: Number of images on which the file's best class is the one of Keras.
        top1: Number of images whose label is the best class; None if the images have no labels.
        top5: Number of images whose label is among the five best classes; None if the images have
            no labels.
        operators: Number of occurrences of each TFLite operator.
        usage: How an app uses the file.
    """

    file: str
    precision: str
    bytes: int
    latency: Latency
    error: float
    sqnr: float
    agreement: int
    top1: int | None
    top5: int | None
    operators: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class DeployedPackage:
    """A Core ML package written by `deploy`. Only Apple's systems can run it.

    Attributes:
        file: Name of the package inside the output directory.
        bytes: Size of all its files.
        compute_precision: Precision of weights and arithmetic.
        minimum_deployment_target: Oldest system that reads the package.
        operators: How often each operator of the ML Program occurs.
        usage: How an app uses the package.
    """

    file: str
    bytes: int
    compute_precision: str
    minimum_deployment_target: str
    operators: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class DeployReport(Report):
    """Result of `deploy`: the files, how close they are to Keras, and how fast they run.

    `load_report` reads what `save` wrote.

    Attributes:
        name: Name of the variant, or of the model that was deployed instead of a variant.
        weights: `"imagenet"`, `"imagenette"` or the name of the weight file; None if a model was
            deployed instead of a variant.
        train: Parameters and multiply-accumulates with all branches; None if the model had no
            branches to fuse.
        deploy: Parameters and multiply-accumulates of the fused model.
        classes: Names of the classes if they are known and at most 20, else empty.
        files: The TFLite files.
        package: The Core ML package, or None.
        images: Number of photographs on which the files were compared with Keras.
        calibration_images: Number of photographs that calibrated int8.
        held_out: Whether none of the compared photographs calibrated int8.
        keras_top1: Number of compared photographs whose label is Keras' best class; None if they
            have no labels.
        keras_top5: Number of compared photographs whose label is among the five best classes of
            Keras; None if they have no labels.
        predictions: (photograph, best class of Keras, best class of each file) for some of the
            photographs that show one of the classes of the model. Empty if there are none.
        conditions: Processor, versions, runs and rounds.
    """

    name: str
    weights: str | None
    train: Complexity | None
    deploy: Complexity
    classes: list[str]
    files: list[DeployedFile]
    package: DeployedPackage | None
    images: int
    calibration_images: int
    held_out: bool
    keras_top1: int | None
    keras_top5: int | None
    predictions: list[tuple[str, str, list[str]]]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Converts the report to plain data for JSON, with the format's number."""
        return {"format": FORMAT, **super().to_dict()}


def load_report(path: str | os.PathLike) -> DeployReport:
    """Reads the `report.json` that `deploy` or `DeployReport.save` wrote.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not such a report, or has another format.
    """
    return read_stored(path, STORED, FORMAT, report_from_dict)


def report_from_dict(data: dict[str, Any]) -> DeployReport:
    """Builds the report from the plain data that `DeployReport.to_dict` returned."""
    fields = {name: value for name, value in data.items() if name != "format"}
    fields["train"] = data["train"] and Complexity(**data["train"])
    fields["deploy"] = Complexity(**data["deploy"])
    fields["files"] = [
        DeployedFile(
            **file
            | {
                "usage": _usage(file["usage"]),
                "latency": Latency(**file["latency"]),
                # JSON has no infinity: null stands for outputs without any difference.
                "sqnr": math.inf if file["sqnr"] is None else file["sqnr"],
            }
        )
        for file in data["files"]
    ]
    package = data["package"]
    fields["package"] = package and DeployedPackage(**package | {"usage": _usage(package["usage"])})
    fields["predictions"] = [tuple(prediction) for prediction in data["predictions"]]
    return DeployReport(**fields)


def _usage(data: dict[str, Any]) -> Usage:
    return Usage(**data | {"facts": [tuple(fact) for fact in data["facts"]]})


def table_rows(report: DeployReport) -> list[tuple[str, ...]]:
    """Returns the rows of the table under `HEADER`: Keras, then the files."""
    counts = _share(report.keras_top1, report.images), _share(report.keras_top5, report.images)
    return [("Keras", *[""] * 7, *counts), *(_row(file, report) for file in report.files)]


def _row(file: DeployedFile, report: DeployReport) -> tuple[str, ...]:
    return (
        file.precision,
        f"{file.bytes / 1e6:.2f}",
        f"{file.latency.median:.2f}",
        f"{file.latency.p95:.2f}",
        f"{ratio(file.latency, report.files[0].latency):.2f}",
        f"{file.error:.0e}",
        f"{file.sqnr:.1f}",
        _share(file.agreement, report.images),
        _share(file.top1, report.images),
        _share(file.top5, report.images),
    )


def _share(count: int | None, total: int) -> str:
    """Formats a number of images as a percentage if there are many, and else as a number."""
    if count is None:
        return ""
    return f"{100 * count / total:.1f}" if total >= PERCENT_IMAGES else f"{count} of {total}"


def summary(report: DeployReport) -> list[str]:
    """Returns the paragraphs around the table: what was deployed, compared and timed."""
    c = report.conditions
    held_out = "other images" if report.held_out else "the same images"
    unit = "in % of the images" if report.images >= PERCENT_IMAGES else "as numbers of images"
    labels = "" if report.keras_top1 is not None else " The images have no labels."
    return [
        f"{_what(report)}{_few_classes(report)}",
        f"The files are compared with Keras on {report.images} images; int8 is calibrated on "
        f"{report.calibration_images}, {held_out}. Error: largest difference of the outputs "
        "divided by their largest magnitude. SQNR: that of the outputs, in dB. Agree: images with "
        f"the same best class as Keras. Agree, top-1 and top-5 are given {unit}.{labels} "
        "Ratio: latency divided by that of float32.",
        f"Latency: median and 95th percentile on {c['processor']}, {_threads(c['threads'])}, "
        f"batch 1, {c['rounds']} rounds of {c['runs']} runs after {c['warmup_runs']} warm-up runs, "
        "files interleaved; "
        f"ai-edge-litert {c['ai-edge-litert']}, TensorFlow {c['tensorflow']}, Keras {c['keras']}, "
        f"Python {c['python']}, {c['system']}.",
    ]


def _what(report: DeployReport) -> str:
    name = f"{report.name}, weights {report.weights}" if report.weights else report.name
    if report.train is None:
        return f"{name}. {_counts(report.deploy)}."
    return f"{name}. Train time: {_counts(report.train)}. Deploy: {_counts(report.deploy)}."


def _few_classes(report: DeployReport) -> str:
    """Returns sentences about the limits of a model with few classes."""
    if not report.classes:
        return ""
    text = (
        f" The model knows {len(report.classes)} classes. Whatever a photograph shows, the "
        f"prediction is one of these: {', '.join(report.classes)}."
    )
    if not report.predictions:
        text += (
            " None of the photographs is in a folder named after one of them, so no predictions "
            "are listed. The photographs only show how closely the files follow Keras."
        )
    return text


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _counts(counts: Complexity) -> str:
    statistics = f" + {counts.non_trainable:,} BN statistics" if counts.non_trainable else ""
    return f"{counts.trainable:,} parameters{statistics}, {counts.feature_macs:,} MACs"


def package_summary(package: DeployedPackage) -> str:
    """Returns the sentences about the Core ML package."""
    return (
        f"{package.file}: {package.bytes / 1e6:.2f} MB, Core ML {package.compute_precision}, "
        f"{package.minimum_deployment_target} and newer. Neither run nor timed here: "
        "Core ML predicts on Apple's systems only."
    )


def usages(report: DeployReport) -> list[str]:
    """Returns how an app uses each file, as Markdown, with code for the first TFLite file only."""
    first, *others = report.files
    parts = [first.usage.markdown("###").rstrip()]
    parts += [replace(file.usage, snippets={}).markdown("###").rstrip() for file in others]
    if report.package:
        parts += [report.package.usage.markdown("###").rstrip(), package_summary(report.package)]
    return parts


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(report: DeployReport) -> str:
    """Returns the report as Markdown."""
    first, *conditions = summary(report)
    packages = [report.package] if report.package else []
    files: list[DeployedFile | DeployedPackage] = [*report.files, *packages]
    parts = [
        f"# {report.name} for LiteRT",
        first,
        markdown_table(HEADER, table_rows(report)),
        *conditions,
        "![Size and latency](report.png)",
        *_photographs(report),
        "## Operators",
        markdown_table(
            ["File", "Operators"],
            [
                [f.file, ", ".join(f"{count} {name}" for name, count in f.operators.items())]
                for f in files
            ],
        ),
        "## Using the files",
        "The TFLite files contain metadata for MediaPipe and Android Studio: description, "
        f"normalization and labels. {EXAMPLE_IMAGE} is in the same directory. The code below is "
        "for the first file; only the name of the file differs for the others.",
        *usages(report),
    ]
    return "\n\n".join(parts) + "\n"


def _photographs(report: DeployReport) -> list[str]:
    """Returns the section with the predictions for single photographs, if there are any."""
    if not report.predictions:
        return []
    names = [file.precision for file in report.files]
    rows = [[photo, answer, *answers] for photo, answer, answers in report.predictions]
    return ["## Photographs", markdown_table(["Photograph", "Keras", *names], rows)]


def require_plot() -> None:
    """Raises ImportError with the extra to install if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "The figure of the report needs matplotlib. "
            "Install it with `pip install keras-mobileone[plot]`."
        ) from error


def plot(report: DeployReport, path: str | os.PathLike) -> None:
    """Draws the size and latency of the files side by side, as PNG.

    All numbers come from `report`, so that a stored report can be drawn again:
    `plot(load_report("report.json"), "report.png")`.
    """
    from matplotlib.figure import Figure

    c, files = report.conditions, report.files
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    size, latency = figure.subplots(1, 2)
    _bars(size, "Size, MB", files, [file.bytes / 1e6 for file in files])
    medians = [file.latency.median for file in files]
    above = [file.latency.p95 - file.latency.median for file in files]
    _bars(latency, "Latency, ms: median, line to 95th percentile", files, medians, above)
    figure.suptitle(
        f"{report.name} in LiteRT, batch 1, {_threads(c['threads'])} of {c['processor']}",
        fontsize=11,
    )
    agreement = ", ".join(f"{file.precision} {file.agreement}" for file in files)
    figure.supxlabel(
        f"Same best class as Keras, of {report.images} photographs: {agreement}.",
        fontsize=9,
    )
    figure.savefig(path, dpi=160)


def _bars(
    axis: Any,
    title: str,
    files: Sequence[DeployedFile],
    values: Sequence[float],
    above: Sequence[float] | None = None,
) -> None:
    """Draws a panel with a bar for each file and a line of length `above` on top of it."""
    errors = None if above is None else ([0] * len(above), above)
    names = [file.precision for file in files]
    bars = axis.bar(names, values, yerr=errors, capsize=4, ecolor="#555", color=COLORS, width=0.6)
    # The numbers are inside the bars, so that they are not read as the ends of the lines.
    labels = [f"{value:.2f}" for value in values]
    axis.bar_label(bars, labels, label_type="center", color="white")
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_yticks([])
    axis.margins(y=0.15)


def write_reports(report: DeployReport, directory: Path) -> None:
    """Writes report.json, report.md and report.png into `directory`."""
    report.save(directory / "report.json")
    (directory / "report.md").write_text(markdown(report), encoding="utf-8")
    plot(report, directory / "report.png")
