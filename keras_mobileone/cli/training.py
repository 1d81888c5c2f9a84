"""The commands `train`, `finetune` and `recipes`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.choices import DENSE_FORMATS, PRECISIONS, SAVE_EVERY
from keras_mobileone.cli.console import KerasCommand, console, print_table, stop
from keras_mobileone.cli.sources import VARIANT_CHOICE, Command
from keras_mobileone.training.recipe import RECIPES, TASKS, Recipe, get_recipe

if TYPE_CHECKING:
    from keras_mobileone.training.distribution import Devices
    from keras_mobileone.training.finalize import TrainingReport


def run_options(command: Command) -> Command:
    """Adds the options that `train` and `finetune` have in common."""
    for option in (
        click.option(
            "--data",
            required=True,
            help="Class folders, TFRecords or tfds:NAME; or images with masks or boxes.",
        ),
        click.option(
            "--task",
            type=click.Choice(TASKS),
            help="Refuse a recipe that does not train this. By default, that of the recipe.",
        ),
        click.option(
            "--labels",
            type=click.Path(path_type=Path),
            help="File of class names (and colors) of masks or boxes.",
        ),
        click.option(
            "--format",
            "data_format",
            type=click.Choice(DENSE_FORMATS),
            help="Format of masks or boxes, which is recognized otherwise.",
        ),
        click.option(
            "--output", required=True, type=click.Path(path_type=Path), help="Directory of the run."
        ),
        click.option(
            "--epochs", type=click.IntRange(1), help="Stretch the recipe to this number of epochs."
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="NAME=VALUE",
            help="Change a setting of the recipe.",
        ),
        click.option("--resume", is_flag=True, help="Continue the run in --output."),
        click.option(
            "--export",
            "exports",
            multiple=True,
            type=click.Choice(PRECISIONS),
            help="Precision of a TFLite file to write.",
        ),
        click.option(
            "--skip-bad",
            is_flag=True,
            help="Leave out files that can't be decoded, and bad annotations.",
        ),
        click.option(
            "--data-service", metavar="GRPC://HOST:PORT", help="tf.data service for the input."
        ),
        click.option(
            "--save-every",
            default=SAVE_EVERY,
            show_default=True,
            type=click.IntRange(1),
            help="Number of steps between checkpoints.",
        ),
        click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs."),
        click.option(
            "--workers",
            metavar="HOST:PORT,…",
            help="Addresses of all machines, in the same order on each.",
        ),
        click.option("--index", type=click.IntRange(0), help="Index of this machine in --workers."),
    ):
        command = option(command)
    return command


@click.command("train", cls=KerasCommand)
@run_options
@click.option("--recipe", "recipe_name", required=True, help="A name of `recipes`, or a JSON file.")
@click.option("--teacher", type=click.Path(path_type=Path), help="A .keras file to distill from.")
def train_command(recipe_name: str, teacher: Path | None, **options: Any) -> None:
    """Train a MobileOne model, then fuse, evaluate and export it.

    DATA contains train/ and val/ with class folders, or TFRecords as `write-tfrecords` writes them.
    A recipe for segmentation or detection takes images with masks, or with boxes of VOC, COCO or
    YOLO.
    Use --resume to continue an interrupted run with the same result. For several machines, run the
    same command on each of them with a different --index.

    \b
    Example: keras-mobileone train --data imagenet/ --recipe s0 --output runs/s0
             keras-mobileone train --data imagenet/ --recipe s0 --output runs/s0 \\
                 --workers a:2222,b:2222 --index 0
    """
    from keras_mobileone.training.train import train
    from keras_mobileone.weights.loading import load_keras

    recipe = recipe_of(get_recipe(recipe_name), options)
    devices = devices_of(options)
    model = None if teacher is None else load_keras(teacher)
    data, output = options.pop("data"), options.pop("output")
    with resumable(output):
        report = train(
            recipe, data, output, teacher=model, devices=devices, log=click.echo, **options
        )
    print_report(report)


@click.command("finetune", cls=KerasCommand)
@run_options
@click.option("--variant", type=VARIANT_CHOICE, help="s0 (the default) … s4.")
@click.option("--weights", default="imagenet", show_default=True, metavar="NAME|PATH")
@click.option("--recipe", "recipe_name", default="finetune", show_default=True)
def finetune_command(variant: str | None, weights: str, recipe_name: str, **options: Any) -> None:
    """Fine-tune pretrained weights on your own class folders.

    The classifier is new and may have any number of classes. Fused weights are first split into
    branches.

    \b
    Example: keras-mobileone finetune --data photos/ --output runs/photos --export int8
    """
    from keras_mobileone.training.finetuning import finetune

    recipe = recipe_of(get_recipe(recipe_name), options)
    devices = devices_of(options)
    data, output = options.pop("data"), options.pop("output")
    with resumable(output):
        report = finetune(
            data,
            output,
            variant=variant,
            weights=weights,
            recipe=recipe,
            devices=devices,
            log=click.echo,
            **options,
        )
    print_report(report)


@click.command("recipes")
def recipes_command() -> None:
    """List the recipes for `train`.

    \b
    Example: keras-mobileone recipes
    """
    rows = [
        (
            recipe.name,
            recipe.variant.name,
            str(recipe.epochs),
            " → ".join(str(phase.image_size) for phase in recipe.phases),
            recipe.augmentation or CHANGES[recipe.task],
        )
        for recipe in RECIPES.values()
    ]
    print_table(("Recipe", "Network", "Epochs", "Pixels", "Augmentation"), rows)
    for recipe in RECIPES.values():
        console.print(f"{recipe.command}", soft_wrap=True)
        metric = {"segment": "mIoU", "detect": "mAP"}.get(recipe.task, "top-1")
        console.print(f"    {metric}: {recipe.expected_accuracy}; time: {recipe.expected_time}")


# What is changed at random besides the augmentation of a recipe.
CHANGES = {
    "classify": "crop, flip",
    "segment": "scale, crop, flip, color",
    "detect": "expand, crop, flip, color",
}


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Prints how to resume a training that is stopped by Ctrl-C, and ends the program."""
    from keras_mobileone.training.callbacks import CHECKPOINT
    from keras_mobileone.training.checkpoint import read_progress

    try:
        yield
    except KeyboardInterrupt:
        path = output / CHECKPOINT
        if path.is_file():
            step = read_progress(path).step
            stop(f"Run the same command with --resume to continue after step {step}.")
        stop(f"There is no checkpoint in {output} yet. Start again with another --output.")


