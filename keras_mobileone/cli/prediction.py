"""The command `predict`, which prints what a model sees in photographs, one by one."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from keras_mobileone.cli.console import KerasCommand, one_line, print_table
from keras_mobileone.cli.dense import (
    CLASSIFY,
    DENSE_OPTIONS,
    Pictures,
    chosen_task,
    require_model,
    require_options_of,
    task_option,
)
from keras_mobileone.cli.sources import (
    CLASSES_HELP,
    known_folders,
    load_source,
    read_classes,
    source_options,
)
from keras_mobileone.errors import InputError, InputValueError
from keras_mobileone.files import require_writable

if TYPE_CHECKING:
    from PIL import Image

    from keras_mobileone.evaluation.predictor import Predictor


@click.command("predict", cls=KerasCommand)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@source_options
@click.option("--classes", "classes_file", type=click.Path(path_type=Path), help=CLASSES_HELP)
@click.option("--top", type=click.IntRange(1), help="Classes of a photograph; 5 by default.")
@task_option
@click.option("--labels", type=click.Path(path_type=Path), help="Masks, boxes: class names.")
@click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Boxes: smallest score; 0.3 by default.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Masks, boxes: directory of the pictures."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Save the results.")
def predict_command(
    images: tuple[Path, ...],
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    task: str | None,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Show what a model sees in photographs, or in all photographs in a directory.

    Classifiers: the best classes. Segmentation and detection: the share of each class or the
    objects, and with --output, pictures with masks or boxes.

    Each result is printed before the next photograph is read. Files that can't be read are listed
    on stderr; the others are shown, and the exit code is 2. Classes without a name are shown by
    their index.

    \b
    Example: keras-mobileone predict cat.jpg --variant s0
             keras-mobileone predict photos/ --model mobileone_s0_int8.tflite
             keras-mobileone predict street.jpg --task segment --model deploy.keras --output seen/
    """
    require_model(task, model_file)
    for path in filter(None, (json_file,)):
        require_writable(path)
    show: Show | None = None
    failures: list[Exception] = []
    for path, photograph in photographs(images, failures):
        if show is None:  # loaded only when there is something to show
            show = make_show(variant, weights, model_file, task, json_file, options)
        show(path, photograph)
    if json_file is not None and isinstance(show, Pictures):
        show.save(json_file)
    if failures:
        click.get_current_context().exit(2)


def make_show(
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    task: str | None,
    json_file: Path | None,
    options: dict[str, Any],
) -> "Show":
    """Loads the model, and returns the function that shows what it sees in a photograph."""
    predictor, crop_fraction = load_source(variant, weights, model_file)
    task = chosen_task(predictor, task)
    given = {**options, "json_file": json_file}
    if task == CLASSIFY:
        require_options_of(task, given, {**DENSE_OPTIONS, "json_file": "--json"})
        names = class_names(
            predictor, read_classes(options["classes_file"]) or known_folders(weights)
        )
        return Classes(predictor, crop_fraction, names, options["top"] or 5)
    require_options_of(task, given, {"classes_file": "--classes", "top": "--top"})
    if task != "detect":
        require_options_of(task, given, {"score_threshold": "--score-threshold"})
    labels = read_classes(options["labels"])
    return Pictures(task, predictor, labels, options["output"], options["score_threshold"])


class Classes:
    """Prints the best classes of photographs."""

    def __init__(
        self,
        predictor: "Predictor",
        crop_fraction: float,
        names: Sequence[tuple[str, str]],
        top: int,
    ) -> None:
        self.predictor, self.crop_fraction = predictor, crop_fraction
        self.names, self.top = names, top

    def __call__(self, path: Path, photograph: "Image.Image") -> None:
        """Classifies a photograph, and prints the result."""
        from keras_mobileone.data.images import evaluation_crop

        side = self.predictor.image_config.image_size[0]
        crop = evaluation_crop(photograph, side, self.crop_fraction)
        scores = probabilities(self.predictor(crop[None]))[0]
        best = np.argsort(-scores, kind="stable")[: self.top]
        rows = [(*self.names[index], f"{100 * scores[index]:.1f} %") for index in best]
        print_table(("Class", "Folder", "Probability"), rows, title=str(path))


Show = Classes | Pictures


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
