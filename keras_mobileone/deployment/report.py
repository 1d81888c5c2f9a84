"""What `deploy` found out: a `DeployReport`, as JSON, Markdown and a picture."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from keras_mobileone.benchmarking import Latency, ratio
from keras_mobileone.data.imagenet import NUM_CLASSES, class_table
from keras_mobileone.data.images import EXAMPLE_IMAGE
from keras_mobileone.errors import MissingPackageError
from keras_mobileone.export.snippets import Usage
from keras_mobileone.models.complexity import Complexity

HEADER = ("", "MB", "ms", "p95", "ratio", "error", "SQNR", "agree", "top-1", "top-5")


@dataclass(frozen=True)
class DeployedFile:
    """One exported file, compared with Keras on real photographs.

    Attributes:
        file: Its name inside the output directory.
        precision: float32, float16 or int8.
        bytes: Its size.
        latency: Of one inference on this machine.
        error: Largest difference from Keras' logits over the largest magnitude of these.
        sqnr: Signal to quantization noise of the logits, in dB.
        agreement: On how many images it gives Keras' answer.
        top1, top5: How many images it classifies rightly; None when they have no labels.
        operators: How often each TFLite operator occurs.
        usage: How an app uses it.
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
    """The Core ML package; its numbers can't be checked but on Apple's systems.

    Attributes:
        file: Its name inside the output directory.
        bytes: Its size.
        compute_precision: Precision of weights and arithmetic.
        minimum_deployment_target: Oldest system that reads it.
        operators: How often each operator of the ML Program occurs.
        usage: How an app uses it.
    """

    file: str
    bytes: int
    compute_precision: str
    minimum_deployment_target: str
    operators: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class DeployReport:
    """Everything `deploy` found out.

    Attributes:
        variant, weights: What was deployed.
        train, deploy: Parameters and multiply-accumulates, multi-branch and fused.
        files: The exported TFLite files.
        package: The Core ML package, or None.
        images: How many photographs they were compared on.
        calibration_images: How many set the ranges for int8.
        held_out: Whether these are other images than those compared on.
        keras_top1, keras_top5: What Keras itself gets; None without labels.
        predictions: (photograph, answer of Keras, answers of the files), class names.
        conditions: Processor, versions, runs.
    """

    variant: str
    weights: str
    train: Complexity
    deploy: Complexity
    files: list[DeployedFile]
    package: DeployedPackage | None
    images: int
    calibration_images: int
    held_out: bool
    keras_top1: int | None
    keras_top5: int | None
    predictions: list[tuple[str, str, list[str]]]
    conditions: dict[str, str | int]

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        counts = {"train": self.train._asdict(), "deploy": self.deploy._asdict()}
        return asdict(self) | counts


def table_rows(report: DeployReport) -> list[tuple[str, ...]]:
    """The rows of the table under `HEADER`: Keras, then the files."""
    counts = _percent(report.keras_top1, report.images), _percent(report.keras_top5, report.images)
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
        _percent(file.agreement, report.images),
        _percent(file.top1, report.images),
        _percent(file.top5, report.images),
    )


def _percent(count: int | None, total: int) -> str:
    return "" if count is None else f"{100 * count / total:.1f}"


def report_from_dict(data: dict) -> DeployReport:
    """The report that `DeployReport.to_dict` made plain data of."""

    def with_usage(kind, plain, **fields):
        return kind(**plain | {"usage": Usage(**plain["usage"])} | fields)

    files = [with_usage(DeployedFile, f, latency=Latency(**f["latency"])) for f in data["files"]]
    package = data["package"] and with_usage(DeployedPackage, data["package"])
    counts = {form: Complexity(**data[form]) for form in ("train", "deploy")}
    return DeployReport(**data | counts | {"files": files, "package": package})


def summary(report: DeployReport) -> list[str]:
    """The sentences around the table: what was deployed, and how it was measured."""
    c = report.conditions
    held_out = "other" if report.held_out else "the same"
    return [
        f"{report.variant}, weights {report.weights}. Train time: {_counts(report.train)}. "
        f"Deploy: {_counts(report.deploy)}.{_few_classes(report.weights)}",
        f"Compared with Keras on {report.images} images; int8 calibrated on "
        f"{report.calibration_images}, {held_out} ones. Error: largest difference of the logits "
        "over their largest magnitude. SQNR: of the logits, dB. Agree, top-1, top-5: % of images"
        + (". " if report.keras_top1 is not None else "; these images have no labels. ")
        + "Ratio: of the latency to float32's.",
        f"Latency: median and 95th percentile of {c['processor']}, {c['threads']} thread(s), "
        f"batch 1, {c['rounds']} rounds of {c['runs']} runs after {c['warmup_runs']} warm-up runs, "
        f"files interleaved; "
        f"ai-edge-litert {c['ai-edge-litert']}, TensorFlow {c['tensorflow']}, Keras {c['keras']}, "
        f"Python {c['python']}, {c['system']}.",
    ]


