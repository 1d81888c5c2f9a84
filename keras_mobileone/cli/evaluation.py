"""`keras-mobileone evaluate`: accuracy on class folders and on the robustness benchmarks."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.choices import BENCHMARKS, CORRUPTED
from keras_mobileone.cli.console import KerasCommand, console, print_table, progress_steps
from keras_mobileone.cli.dense import (
    CLASSIFY,
    DENSE_OPTIONS,
    chosen_task,
    dense_data_options,
    evaluate_dense,
    require_model,
    require_options_of,
    task_option,
)
from keras_mobileone.cli.sources import (
    CLASSES_HELP,
    load_source,
    print_images,
    read_classes,
    source_options,
)
from keras_mobileone.files import require_writable

if TYPE_CHECKING:
    from keras_mobileone.evaluation.accuracy import Evaluation
    from keras_mobileone.evaluation.confidence import Confidence
    from keras_mobileone.evaluation.corruptions import CorruptionEvaluation
    from keras_mobileone.evaluation.predictor import Predictor
    from keras_mobileone.evaluation.robustness import RobustnessEvaluation

# A report, and the function that prints it.
Printed = tuple[Any, Callable[[Any], None]]
# Options for one kind of evaluation only, and what they need.
ONLY_CORRUPTED = ("corrupt", "corruptions", "severities", "seed", "workers", "cache", "state")
ONLY_MADE = ("seed", "workers", "cache")
ONLY_PLAIN = ("classes_file", "confidence")
# Options of classifiers by parameter, besides `ONLY_CORRUPTED`, which need --benchmark.
CLASSIFIER_OPTIONS = {
    "benchmark": "--benchmark",
    "crop_fraction": "--crop-fraction",
    "classes_file": "--classes",
    "confidence": "--calibration",
}


class Numbers(click.ParamType):
    """Whole numbers, separated by commas."""

    name = "n,n,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Converts the text of the option."""
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"Expected whole numbers, separated by commas. Received: {value}.")