def recipe_of(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """Returns the recipe changed by --epochs and --set, which must fit --task."""
    from keras_mobileone.training.tasks import require_task

    require_task(recipe, options.pop("task"))
    epochs, settings = options.pop("epochs"), options.pop("settings")
    return recipe.changed(([f"epochs={epochs}"] if epochs else []) + list(settings))


def devices_of(options: dict[str, Any]) -> "Devices":
    """Returns the devices that --workers and --index select."""
    from keras_mobileone.training.distribution import Devices

    workers, index = options.pop("workers"), options.pop("index")
    return Devices(tuple(workers.split(",")) if workers else (), index)


def print_report(report: "TrainingReport | None") -> None:
    """Prints the result of a run, which only the first of several machines has."""
    if report is None:
        return
    if report.top1 is not None:
        total = report.validation_images
        rows = [
            (name, f"{right} of {total}", f"{100 * right / total:.2f} %")
            for name, right in report.top1.items()
        ]
        print_table(("Model", "Right", "Top-1"), rows)
        console.print(f"Both give the same answer for {report.agreement} of {total} images.")
    if report.scores is not None:
        names = list(dict.fromkeys(name for found in report.scores.values() for name in found))
        table = [
            (model, *(f"{100 * found[name]:.2f} %" for name in names))
            for model, found in report.scores.items()
        ]
        print_table(("Model", *names), table)
    if report.skipped:
        console.print(
            f"{len(report.skipped)} broken files or annotations were left out: see report.json."
        )
    for precision, name in report.exports.items():
        console.print(f"{precision}: {Path(report.directory) / name}")
    console.print(f"{report.steps} steps, {report.seconds:.0f} s. Results: {report.directory}")