def _few_classes(weights: str) -> str:
    """What to expect of weights that know fewer classes than photographs show."""
    names = [name for _, name in class_table(weights)]
    if len(names) == NUM_CLASSES:
        return ""
    return f" Whatever a photograph shows, the answer is one of these: {', '.join(names)}."


def package_summary(package: DeployedPackage) -> str:
    """The sentence about the Core ML package."""
    return (
        f"{package.file}: {package.bytes / 1e6:.2f} MB, Core ML {package.compute_precision}, "
        f"{package.minimum_deployment_target} and newer. Neither run nor timed here: "
        "Core ML predicts on Apple's systems only."
    )


def usages(report: DeployReport) -> list[str]:
    """How an app uses each file, as Markdown, with the code for the first TFLite file."""
    first, *others = report.files
    parts = [first.usage.markdown("###").rstrip()]
    parts += [replace(file.usage, snippets={}).markdown("###").rstrip() for file in others]
    if report.package:
        parts += [report.package.usage.markdown("###").rstrip(), package_summary(report.package)]
    return parts


def _counts(counts: Complexity) -> str:
    statistics = f" + {counts.non_trainable:,} BN statistics" if counts.non_trainable else ""
    return f"{counts.trainable:,} parameters{statistics}, {counts.feature_macs:,} MACs"


def markdown_table(header, rows) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(report: DeployReport) -> str:
    """The report as Markdown."""
    first, *conditions = summary(report)
    names = [file.precision for file in report.files]
    parts = [
        f"# {report.variant} for LiteRT",
        first,
        markdown_table(HEADER, table_rows(report)),
        *conditions,
        "![Size, latency and agreement](report.png)",
        "## Photographs",
        markdown_table(
            ["Photograph", "Keras", *names],
            [[photo, answer, *answers] for photo, answer, answers in report.predictions],
        ),
        "## Operators",
        markdown_table(
            ["File", "Operators"],
            [
                [f.file, ", ".join(f"{count} {name}" for name, count in f.operators.items())]
                for f in (*report.files, *filter(None, [report.package]))
            ],
        ),
        "## Using the files",
        "The TFLite files carry metadata for MediaPipe and Android Studio: texts, normalization, "
        f"labels. {EXAMPLE_IMAGE} lies beside them. The code for one serves for all.",
        *usages(report),
    ]
    return "\n\n".join(parts) + "\n"


def require_plot() -> None:
    """Raises ImportError, with the extra to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "The report's picture needs matplotlib. "
            "Install it with `pip install keras-mobileone[plot]`."
        ) from error


def plot(report: DeployReport, path: Path) -> None:
    """Size, latency and agreement of the files, side by side, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    names = [file.precision for file in report.files]
    panels = (
        ("Size, MB", [f.bytes / 1e6 for f in report.files], "{:.2f}"),
        ("Latency, median ms", [f.latency.median for f in report.files], "{:.2f}"),
        (
            f"Same answer as Keras, % of {report.images}",
            [100 * f.agreement / report.images for f in report.files],
            "{:.1f}",
        ),
    )
    for axis, (title, values, form) in zip(axes, panels, strict=True):
        bars = axis.bar(names, values, color=["#4c72b0", "#55a868", "#c44e52"], width=0.6)
        axis.bar_label(bars, [form.format(value) for value in values], padding=2)
        axis.set_title(title, fontsize=11)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.set_yticks([])
        axis.margins(y=0.15)
    figure.suptitle(
        f"{report.variant}, {report.conditions['threads']} thread(s) of "
        f"{report.conditions['processor']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=160)


def write_reports(report: DeployReport, directory: Path) -> None:
    """Writes report.json, report.md and report.png into `directory`."""
    content = json.dumps(report.to_dict(), indent=2) + "\n"
    (directory / "report.json").write_text(content, encoding="utf-8")
    (directory / "report.md").write_text(markdown(report), encoding="utf-8")
    plot(report, directory / "report.png")
