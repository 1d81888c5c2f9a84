"""The command `write-tfrecords`, which writes class folders as TFRecords."""

from pathlib import Path

import click

from keras_mobileone.cli.console import KerasCommand, console, progress_steps


@click.command("write-tfrecords", cls=KerasCommand)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--shards", required=True, type=click.IntRange(1), help="Number of files for training images."
)
@click.option("--val-shards", type=click.IntRange(1), help="Number of files for validation images.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that can't be decoded.")
def write_tfrecords_command(
    directory: Path, output: Path, shards: int, val_shards: int | None, skip_bad: bool
) -> None:
    """Write class folders as TFRecords, and check every image by decoding it.

    DIRECTORY contains train/ and optionally val/, each with one folder of images for each class, or
    the class folders themselves. After an interruption, run the command again. Finished shards are
    kept.

    \b
    Example: keras-mobileone write-tfrecords imagenet/ imagenet-records/ --shards 1024
    """
    from keras_mobileone.data.tfrecord_writer import BAD_FILE, write_tfrecords

    with progress_steps() as step:
        prepared = write_tfrecords(
            directory,
            output,
            shards,
            val_shards,
            skip_bad=skip_bad,
            progress=step("Checking and writing"),
        )
    for name, split in prepared.splits.items():
        left_out = f", {len(split.bad)} left out ({output / BAD_FILE})" if split.bad else ""
        console.print(
            f"{name}: {split.images} images of {len(prepared.classes)} classes in {split.shards} "
            f"shards{left_out}."
        )
