"""`keras-mobileone train` and `finetune`."""

from pathlib import Path

import click

from keras_mobileone.cli.console import console, print_table
from keras_mobileone.cli.sources import VARIANT_CHOICE
from keras_mobileone.litert.converter import PRECISIONS
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.finalize import TrainingReport
from keras_mobileone.training.finetuning import finetune
from keras_mobileone.training.recipe import RECIPES, get_recipe
from keras_mobileone.training.train import SAVE_EVERY, train
from keras_mobileone.weights.loading import load_keras


def run_options(command):
    """Adds what `train` and `finetune` have in common."""
    for option in (
        click.option("--data", required=True, help="Class folders, TFRecords or tfds:NAME."),
        click.option(
            "--output", required=True, type=click.Path(path_type=Path), help="Of the run."
        ),
        click.option("--epochs", type=click.IntRange(1), help="Stretches the recipe."),
        click.option(
            "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Changes the recipe."
        ),
        click.option("--resume", is_flag=True, help="Go on with the run in --output."),
        click.option(
            "--export",
            "exports",
            multiple=True,
            type=click.Choice(PRECISIONS),
            help="TFLite files.",
        ),
        click.option("--skip-bad", is_flag=True, help="Leave out files that can't be decoded."),
        click.option(
            "--data-service", metavar="GRPC://HOST:PORT", help="tf.data service for the input."
        ),
        click.option(
            "--save-every",
            default=SAVE_EVERY,
            show_default=True,
            type=click.IntRange(1),
            help="Steps between checkpoints.",
        ),
        click.option("--tensorboard", is_flag=True, help="TensorBoard logs too."),
        click.option("--workers", metavar="HOST:PORT,…", help="All machines, the same on each."),
        click.option("--index", type=click.IntRange(0), help="Which of --workers this one is."),
    ):
        command = option(command)
    return command


@click.command("train")
@run_options
@click.option("--recipe", "recipe_name", required=True, help="A name of `recipes`, or a JSON file.")
@click.option("--teacher", type=click.Path(path_type=Path), help="A .keras file, to distil from.")
def train_command(recipe_name, teacher, **options):
    """Train a MobileOne, then fuse, evaluate and export it.

    DATA holds train/ and val/ with class folders, or TFRecords as `write-tfrecords` writes them. A
    run that was stopped goes on with --resume, exactly where it was. For several machines run the
    same command on each, with its own --index.

    \b
    Example: keras-mobileone train --data imagenet/ --recipe s0 --output runs/s0
             keras-mobileone train --data imagenet/ --recipe s0 --output runs/s0 \\
                 --workers a:2222,b:2222 --index 0
    """
    recipe = recipe_of(get_recipe(recipe_name), options)
    devices = devices_of(options)
    model = None if teacher is None else load_keras(teacher)
    data, output = options.pop("data"), options.pop("output")
    print_report(
        train(recipe, data, output, teacher=model, devices=devices, log=click.echo, **options)
    )


@click.command("finetune")
@run_options
@click.option("--variant", type=VARIANT_CHOICE, help="s0 (the default) … s4.")
@click.option("--weights", default="imagenet", show_default=True, metavar="NAME|PATH")
@click.option("--recipe", "recipe_name", default="finetune", show_default=True)
def finetune_command(variant, weights, recipe_name, **options):
    """Fine-tune pretrained weights on your own class folders.

    Any number of classes; the classifier is new. Fused weights are split into branches first.

    \b
    Example: keras-mobileone finetune --data photos/ --output runs/photos --export int8
    """
    recipe = recipe_of(get_recipe(recipe_name), options)
    devices = devices_of(options)
    data, output = options.pop("data"), options.pop("output")
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
def recipes_command():
    """The recipes that `train` knows.

    \b
    Example: keras-mobileone recipes
    """
    rows = [
        (
            recipe.name,
            recipe.variant.name,
            str(recipe.epochs),
            " → ".join(str(phase.image_size) for phase in recipe.phases),
            recipe.augmentation or "crop, flip",
        )
        for recipe in RECIPES.values()
    ]
    print_table(("Recipe", "Network", "Epochs", "Pixels", "Augmentation"), rows)
    for recipe in RECIPES.values():
        console.print(f"{recipe.command}", soft_wrap=True)
        console.print(f"    top-1: {recipe.expected_accuracy}; time: {recipe.expected_time}")


def recipe_of(recipe, options):
    """The recipe with --epochs and --set."""
    epochs, settings = options.pop("epochs"), options.pop("settings")
    return recipe.changed(([f"epochs={epochs}"] if epochs else []) + list(settings))


def devices_of(options) -> Devices:
    """The devices that --workers and --index ask for."""
    workers, index = options.pop("workers"), options.pop("index")
    return Devices(tuple(workers.split(",")) if workers else (), index)


def print_report(report: TrainingReport | None) -> None:
    """The result of a run; nothing on machines that have none."""
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
    if report.skipped:
        console.print(f"{len(report.skipped)} broken files were left out: see report.json.")
    for precision, name in report.exports.items():
        console.print(f"{precision}: {Path(report.directory) / name}")
    console.print(f"{report.steps} steps, {report.seconds:.0f} s. Results: {report.directory}")
