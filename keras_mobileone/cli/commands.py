"""The commands. Each only parses its arguments, calls the library and prints what it returns.

The parts of the library that a command needs are imported inside it, so that `--help` and usage
errors do not import Keras.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import keras_mobileone
from keras_mobileone.about import About
from keras_mobileone.choices import TASKS
from keras_mobileone.cli.benchmarking import benchmark_command
from keras_mobileone.cli.console import (
    KerasCommand,
    OneLineErrors,
    console,
    print_table,
    progress_steps,
    without_native_logs,
)
from keras_mobileone.cli.data import write_tfrecords_command
from keras_mobileone.cli.evaluation import evaluate_command
from keras_mobileone.cli.exports import export_group
from keras_mobileone.cli.prediction import predict_command
from keras_mobileone.cli.qat import qat_command
from keras_mobileone.cli.sources import (
    VARIANT_CHOICE,
    about_options,
    print_images,
    read_labels,
    source_options,
)
from keras_mobileone.cli.training import finetune_command, recipes_command, train_command
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.models.variant_complexity import variant_complexity
from keras_mobileone.variants import ALL_VARIANTS, UNOFFICIAL_VARIANTS, VARIANTS, get_variant

if TYPE_CHECKING:
    import keras

EPILOG = (
    "Completion of commands and options: add "
    '`eval "$(_KERAS_MOBILEONE_COMPLETE=bash_source keras-mobileone)"` to ~/.bashrc; for zsh and '
    "fish write zsh_source or fish_source."
)


@click.group(
    cls=OneLineErrors, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(keras_mobileone.__version__, package_name="keras-mobileone")
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
def main(traceback: bool) -> None:
    """MobileOne for Keras 3: weights, fusing, TFLite, evaluation and timing."""


@main.command()
@click.argument("variants", nargs=-1, type=click.Choice(list(ALL_VARIANTS), case_sensitive=False))
@click.option(
    "--task",
    type=click.Choice(TASKS),
    default=TASKS[0],
    show_default=True,
    help="segment: DeepLabV3 with 21 classes at 512 pixels; detect: SSDLite with 80 at 320.",
)
def info(variants: tuple[str, ...], task: str) -> None:
    """Show parameters, multiply-accumulates and published accuracy.

    The numbers of the train-time and the deploy form differ because fusing sums up the branches.
    The micro variants are unofficial: the paper gives their counts, but not their shapes.

    \b
    Example: keras-mobileone info s0 s4
             keras-mobileone info micro0 micro1 micro2
             keras-mobileone info s0 --task segment
    """
    from keras_mobileone.benchmarking.published_results import PUBLISHED

    if task != TASKS[0]:
        print_dense_info(variants or tuple(VARIANTS), task)
        return

    header = ("", "form", "parameters", "BN statistics", "MACs at 224", "+ classifier")
    rows, accuracy = [], []
    for key in variants or VARIANTS:
        for deployed in (False, True):
            counts = variant_complexity(get_variant(key), deployed)
            form = "deploy" if deployed else "train time"
            sizes = counts.trainable, counts.non_trainable, counts.feature_macs, counts.dense_macs
            rows.append((key, form, *(f"{size:,}" for size in sizes)))
        if key in VARIANTS:
            figures = PUBLISHED[get_variant(key).name]
            accuracy.append((key, *("–" if f is None else f"{f:g}" for f in figures)))
    print_table(header, rows)
    if accuracy:
        print_table(
            ("", "authors' top-1", "timm's top-1", "top-5", "distilled", "iPhone 12 Pro ms"),
            accuracy,
            title="ImageNet, as published (not measured here)",
        )
    if set(variants) & set(UNOFFICIAL_VARIANTS):
        console.print(
            "The micro variants are unofficial: their parameters and MACs are near the paper's, "
            "their widths and depths are not the authors'. There are no weights for them."
        )


def print_dense_info(variants: tuple[str, ...], task: str) -> None:
    """Prints the counts of the networks for segmentation or detection, for each of their heads."""
    from keras_mobileone.models.dense_complexity import DENSE_HEADS, dense_complexity

    with without_native_logs():
        rows = [
            (key, head.name, *(f"{count:,}" for count in dense_complexity(get_variant(key), head)))
            for key in variants
            for head in DENSE_HEADS[task]
        ]
    header = ("", "head", "parameters", "MACs", "of the backbone", "of the head")
    print_table(header, rows, title=f"{DENSE_HEADS[task][0].conditions}, deploy form")


@main.command("fuse", cls=KerasCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def fuse_command(source: Path, target: Path) -> None:
    """Fold a train-time .keras file into a deploy .keras file.

    \b
    Example: keras-mobileone fuse trained.keras deploy.keras
    """
    from keras_mobileone.models.fusing import fuse
    from keras_mobileone.weights.loading import load_keras

    require_writable(target)
    model = load_keras(source)
    fused = fuse(model)
    save_keras(fused, target)
    console.print(
        f"{target}: {fused.count_params():,} parameters, folded from {model.count_params():,}."
    )


@main.command("convert-weights", cls=KerasCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--variant", required=True, type=VARIANT_CHOICE)
def convert_weights(source: Path, target: Path, variant: str) -> None:
    """Convert a weight file to a .keras file, deploy if its weights are fused and else train-time.

    \b
    Example: keras-mobileone convert-weights model.safetensors s0.keras --variant s0
    """
    from keras_mobileone.applications import MobileOne
    from keras_mobileone.weights.loading import read_weights
    from keras_mobileone.weights.naming import is_fused

    require_writable(target)
    network = get_variant(variant)
    deployed = is_fused(read_weights(network, source))
    model = MobileOne(network, weights=source, deploy=deployed)
    save_keras(model, target)
    form = "deploy" if deployed else "train-time"
    console.print(f"{target}: {form} {network.name}, {model.count_params():,} parameters.")


def save_keras(model: "keras.Model", target: Path) -> None:
    """Saves a model as a .keras file, atomically."""
    if target.suffix != ".keras":
        raise InputValueError(f"The output must end in .keras. Received: {target}.")
    with atomic_write(target) as temporary:
        model.save(temporary)


def default_weights(variant: str) -> str:
    """Returns "imagenet" if its weights are available, else "imagenette" after a message."""
    from keras_mobileone.weights.pretrained import available_weights

    weights, reason = available_weights(get_variant(variant))
    if reason:
        console.print(
            f"The ImageNet weights are not available ({reason}). The weights of ten classes that "
            "come with the package are used instead. They know only these classes.",
            markup=False,
        )
    return weights


@main.command("deploy", cls=KerasCommand)
@source_options
@click.option("--calibration", type=click.Path(path_type=Path), help="Directory of photographs.")
@click.option("--coreml", is_flag=True, help="Also write a Core ML package.")
@about_options
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def deploy_command(
    variant: str | None,
    weights: str | None,
    model_file: Path | None,
    calibration: Path | None,
    coreml: bool,
    labels_file: Path | None,
    threads: int,
    output: Path,
    **about: Any,
) -> None:
    """Load and fuse a model, export it in three precisions, verify, time and report.

    \b
    Example: keras-mobileone deploy --variant s0 --calibration photos/ --output s0/
             keras-mobileone deploy --model mine.keras --labels classes.txt --output mine/

    --weights auto takes ImageNet's weights if they are available, and otherwise the weights of
    Imagenette's ten classes, which come with the package.
    """
    from keras_mobileone.deployment.pipeline import deploy
    from keras_mobileone.deployment.report import HEADER, package_summary, summary, table_rows

    if weights == "auto":
        weights = default_weights(variant or "s0")
    print_images(calibration)
    with progress_steps() as step, without_native_logs():
        report = deploy(
            variant,
            weights,
            output,
            calibration,
            model=model_file,
            coreml=coreml,
            labels=read_labels(labels_file),
            about=About(**about),
            threads=threads,
            step=step,
        )
    first, *conditions = summary(report)
    console.print(first)
    print_table(HEADER, table_rows(report))
    names = [file.precision for file in report.files]
    rows = [(photo, answer, *answers) for photo, answer, answers in report.predictions]
    if rows:
        print_table(("Photograph", "Keras", *names), rows)
    for line in conditions:
        console.print(line)
    if report.package:
        console.print(package_summary(report.package))
    console.print(f"Files, report.json, report.md and report.png: {output}")


for command in (
    evaluate_command,
    predict_command,
    export_group,
    write_tfrecords_command,
    train_command,
    finetune_command,
    recipes_command,
    qat_command,
    benchmark_command,
):
    main.add_command(command)
