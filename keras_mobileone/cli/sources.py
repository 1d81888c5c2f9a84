"""Options that select a model and its classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.cli.console import console, without_native_logs
from keras_mobileone.errors import InputValueError
from keras_mobileone.variants import VARIANTS, get_variant

if TYPE_CHECKING:
    from keras_mobileone.evaluation.predictor import Predictor

VARIANT_CHOICE = click.Choice(list(VARIANTS), case_sensitive=False)
CLASSES_HELP = "Class names in the order of the outputs, such as classes.txt of a run."
Command = Callable[..., Any]


def source_options(command: Command) -> Command:
    """Adds --variant, --weights and --model, which select a model."""
    for option in (
        click.option(
            "--model",
            "model_file",
            type=click.Path(path_type=Path),
            help="A model file instead of a variant.",
        ),
        click.option(
            "--weights",
            help="'imagenet' (the default), 'imagenette' (S0, ten classes), or a weight file.",
            metavar="NAME|PATH",
        ),
        click.option("--variant", type=VARIANT_CHOICE, help="s0 (the default) … s4."),
    ):
        command = option(command)
    return command


def about_options(command: Command) -> Command:
    """Adds the options for the texts and the labels in a model file."""
    for option in (
        click.option("--version", default="", help="Version to store in the file."),
        click.option("--license", default="", help="License to store in the file."),
        click.option("--author", default="", help="Author to store in the file."),
        click.option("--description", help="Description to store in the file."),
        click.option("--labels", "labels_file", type=click.Path(path_type=Path), help=CLASSES_HELP),
    ):
        command = option(command)
    return command


def load_source(
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    classifier_activation: str | None = "softmax",
    size: int | None = None,
    threads: int = 1,
) -> tuple["Predictor", float]:
    """Loads the model that `source_options` ask for.

    Args:
        variant, weights, model_file: The values of the options.
        classifier_activation: Activation of a model that is built from a variant.
        size: Side of the square input of a model that is built from a variant. By default, 224.
        threads: Number of CPU threads for a TFLite file.

    Returns:
        The predictor and its crop fraction.
    """
    from keras_mobileone.applications import MobileOne
    from keras_mobileone.data.imagenet import NUM_CLASSES, PRETRAINED_CLASSES
    from keras_mobileone.evaluation.predictor import load_predictor

    if model_file is not None:
        if variant or weights:
            raise InputValueError(
                "--model can't be combined with --variant or --weights. "
                f"Received: --model {model_file} with one of them. Omit one."
            )
        with without_native_logs():
            predictor = load_predictor(model_file, threads)
        return predictor, predictor.image_config.crop_fraction
    network, weights = get_variant(variant or "s0"), weights or "imagenet"
    model = MobileOne(
        network,
        weights=weights,
        input_shape=None if size is None else (size, size, 3),
        classes=PRETRAINED_CLASSES.get(weights, NUM_CLASSES),
        classifier_activation=classifier_activation,
        deploy=True,
    )
    return load_predictor(model), network.crop_fraction


def print_images(directory: Path | None) -> None:
    """Prints how many images are below a directory, and which files are not read as images."""
    from keras_mobileone.data.images import describe_images

    if directory is not None and directory.is_dir():
        console.print(describe_images(directory), markup=False)


def read_classes(path: Path | None) -> Sequence[str] | None:
    """Reads a file with one class name on each line; None if `path` is None."""
    from keras_mobileone.data.labels import read_label_file

    return None if path is None else read_label_file(path)


def read_labels(path: Path | None, weights: str | None = None) -> Sequence[str] | None:
    """Reads the labels in a file, or returns those of named weights.

    WordNet ids are replaced by ImageNet's names. Any other line is a label without change.

    Returns:
        The labels, or None if the export chooses them.
    """
    from keras_mobileone.data.imagenet import labels_of

    folders = read_classes(path) or known_folders(weights)
    return folders and labels_of(folders)


def known_folders(weights: str | None) -> Sequence[str] | None:
    """Returns the class folders of weights that come with the package; None for other weights."""
    from keras_mobileone.data.imagenet import IMAGENETTE

    return IMAGENETTE if weights == "imagenette" else None
