"""The commands `export tflite` and `export coreml`."""

from collections.abc import Mapping
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
from keras_mobileone.files import atomic_write, require_writable

if TYPE_CHECKING:
    import keras

    from keras_mobileone.evaluation.predictor import Predictor
    from keras_mobileone.export.snippets import Usage

USAGE_HELP = "Write a Markdown page that shows how an app uses the file."


@click.group("export", cls=OneLineErrors)
def export_group() -> None:
    """Export a model to a file format for phones."""


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
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Take RGB 0 … 255 and normalize them in the file, the default for RGB models.",
)
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
@click.option("--usage", type=click.Path(path_type=Path), help=USAGE_HELP)
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
    labels_file: Path | None,
    **about: Any,
) -> None:
    """Write a TFLite file with metadata and labels, compared with Keras.

    \b
    Example: keras-mobileone export tflite --variant s0 --precision int8 \\
                 --calibration photos/ --output mobileone_s0.tflite
    """
    from keras_mobileone.export.snippets import tflite_usage
    from keras_mobileone.export.tflite import export_tflite

    for path in filter(None, (output, usage)):
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
    page = tflite_usage(report)
    rows = [
        *page.facts,
        ("Operators", counts(report.operators)),
        ("Parameters", f"{report.deploy.trainable:,}"),
        ("MACs", f"{report.deploy.macs:,}"),
        ("Difference from Keras", f"{report.error:.1e} of the output, on {report.compared}"),
    ]
    print_table(("", precision), rows, title=str(report.path))
    write_usage(page, usage)


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
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--usage", type=click.Path(path_type=Path), help=USAGE_HELP)
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
    output: Path,
    usage: Path | None,
    labels_file: Path | None,
    **about: Any,
) -> None:
    """Write a Core ML package, with ImageNet's labels or those of a file.

    \b
    Example: keras-mobileone export coreml --variant s0 --output MobileOneS0.mlpackage
    """
    from keras_mobileone.export.coreml import export_coreml
    from keras_mobileone.export.snippets import coreml_usage

    if usage:
        require_writable(usage)
    labels = read_labels(labels_file, weights)
    predictor, _ = load_source(variant, weights, model_file, None, size)
    with console.status("Exporting"), without_native_logs():
        report = export_coreml(
            keras_model(predictor, model_file, size),
            output,
            compute_precision,
            labels=None if scores else labels,
            classifier=not scores,
            image=not tensor,
            minimum_deployment_target=minimum_deployment_target,
            compression=compression,
            about=About(**about),
        )
    page = coreml_usage(report)
    rows = [
        *page.facts,
        ("Reads it", f"{minimum_deployment_target} and newer"),
        ("Operators", counts(report.operators)),
        ("Parameters", f"{report.deploy.trainable:,}"),
        ("MACs", f"{report.deploy.macs:,}"),
    ]
    print_table(("", f"Core ML, {compute_precision}"), rows, title=str(report.path))
    write_usage(page, usage)


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


def write_usage(page: "Usage", path: Path | None) -> None:
    """Writes the page of `--usage`, atomically."""
    if path:
        with atomic_write(path) as temporary:
            temporary.write_text(page.markdown(), encoding="utf-8")
