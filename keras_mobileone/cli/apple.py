"""`export coreml`."""

from pathlib import Path

import click

from keras_mobileone.cli.console import console, print_table
from keras_mobileone.cli.sources import CLASSES_HELP, load_source, read_classes, source_options
from keras_mobileone.coreml import COMPRESSIONS, COMPUTE, MINIMUM, export_coreml
from keras_mobileone.imagenet import NUM_CLASSES, classes, unique_labels


@click.command("coreml")
@source_options
@click.option("--compute", default="float16", show_default=True, type=click.Choice(COMPUTE))
@click.option("--minimum", default="iOS15", show_default=True, type=click.Choice(MINIMUM))
@click.option("--compression", type=click.Choice(list(COMPRESSIONS)), help="Needs iOS16.")
@click.option("--labels", "labels_file", type=click.Path(path_type=Path), help=CLASSES_HELP)
@click.option("--scores", is_flag=True, help="The model's outputs instead of a labelled class.")
@click.option("--tensor", is_flag=True, help="Take normalized float32 instead of a picture.")
@click.option("--author", default="", help="Shown by Xcode, like the next three.")
@click.option("--licence", default="")
@click.option("--version", default="")
@click.option("--description")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def export_coreml_command(
    variant, weights, model_file, compute, minimum, compression, labels_file, scores, tensor,
    output, **texts,
):  # fmt: skip
    """Write a Core ML package, with ImageNet's labels or those of a file.

    \b
    Example: keras-mobileone export coreml --variant s0 --output MobileOneS0.mlpackage
    """
    predictor, _ = load_source(variant, weights, model_file, None)
    if not hasattr(predictor, "model"):
        raise ValueError(f"Expected a .keras file to export. Received: --model {model_file}.")
    labels = None if scores else read_classes(labels_file) or default_labels(predictor)
    with console.status("Exporting"):
        report = export_coreml(
            predictor.model,
            output,
            compute,
            labels=labels,
            image=not tensor,
            minimum=minimum,
            compression=compression,
            **texts,
        )
    rows = [
        ("Size", f"{report.bytes / 1e6:.2f} MB"),
        ("Input", report.input),
        ("Output", report.output),
        ("Reads it", f"{minimum} and newer"),
        ("Operators", ", ".join(f"{count} {name}" for name, count in report.operators.items())),
        ("Parameters", f"{report.deploy.trainable:,}"),
        ("MACs", f"{report.deploy.macs:,}"),
    ]
    print_table(("", f"Core ML, {compute}"), rows, title=str(report.path))


def default_labels(predictor):
    """ImageNet's, for a model of so many outputs."""
    if predictor.classes != NUM_CLASSES:
        raise ValueError(
            f"Expected --labels with the names of the {predictor.classes} classes, or --scores. "
            "Received: neither."
        )
    return unique_labels(classes())
