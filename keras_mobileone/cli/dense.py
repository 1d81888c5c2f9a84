"""`evaluate` and `predict` for segmentation models and detectors."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.choices import DENSE_FORMATS, TASKS
from keras_mobileone.cli.console import console, print_table
from keras_mobileone.cli.sources import Command
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from keras_mobileone.evaluation.dense_accuracy import (
        DetectionEvaluation,
        SegmentationEvaluation,
    )
    from keras_mobileone.evaluation.predictor import Predictor

CLASSIFY, SEGMENT, DETECT = TASKS
# Options that only segmentation and detection have, by parameter.
DENSE_OPTIONS = {
    "data_format": "--format",
    "labels": "--labels",
    "split": "--split",
    "skip_bad": "--skip-bad",
    "output": "--output",
    "score_threshold": "--score-threshold",
}
QUALITY = 92  # of JPEG files of pictures
LISTED = 10  # objects or classes of a photograph that are printed


def task_option(command: Command) -> Command:
    """Adds --task."""
    return click.option(
        "--task",
        type=click.Choice(TASKS),
        help="Refuse a model that does something else. By default, that of the model.",
    )(command)


def dense_data_options(command: Command) -> Command:
    """Adds the options for data sets with masks or boxes."""
    for option in (
        click.option(
            "--skip-bad", is_flag=True, help="Masks, boxes: leave out broken files and annotations."
        ),
        click.option(
            "--split",
            type=click.Choice(("val", "train")),
            help="Masks, boxes: the images to evaluate; val by default.",
        ),
        click.option(
            "--labels",
            type=click.Path(path_type=Path),
            help="Masks, boxes: file of class names (and colors) in the order of the outputs.",
        ),
        click.option(
            "--format",
            "data_format",
            type=click.Choice(DENSE_FORMATS),
            help="Masks, boxes: format, which is recognized otherwise.",
        ),
    ):
        command = option(command)
    return command


def chosen_task(predictor: "Predictor", task: str | None) -> str:
    """Returns the task of a model, which must be `task` unless that is None."""
    from keras_mobileone.evaluation.dense_predictor import require_task_of, task_of

    if task is not None:
        require_task_of(predictor, task)
    return task_of(predictor) or CLASSIFY  # whose code names what such a model lacks


def require_model(task: str | None, model_file: Path | None) -> None:
    """Raises ValueError if a task other than classification is asked for without a file."""
    if task in (SEGMENT, DETECT) and model_file is None:
        raise InputValueError(
            f"--task {task} needs --model FILE, since the named weights classify. "
            "Received: no --model."
        )


def require_options_of(task: str, given: dict[str, Any], other: dict[str, str]) -> None:
    """Raises a usage error for a given option that a task does not have.

    Args:
        task: The task.
        given: Values of the options that were given, by parameter.
        other: The options of the other tasks, by parameter.
    """
    wrong = [option for name, option in other.items() if given.get(name)]
    if wrong:
        raise click.UsageError(
            f"{wrong[0]} does not belong to the task {task!r}, which is that of the model.",
            click.get_current_context(),
        )


def evaluate_dense(
    task: str, predictor: "Predictor", directory: Path, options: dict[str, Any]
) -> tuple[Any, Callable[[Any], None]]:
    """Evaluates a model on masks or boxes.

    Returns:
        The report, and the function that prints it.
    """
    from keras_mobileone.evaluation import dense_accuracy

    settings = {name: options[name] for name in ("labels", "skip_bad", "limit", "progress")}
    settings |= {"format": options["data_format"], "split": options["split"] or "val"}
    source: Any = predictor
    if task == SEGMENT:
        report = dense_accuracy.evaluate_segmentation(source, directory, **settings)
        return report, print_segmentation
    return dense_accuracy.evaluate_detection(source, directory, **settings), print_detection


def print_segmentation(result: "SegmentationEvaluation") -> None:
    """Prints the IoU of each class, and the class with which it is confused most."""
    names = list(result.iou_by_class)
    rows = []
    for number, (name, iou) in enumerate(result.iou_by_class.items()):
        pixels = result.confusion[number]
        total = sum(pixels)
        others = [(count, k) for k, count in enumerate(pixels) if k != number]
        most, other = max(others, key=lambda pair: pair[0], default=(0, number))
        share = f"{100 * total / max(1, sum(map(sum, result.confusion))):.2f} %"
        right = f"{100 * pixels[number] / total:.2f} %" if total else "–"
        taken = f"{names[other]} ({100 * most / total:.1f} %)" if most else "–"
        rows.append((name, percent(iou), right, share, taken))
    header = ("Class", "IoU", "Right", "Of all pixels", "Most taken for")
    print_table(header, rows, title=title_of(result))
    console.print(
        f"mIoU {percent(result.miou)}, pixel accuracy {percent(result.pixel_accuracy)}, counted at "
        f"{result.image_size[1]}×{result.image_size[0]} pixels."
    )
    print_left_out(result.left_out)


def print_detection(result: "DetectionEvaluation") -> None:
    """Prints COCO's average precisions."""
    scores = result.scores
    rows = [
        (name, percent(value), percent(scores.by_class50[name]))
        for name, value in scores.by_class.items()
    ]
    title = f"{title_of(result)}, {result.objects} objects"
    print_table(("Class", "AP", "AP50"), rows, title=title)
    header = ("", "mAP", "mAP50", "mAP75", "small", "medium", "large")
    values = (
        *(scores.map, scores.map50, scores.map75),
        *(scores.map_small, scores.map_medium, scores.map_large),
    )
    print_table(header, [("All classes", *map(percent, values))])
    print_left_out(result.left_out)