@click.command("evaluate", cls=KerasCommand)
@click.argument("directory", type=click.Path(path_type=Path))
@source_options
@task_option
@dense_data_options
@click.option(
    "--crop-fraction",
    type=float,
    help="Crop divided by the resized side. By default, that of the model.",
)
@click.option("--classes", "classes_file", type=click.Path(path_type=Path), help=CLASSES_HELP)
@click.option("--limit", type=click.IntRange(1), help="Number of images, spread evenly over all.")
@click.option("--calibration", "confidence", is_flag=True, help="Can the confidence be trusted?")
@click.option("--benchmark", type=click.Choice(BENCHMARKS), help="DIRECTORY is this test set.")
@click.option(
    "--real-labels", type=click.Path(path_type=Path), help="real.json, for imagenet-real."
)
@click.option("--corrupt", is_flag=True, help="Corrupt ordinary images, for imagenet-c.")
@click.option("--corruptions", metavar="NAME,NAME,…", help="For imagenet-c; all 15 by default.")
@click.option("--severities", type=Numbers(), help="For imagenet-c; 1,2,3,4,5 by default.")
@click.option("--seed", type=int, help="Seed of --corrupt; 0 by default.")
@click.option("--workers", type=click.IntRange(1), help="Processes of --corrupt; one for a core.")
@click.option("--cache", type=click.Path(path_type=Path), help="Keep what --corrupt makes.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="File of finished passes, to go on from."
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Save the result.")
def evaluate_command(
    directory: Path,
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    task: str | None,
    crop_fraction: float | None,
    limit: int | None,
    benchmark: str | None,
    real_labels: Path | None,
    threads: int,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Evaluate a classifier, a segmentation model or a detector.

    Classifiers: top-1 and top-5 on class folders, or on a robustness benchmark. Segmentation:
    mIoU on images with masks. Detection: COCO's mAP on images with boxes of VOC, COCO or YOLO.

    The folders are named by WordNet id for a model of ImageNet's classes. For any other model there
    is one folder for each output, in sorted order or as --classes says. With --benchmark, DIRECTORY
    is a test set as it is distributed.

    \b
    Example: keras-mobileone evaluate imagenet/val --variant s0
             keras-mobileone evaluate imagenet/val --model mobileone_s0_int8.tflite
             keras-mobileone evaluate imagenet-a/ --benchmark imagenet-a
             keras-mobileone evaluate imagenet/val --benchmark imagenet-c --corrupt --limit 500
             keras-mobileone evaluate camvid/ --task segment --model deploy.keras
             keras-mobileone evaluate bccd/ --task detect --model model_int8.tflite --json map.json
    """
    require_model(task, model_file)
    dense = {name: options.pop(name, None) for name in DENSE_OPTIONS}
    given = {name: value for name, value in options.items() if value}
    require_fitting(benchmark, real_labels, given)
    if json_file:
        require_writable(json_file)
    predictor, own_crop = load_source(variant, weights, model_file, threads=threads)
    task = chosen_task(predictor, task)
    own = {**given, "benchmark": benchmark, "crop_fraction": crop_fraction}
    others = DENSE_OPTIONS if task == CLASSIFY else CLASSIFIER_OPTIONS
    require_options_of(task, {**dense, **own}, others)
    common: dict[str, Any] = {"limit": limit, "threads": threads}
    with progress_steps() as step:
        common["progress"] = step("Evaluating")
        if task != CLASSIFY:
            result = evaluate_dense(task, predictor, directory, {**dense, **common})
        elif benchmark is None:
            result = plain(predictor, directory, crop_fraction or own_crop, given, common)
        elif benchmark == CORRUPTED:
            result = corrupted(predictor, directory, crop_fraction, given, common)
        else:
            common |= {"crop_fraction": crop_fraction or own_crop, "real_labels": real_labels}
            result = robust(predictor, directory, benchmark, common)
    report, print_report = result
    print_report(report)
    if json_file:
        report.save(json_file)


def require_fitting(benchmark: str | None, real_labels: Path | None, given: dict[str, Any]) -> None:
    """Raises a usage error for an option that the chosen kind of evaluation does not have."""
    wrong = [name for name in ONLY_CORRUPTED if name in given and benchmark != CORRUPTED]
    wrong += [name for name in ONLY_PLAIN if name in given and benchmark is not None]
    if real_labels is not None and benchmark != "imagenet-real":
        wrong.append("real_labels")
    if wrong:
        option = {"classes_file": "classes", "confidence": "calibration"}.get(wrong[0], wrong[0])
        kind = f"--benchmark {benchmark}" if benchmark else "an evaluation without --benchmark"
        raise click.UsageError(
            f"--{option.replace('_', '-')} does not belong to {kind}.", click.get_current_context()
        )
    made = [name for name in ONLY_MADE if name in given and "corrupt" not in given]
    if made:
        raise click.UsageError(f"--{made[0]} needs --corrupt.", click.get_current_context())


def plain(
    predictor: "Predictor",
    directory: Path,
    crop_fraction: float,
    given: dict[str, Any],
    common: dict[str, Any],
) -> Printed:
    """Evaluates on class folders."""
    from keras_mobileone.evaluation.accuracy import evaluate

    print_images(directory)
    report = evaluate(
        predictor,
        directory,
        crop_fraction=crop_fraction,
        classes=read_classes(given.get("classes_file")),
        confidence=given.get("confidence", False),
        **common,
    )
    return report, print_evaluation


def robust(
    predictor: "Predictor", directory: Path, benchmark: str, settings: dict[str, Any]
) -> Printed:
    """Evaluates on a robustness test set other than ImageNet-C."""
    from keras_mobileone.evaluation.robustness import evaluate_robustness

    return evaluate_robustness(predictor, directory, benchmark, **settings), print_robustness


def corrupted(
    predictor: "Predictor",
    directory: Path,
    crop_fraction: float | None,
    given: dict[str, Any],
    common: dict[str, Any],
) -> Printed:
    """Evaluates on ImageNet-C, distributed or made from ordinary images."""
    from keras_mobileone.evaluation.corruptions import evaluate_corruptions

    settings = {name: given[name] for name in ONLY_CORRUPTED if name in given}
    if "corruptions" in settings:
        settings["corruptions"] = tuple(settings["corruptions"].split(","))
    (report,) = evaluate_corruptions(
        [predictor], directory, crop_fraction=crop_fraction, **settings, **common
    )
    return report, print_corruptions


def print_evaluation(result: "Evaluation") -> None:
    """Prints the accuracy on class folders."""
    cells = (
        *(result.model, f"{result.images}"),
        *(percent(result.top1, result.images), percent(result.top5, result.images)),
        f"{result.images_per_second}",
    )
    print_table(("Model", "Images", "Top-1", "Top-5", "Images/s"), [cells])
    if result.confidence is not None:
        print_confidence(result.confidence)


def print_robustness(result: "RobustnessEvaluation") -> None:
    """Prints the accuracy on a robustness test set."""
    cells = (
        *(result.model, f"{result.images}"),
        *(percent(result.top1, result.images), percent(result.top5, result.images)),
    )
    print_table(("Model", "Images", "Top-1", "Top-5"), [cells])
    console.print(f"{result.benchmark}, best of {result.scored_classes} classes.")
    if result.left_out:
        console.print(f"{result.left_out} images have no label and were left out.")


def print_corruptions(result: "CorruptionEvaluation") -> None:
    """Prints the top-1 error under each corruption at each severity, in percent."""
    header = ("Top-1 error, %", *(str(level) for level in result.severities), "mean")
    rows = [
        (
            name.replace("_", " "),
            *(f"{100 * (1 - count / result.images):.1f}" for count in right),
            f"{100 * result.error(name):.1f}",
        )
        for name, right in result.right.items()
    ]
    print_table(header, rows, title=f"{result.model}, {result.images} images of each kind")
    console.print(f"Mean error: {100 * result.mean_error:.1f} %.")
    if result.clean is not None:
        console.print(f"Without corruption: {100 - 100 * result.clean / result.images:.1f} %.")
    if result.mce is not None:
        console.print(f"mCE: {result.mce:.1f}, where AlexNet has 100.")


def print_confidence(found: "Confidence") -> None:
    """Prints how far the confidence can be trusted."""
    error, scaled, unscaled = (
        f"{100 * value:.1f} %"
        for value in (
            found.expected_calibration_error,
            found.scaled_expected_calibration_error,
            found.unscaled_expected_calibration_error,
        )
    )
    console.print(
        f"Mean confidence {100 * found.mean_confidence:.1f} % at {100 * found.accuracy:.1f} % "
        f"top-1; expected calibration error {error}. Logits divided by a temperature of "
        f"{found.temperature:.2f} have an error of {scaled} instead of {unscaled} on the half of "
        "the images that the temperature was not fitted on."
    )


def percent(right: int, images: int) -> str:
    """Returns a count with its share of the images."""
    return f"{right} ({100 * right / images:.2f} %)"
