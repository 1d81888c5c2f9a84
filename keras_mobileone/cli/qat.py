"""The command `qat`, which trains a classifier quantization-aware on class folders."""

from pathlib import Path
from typing import Any

import click

from keras_mobileone.cli.console import KerasCommand, console, stop
from keras_mobileone.cli.sources import print_images


@click.command("qat", cls=KerasCommand)
@click.option("--model", "model_file", required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Class folders.")
@click.option("--epochs", required=True, type=click.IntRange(1))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option(
    "--learning-rate", default=1e-5, show_default=True, type=float, help="Learning rate of Adam."
)
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--limit", type=click.IntRange(1), help="Number of random images in an epoch.")
@click.option(
    "--run", "run_directory", type=click.Path(path_type=Path), help="Directory for checkpoints."
)
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in --run.")
def qat_command(
    model_file: Path,
    data: Path,
    epochs: int,
    output: Path,
    run_directory: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Train a classifier with the rounding of its int8 file, and write that file.

    DATA contains train/ and optionally val/, each with one folder of photographs for each class, or
    the class folders themselves. The sorted folders correspond to the outputs of the model. For the
    1000 classes of ImageNet, the WordNet ids name the classes. The model is fused and equalized
    first.

    \b
    Example: keras-mobileone qat --model s0.keras --data imagenette/ --epochs 2 \\
                 --output s0_int8.tflite --run runs/s0
    """
    from keras_mobileone.quantization.qat_model import packages
    from keras_mobileone.training.callbacks import CHECKPOINT
    from keras_mobileone.training.qat_classifier import check_output, checkpoint_file, train_qat
    from keras_mobileone.weights.loading import load_keras

    # This comes before the model is read, which takes long.
    packages()
    check_output(output)
    checkpoint_file(run_directory, resume)
    print_images(data)
    try:
        report = train_qat(
            load_keras(model_file),
            data,
            output,
            epochs=epochs,
            checkpoints=run_directory,
            resume=resume,
            status=lambda title: console.print(f"{title} …"),
            **settings,
        )
    except KeyboardInterrupt:
        saved = run_directory is not None and (run_directory / CHECKPOINT).is_file()
        stop(
            f"Run the same command with --resume to continue from {run_directory}."
            if saved
            else "There is no checkpoint yet. Start it again; --run keeps one for each epoch."
        )
    results = ", ".join(f"{name} {values[-1]:.4f}" for name, values in report.history.items())
    console.print(
        f"{output}: {report.bytes / 1e6:.2f} MB, int8 throughout, after {epochs} "
        f"epochs{': ' if results else ''}{results}."
    )
