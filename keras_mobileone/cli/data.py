"""`keras-mobileone write-tfrecords`: class folders as TFRecords."""

from pathlib import Path

import click

from keras_mobileone.cli.console import KerasCommand, console, progress_steps


@click.command("write-tfrecords", cls=KerasCommand)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--shards", required=True, type=click.IntRange(1), help="Files to train from.")
@click.option(
    "--val-shards", type=click.IntRange(1), help="Files to validate on; else in proportion."
)
@click.option("--skip-bad", is_flag=True, help="Leave out images that can't be decoded.")
def write_tfrecords_command(
    directory: Path, output: Path, shards: int, val_shards: int | None, skip_bad: bool
) -> None:
    """Write class folders as TFRecords, after decoding every image as a check.

    DIRECTORY holds train/ and, if there is one, val/ with one folder of images for each class, or
    these folders directly. When interrupted, run it again: finished shards are kept.

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
