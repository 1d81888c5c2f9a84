"""`export tflite` and `export coreml`."""

from pathlib import Path

import click

from keras_mobileone.about import About
from keras_mobileone.cli.console import OneLineErrors, console, print_table
from keras_mobileone.cli.sources import about_options, load_source, read_labels, source_options
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.coreml import (
    COMPRESSIONS,
    COMPUTE_PRECISIONS,
    DEPLOYMENT_TARGETS,
    export_coreml,
)
from keras_mobileone.export.snippets import coreml_usage, tflite_usage
from keras_mobileone.export.tflite import INTEGER_TYPES, export_tflite
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.litert.converter import PRECISIONS

USAGE_HELP = "Write how an app uses the file, with snippets, as Markdown."


@click.group("export", cls=OneLineErrors)
def export_group():
    """Export to a phone's format."""


@export_group.command("tflite")
@source_options
@click.option("--precision", default="float32", show_default=True, type=click.Choice(PRECISIONS))
@click.option("--calibration", type=click.Path(path_type=Path), help="Photographs, for int8.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--softmax", is_flag=True, help="Probabilities instead of logits.")
@click.option("--plain", is_flag=True, help="The converter's own int8, for comparison.")
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Take RGB 0 … 255 and normalize them in the file: the default for RGB models.",
)
@click.option(
    "--input-dtype", default="float32", type=click.Choice(INTEGER_TYPES), help="For int8."
)
@click.option(
    "--output-dtype", default="float32", type=click.Choice(INTEGER_TYPES), help="For int8."
)
@click.option("--usage", type=click.Path(path_type=Path), help=USAGE_HELP)
@about_options
def export_tflite_command(
    variant, weights, model_file, precision, calibration, output, softmax, normalize, plain,
    input_dtype, output_dtype, usage, labels_file, **about,
):  # fmt: skip
    """Write a TFLite file with metadata and labels, compared with Keras.

    \b
    Example: keras-mobileone export tflite --variant s0 --precision int8 \\
                 --calibration photos/ --output mobileone_s0.tflite
    """
    for path in filter(None, (output, usage)):
        require_writable(path)
    labels = read_labels(labels_file, weights)
    predictor, _ = load_source(variant, weights, model_file, "softmax" if softmax else None)
    with console.status("Exporting"):
        report = export_tflite(
            keras_model(predictor, model_file),
            output,
            precision,
            calibration,
            normalize=normalize,
            input_dtype=input_dtype,
            output_dtype=output_dtype,
            plain=plain,
            labels=labels,
            about=About(**about),
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


@export_group.command("coreml")
@source_options
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
@click.option("--compression", type=click.Choice(list(COMPRESSIONS)), help="Needs iOS16.")
@click.option("--scores", is_flag=True, help="The model's outputs instead of a labelled class.")
@click.option("--tensor", is_flag=True, help="Take normalized float32 instead of a picture.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--usage", type=click.Path(path_type=Path), help=USAGE_HELP)
@about_options
def export_coreml_command(
    variant, weights, model_file, compute_precision, minimum_deployment_target, compression,
    scores, tensor, output, usage, labels_file, **about,
):  # fmt: skip
    """Write a Core ML package, with ImageNet's labels or those of a file.

    \b
    Example: keras-mobileone export coreml --variant s0 --output MobileOneS0.mlpackage
    """
    if usage:
        require_writable(usage)
    labels = read_labels(labels_file, weights)
    predictor, _ = load_source(variant, weights, model_file, None)
    with console.status("Exporting"):
        report = export_coreml(
            keras_model(predictor, model_file),
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


def keras_model(predictor, model_file):
    """The predictor's Keras model, which is what can be exported."""
    if not hasattr(predictor, "model"):
        raise InputValueError(f"Expected a .keras file to export. Received: --model {model_file}.")
    return predictor.model


def counts(operators) -> str:
    """One line on how often each operator occurs."""
    return ", ".join(f"{count} {name}" for name, count in operators.items())


def write_usage(page, path):
    """Writes the page of `--usage`, whole or not at all."""
    if path:
        with atomic_write(path) as temporary:
            temporary.write_text(page.markdown(), encoding="utf-8")
