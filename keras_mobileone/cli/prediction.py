"""`keras-mobileone predict`: the classes of photographs, one after the other."""

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

    Each is answered before the next is read. A file that can't be read is named on stderr; the
    others are answered, and the exit code is 2. Classes without a name are shown by their index.

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
    """Decodes the files among `paths` and the images in the directories among them, one by one.

    What can't be read is named on stderr and added to `failures`.
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
    """Prints an error as one line and notes it."""
    click.echo(f"Error: {one_line(str(error))}", err=True)
    failures.append(error)


def class_names(predictor: "Predictor", folders: Sequence[str] | None) -> Sequence[tuple[str, str]]:
    """(name, folder) of each output, of which the folder may be empty.

    Folders named by WordNet id have ImageNet's names. Without folders the names are the labels of
    the model file, ImageNet's for 1,000 outputs, or else the indices of the outputs.
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
    """Applies a softmax to logits; rows that are probabilities already stay as they are."""
    if scores.min() >= 0 and np.allclose(scores.sum(1), 1, atol=0.02):
        return scores
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
