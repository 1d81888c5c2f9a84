"""The command `predict`, which prints the classes of photographs one by one."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from keras_mobileone.cli.console import KerasCommand, one_line, print_table
from keras_mobileone.cli.sources import (
    CLASSES_HELP,
    known_folders,
    load_source,
    read_classes,
    source_options,
)
from keras_mobileone.errors import InputError, InputValueError

if TYPE_CHECKING:
    from PIL import Image

    from keras_mobileone.evaluation.predictor import Predictor


@click.command("predict", cls=KerasCommand)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@source_options
@click.option("--classes", "classes_file", type=click.Path(path_type=Path), help=CLASSES_HELP)
@click.option("--top", default=5, show_default=True, type=click.IntRange(1))
def predict_command(
    images: tuple[Path, ...],
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    classes_file: Path | None,
    top: int,
) -> None:
    """Classify photographs, or all photographs in a directory.

    Each result is printed before the next photograph is read. Files that can't be read are listed
    on stderr; the others are classified, and the exit code is 2. Classes without a name are shown
    by their index.

    \b
    Example: keras-mobileone predict cat.jpg --variant s0
             keras-mobileone predict photos/ --model mobileone_s0_int8.tflite
    """
    from keras_mobileone.data.images import evaluation_crop

    predictor = None
    failures: list[Exception] = []
    for path, photograph in photographs(images, failures):
        if predictor is None:  # loaded only when there is something to classify
            predictor, crop_fraction = load_source(variant, weights, model_file)
            names = class_names(predictor, read_classes(classes_file) or known_folders(weights))
        crop = evaluation_crop(photograph, predictor.image_config.image_size[0], crop_fraction)
        scores = probabilities(predictor(crop[None]))[0]
        best = np.argsort(-scores, kind="stable")[:top]
        rows = [(*names[index], f"{100 * scores[index]:.1f} %") for index in best]
        print_table(("Class", "Folder", "Probability"), rows, title=str(path))
    if failures:
        click.get_current_context().exit(2)


def photographs(
    paths: Iterable[Path], failures: list[Exception]
) -> "Iterator[tuple[Path, Image.Image]]":
    """Yields the decoded images of `paths`, which are files and directories, one by one.

    The error of a file that can't be read is printed on stderr and added to `failures`.
    """
    from keras_mobileone.data.images import list_images, load_image

    for path in paths:
        try:
            files = list_images(path) if path.is_dir() else [path]
        except (InputError, OSError) as error:
            report(error, failures)
            continue
        for file in files:
            try:
                photograph = load_image(file)
            except (InputError, OSError) as error:
                report(error, failures)
            else:
                yield file, photograph


def report(error: Exception, failures: list[Exception]) -> None:
    """Prints an error as one line and adds it to `failures`."""
    click.echo(f"Error: {one_line(str(error))}", err=True)
    failures.append(error)


def class_names(predictor: "Predictor", folders: Sequence[str] | None) -> Sequence[tuple[str, str]]:
    """Returns (name, folder) of each output, in which the folder may be empty.

    Folders named by WordNet id get ImageNet's names. Without folders, the names are the labels of
    the model file, or ImageNet's names for 1,000 outputs, or else the indices of the outputs.
    """
    from keras_mobileone.data.imagenet import NUM_CLASSES, classes, unique_labels

    if predictor.classes is None:
        raise InputValueError(
            "Expected a classifier with one output of shape (batch, classes). "
            f"Received: {predictor.name}."
        )
    if folders is None:
        labels = predictor.image_config.labels
        known_labels = labels is None or list(labels) == unique_labels(classes())
        if predictor.classes == NUM_CLASSES and known_labels:
            return [(name, wnid) for wnid, name in classes()]
        return [(label, "") for label in labels or map(str, range(predictor.classes))]
    if len(folders) != predictor.classes:
        raise InputValueError(
            f"Expected {predictor.classes} class names, one for each output of {predictor.name}. "
            f"Received: {len(folders)}."
        )
    known = dict(classes())
    return [(known.get(folder, folder), folder) for folder in folders]


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Applies a softmax to logits. Rows that are already probabilities are not changed."""
    from keras_mobileone.evaluation.metrics import are_probabilities, softmax

    return scores if are_probabilities(scores) else softmax(scores)