def title_of(result: Any) -> str:
    """Returns the model, the data and the speed in a line."""
    return f"{result.model}, {result.images} images of {result.data}, {result.images_per_second}/s"


def print_left_out(left_out: list[str]) -> None:
    """Prints how many files or annotations were left out, and the first one."""
    if left_out:
        console.print(
            f"{len(left_out)} broken files or annotations were left out, such as: {left_out[0]}"
        )


def percent(value: float | None) -> str:
    """Returns a fraction in percent; a dash for None and NaN."""
    return "–" if value is None or value != value else f"{100 * value:.2f} %"


class Pictures:
    """Predicts photographs, and writes pictures of the results.

    Args:
        task: "segment" or "detect".
        predictor: The model.
        labels: Names of the classes, or None for those of the model.
        output: Directory of the pictures, or None.
        score_threshold: Smallest score of an object, or None for the default.
    """

    def __init__(
        self,
        task: str,
        predictor: "Predictor",
        labels: Any,
        output: Path | None,
        score_threshold: float | None,
    ) -> None:
        from keras_mobileone.evaluation.dense_pictures import SHOWN_SCORE
        from keras_mobileone.evaluation.dense_predictor import load_detector, load_segmenter

        self.task, self.output = task, output
        load: Any = load_segmenter if task == SEGMENT else load_detector
        self.model = load(predictor, labels=labels)
        self.score_threshold = SHOWN_SCORE if score_threshold is None else score_threshold
        self.results: list[dict[str, Any]] = []
        self.written: set[Path] = set()

    def __call__(self, path: Path, photograph: "Image.Image") -> None:
        """Predicts a photograph, prints the result, and writes its picture."""
        from keras_mobileone.evaluation.dense_pictures import detect, segment

        found: Any
        rows: list[tuple[str, ...]]
        if self.task == SEGMENT:
            found = segment(self.model, photograph)
            rows = [(name, percent(share)) for name, share in found.shares.items()]
            header: tuple[str, ...] = ("Class", "Of all pixels")
        else:
            found = detect(self.model, photograph, score_threshold=self.score_threshold)
            rows = [
                (o.label, percent(o.score), " ".join(f"{value:.0f}" for value in o.box))
                for o in found.objects
            ]
            header = ("Class", "Score", "x1 y1 x2 y2")
        title = str(path) if rows else f"{path}: no object with a score of {self.score_threshold}"
        print_table(header, rows[:LISTED], title=title)
        if len(rows) > LISTED:
            console.print(f"… and {len(rows) - LISTED} more.")
        picture = None if self.output is None else self.write(path, found.draw(photograph))
        self.results.append(
            {"photograph": str(path), "picture": picture and str(picture), **found.to_dict()}
        )

    def write(self, path: Path, pixels: Any) -> Path:
        """Writes the picture of a photograph, with a name of its own, and returns its path."""
        from PIL import Image

        output = self.output
        if output is None or output.resolve() == path.resolve().parent:
            raise InputValueError(
                "--output must be another directory than that of the photographs, which would be "
                f"replaced. Received: {output}."
            )
        output.mkdir(exist_ok=True)
        target, number = output / f"{path.stem}.jpg", 1
        while target in self.written:
            number += 1
            target = output / f"{path.stem}-{number}.jpg"
        with atomic_write(target) as temporary:
            Image.fromarray(pixels).save(temporary, quality=QUALITY, subsampling=0)
        self.written.add(target)
        return target

    def save(self, json_file: Path) -> None:
        """Writes the results as JSON."""
        from keras_mobileone.evaluation.dense_pictures import Predictions

        Predictions(self.model.name, self.task, self.results).save(json_file)
