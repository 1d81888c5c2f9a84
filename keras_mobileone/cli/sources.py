"""The options that say which model is meant, and its classes."""

from pathlib import Path

import click

from keras_mobileone.applications import MobileOne
from keras_mobileone.data.imagenet import IMAGENETTE, NUM_CLASSES, PRETRAINED_CLASSES, labels_of
from keras_mobileone.errors import InputValueError
from keras_mobileone.evaluation.predictor import load_predictor
from keras_mobileone.variants import VARIANTS, get_variant

VARIANT_CHOICE = click.Choice(list(VARIANTS), case_sensitive=False)
CLASSES_HELP = "Class names in the order of the outputs, such as classes.txt of a run."


def source_options(command):
    """Adds --variant, --weights and --model, the ways to say which model is meant."""
    for option in (
        click.option(
            "--model", "model_file", type=click.Path(path_type=Path), help="A model file instead."
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


def about_options(command):
    """Adds what a model's file says of itself, and its labels."""
    for option in (
        click.option("--version", default=""),
        click.option("--license", default=""),
        click.option("--author", default=""),
        click.option("--description", help="Of the model, in the file, like the next three."),
        click.option("--labels", "labels_file", type=click.Path(path_type=Path), help=CLASSES_HELP),
    ):
        command = option(command)
    return command


def load_source(variant, weights, model_file, classifier_activation="softmax"):
    """The predictor and the crop fraction that `source_options` ask for."""
    if model_file is not None:
        if variant or weights:
            raise InputValueError(
                "--model already tells variant and weights. "
                f"Received: --model {model_file} with --variant or --weights. Give one of them."
            )
        predictor = load_predictor(model_file)
        return predictor, predictor.image_config.crop_fraction
    variant, weights = get_variant(variant or "s0"), weights or "imagenet"
    model = MobileOne(
        variant,
        weights=weights,
        classes=PRETRAINED_CLASSES.get(weights, NUM_CLASSES),
        classifier_activation=classifier_activation,
        deploy=True,
    )
    predictor = load_predictor(model)
    return predictor, predictor.image_config.crop_fraction


def read_classes(path):
    """The names in a file with one on each line, as `train` writes classes.txt; None for None."""
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of class names. Received: {path}, which is none.")
    return path.read_text(encoding="utf-8").splitlines()


def read_labels(path, weights=None):
    """Labels of the classes in a file, or else of the classes that such weights tell apart.

    ImageNet's names stand for WordNet ids, every other line as it is. None for ImageNet's own.
    """
    folders = read_classes(path) or known_folders(weights)
    return folders and labels_of(folders)


def known_folders(weights):
    """The classes of weights that come with the package, as folders; None for any others."""
    return IMAGENETTE if weights == "imagenette" else None
