"""The commands `export tflite`, `export coreml`, and those of the other formats."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.about import About
from keras_mobileone.choices import (
    COMPRESSIONS,
    COMPUTE_PRECISIONS,
    DEPLOYMENT_TARGETS,
    INTEGER_TYPES,
    PRECISIONS,
)
from keras_mobileone.cli.console import (
    KerasCommand,
    OneLineErrors,
    console,
    print_table,
    without_native_logs,
)
from keras_mobileone.cli.sources import (
    Command,
    about_options,
    load_source,
    print_images,
    read_labels,
    source_options,
)
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.formats import FORMATS, Format, require_packages, require_path
from keras_mobileone.files import atomic_write, require_writable

if TYPE_CHECKING:
    import keras

    from keras_mobileone.evaluation.predictor import Predictor
    from keras_mobileone.export.report import ExportReport

NORMALIZE_HELP = "Take RGB 0 … 255 and normalize them in the file, the default for RGB models."


@click.group("export", cls=OneLineErrors)
def export_group() -> None:
    """Export a model to a file format for phones, browsers or servers."""


def page_options(command: Command) -> Command:
    """Adds --usage and --model-card, which write pages about the file."""
    for option in (
        click.option(
            "--model-card",
            type=click.Path(path_type=Path),
            help="Write a model card for the Hugging Face Hub, such as README.md.",
        ),
        click.option(
            "--usage",
            type=click.Path(path_type=Path),
            help="Write a Markdown page that shows how an app uses the file.",
        ),
    ):
        command = option(command)
    return command


def size_option(command: Command) -> Command:
    """Adds --size."""
    return click.option(
        "--size",
        type=click.IntRange(32),
        metavar="PIXELS",
        help="Side of the images. [default: 224]",
    )(command)


@export_group.command("tflite", cls=KerasCommand)
@source_options
@size_option
@click.option("--precision", default="float32", show_default=True, type=click.Choice(PRECISIONS))
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Directory of photographs, for int8."
)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--softmax", is_flag=True, help="Return probabilities instead of logits.")
@click.option("--plain", is_flag=True, help="Use the converter's own int8, for comparison.")
@click.option("--normalize/--no-normalize", default=None, help=NORMALIZE_HELP)
@click.option(
    "--input-dtype", default="float32", type=click.Choice(INTEGER_TYPES), help="Input type of int8."
)
@click.option(
    "--output-dtype",
    default="float32",
    type=click.Choice(INTEGER_TYPES),
    help="Output type of int8.",
)
@click.option(
    "--raw-boxes",
    is_flag=True,
    help="For a detector: leave decoding and suppression of boxes to MediaPipe.",
)
@page_options
@about_options
def export_tflite_command(
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    size: int | None,
    precision: str,
    calibration: Path | None,
    output: Path,
    softmax: bool,
    normalize: bool | None,
    plain: bool,
    input_dtype: str,
    output_dtype: str,
    raw_boxes: bool,
    usage: Path | None,
    model_card: Path | None,
    labels_file: Path | None,
    **about: Any,
) -> None:
    """Write a TFLite file with metadata and labels, compared with Keras.

    \b
    Example: keras-mobileone export tflite --variant s0 --precision int8 \\
                 --calibration photos/ --output mobileone_s0.tflite
    """
    from keras_mobileone.export.tflite import export_tflite

    for path in filter(None, (output, usage, model_card)):
        require_writable(path)
    labels = read_labels(labels_file, weights)
    activation = "softmax" if softmax else None
    predictor, _ = load_source(variant, weights, model_file, activation, size)
    print_images(calibration)
    with console.status("Exporting"), without_native_logs():
        report = export_tflite(
            keras_model(predictor, model_file, size, softmax),
            output,
            precision,
            calibration,
            normalize=normalize,
            input_dtype=input_dtype,
            output_dtype=output_dtype,
            plain=plain,
            labels=labels,
            about=About(**about),
            nms=not raw_boxes,
        )
    gpu = " ".join(report.gpu_warnings or ()) or "knows all operators"
    print_report(report, [("GPU delegate", gpu)], usage, model_card)


@export_group.command("coreml", cls=KerasCommand)
@source_options
@size_option
@click.option(
    "--compute-precision",
    default="float16",
    show_default=True,
    type=click.Choice(COMPUTE_PRECISIONS),
)
@click.option(
    "--minimum-deployment-target",
    default="iOS15",
    show_default=True,
    type=click.Choice(DEPLOYMENT_TARGETS),
)
@click.option(
    "--compression",
    type=click.Choice(list(COMPRESSIONS)),
    help="Compress the weights; needs iOS16.",
)
@click.option(
    "--scores", is_flag=True, help="Return the outputs of the model instead of a labeled class."
)
@click.option("--tensor", is_flag=True, help="Take normalized float32 instead of an image.")
@click.option("--raw-boxes", is_flag=True, help="For a detector: return the boxes of all anchors.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
@page_options
@about_options
def export_coreml_command(
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    size: int | None,
    compute_precision: str,
    minimum_deployment_target: str,
    compression: str | None,
    scores: bool,
    tensor: bool,
    raw_boxes: bool,
    output: Path,
    usage: Path | None,
    model_card: Path | None,
    labels_file: Path | None,
    **about: Any,
) -> None:
    """Write a Core ML package, with the labels of the model, of a file, or ImageNet's.

    A segmentation model gives the class of each pixel, a detector boxes.

    \b
    Example: keras-mobileone export coreml --variant s0 --output MobileOneS0.mlpackage
    """
    from keras_mobileone.export.coreml import export_coreml

    for path in filter(None, (usage, model_card)):
        require_writable(path)
    labels = read_labels(labels_file, weights)
    predictor, _ = load_source(variant, weights, model_file, None, size)
    # A model without a task has to be a classifier, unless its scores are asked for.
    classifier = None if predictor.task is not None else True
    with console.status("Exporting"), without_native_logs():
        report = export_coreml(
            keras_model(predictor, model_file, size),
            output,
            compute_precision,
            labels=None if scores else labels,
            classifier=False if scores else classifier,
            image=not tensor,
            nms=not raw_boxes,
            minimum_deployment_target=minimum_deployment_target,
            compression=compression,
            about=About(**about),
        )
    facts = [("Reads it", f"{minimum_deployment_target} and newer")]
    print_report(report, facts, usage, model_card)


def format_command(form: Format, text: str) -> click.Command:
    """Makes the command that exports to a format that takes whole Keras models.

    Args:
        form: The format.
        text: Help of the command.
    """

    @click.command(form.name, cls=KerasCommand, help=inspect.cleandoc(text))
    @source_options
    @size_option
    @click.option(
        "--precision",
        default=form.precisions[0],
        show_default=True,
        type=click.Choice(form.precisions),
    )
    @click.option("--output", required=True, type=click.Path(path_type=Path))
    @click.option("--softmax", is_flag=True, help="Return probabilities instead of logits.")
    @click.option("--normalize/--no-normalize", default=None, help=NORMALIZE_HELP)
    @click.option(
        "--images",
        type=click.Path(path_type=Path),
        help="Directory of photographs on which the file is compared with Keras.",
    )
    @page_options
    @about_options
    def command(
        variant: str | None,
        weights: str | None,
        model_file: Path | None,
        size: int | None,
        precision: str,
        output: Path,
        softmax: bool,
        normalize: bool | None,
        images: Path | None,
        usage: Path | None,
        model_card: Path | None,
        labels_file: Path | None,
        **about: Any,
    ) -> None:
        from keras_mobileone.export.entry import export

        require_path(output, form)
        for path in filter(None, (usage, model_card)):
            require_writable(path)
        require_packages(form)
        labels = read_labels(labels_file, weights)
        activation = "softmax" if softmax else None
        predictor, _ = load_source(variant, weights, model_file, activation, size)
        print_images(images)
        with console.status("Exporting"), without_native_logs():
            report = export(
                keras_model(predictor, model_file, size, softmax),
                output,
                form.name,
                precision,
                normalize=normalize,
                labels=labels,
                about=About(**about),
                images=images,
            )
        print_report(report, [], usage, model_card)

    return command


export_group.add_command(
    format_command(
        FORMATS["onnx"],
        """Write an ONNX file, compared with Keras in ONNX Runtime.

        \b
        Example: keras-mobileone export onnx --variant s0 --output s0.onnx
        """,
    )
)
export_group.add_command(
    format_command(
        FORMATS["openvino"],
        """Write a graph (.xml) and weights (.bin) for OpenVINO, compared with Keras.

        \b
        Example: keras-mobileone export openvino --variant s0 --precision float16 --output s0.xml
        """,
    )
)
export_group.add_command(
    format_command(
        FORMATS["saved_model"],
        """Write a TensorFlow SavedModel, which is a directory, compared with Keras.

        \b
        Example: keras-mobileone export saved_model --variant s0 --output s0/
        """,
    )
)


def keras_model(
    predictor: "Predictor", model_file: Path | None, size: int | None, softmax: bool = False
) -> "keras.Model":
    """Returns the Keras model of the predictor. Only a Keras model can be exported."""
    from keras_mobileone.models.adaptation import at_size, with_softmax

    model = getattr(predictor, "model", None)
    if model is None:
        raise InputValueError(f"Expected a .keras file to export. Received: --model {model_file}.")
    if size is not None:
        model = at_size(model, size)
    return with_softmax(model) if softmax else model


def counts(operators: Mapping[str, int]) -> str:
    """Returns a line with the number of occurrences of each operator."""
    return ", ".join(f"{count} {name}" for name, count in operators.items())


def print_report(
    report: "ExportReport",
    facts: Sequence[tuple[str, str]],
    usage_file: Path | None,
    model_card: Path | None,
) -> None:
    """Prints the table of an export, and writes the pages of --usage and --model-card.

    Args:
        report: Report of the export.
        facts: Rows of this format alone.
        usage_file, model_card: Values of the options.
    """
    from keras_mobileone.export.model_card import write_model_card
    from keras_mobileone.export.snippets import usage

    page = usage(report)
    rows = [
        *page.facts,
        *facts,
        ("Operators", counts(report.operators)),
        ("Parameters", f"{report.deploy.trainable:,}"),
        ("MACs", f"{report.deploy.macs:,}"),
        ("Difference from Keras", report.difference),
    ]
    title = f"{FORMATS[report.format].title}, {report.precision}"
    print_table(("", title), [row for row in rows if row[1]], title=str(report.path))
    if usage_file:
        with atomic_write(usage_file) as temporary:
            temporary.write_text(page.markdown(), encoding="utf-8")
    if model_card:
        write_model_card(report, model_card)
