"""`keras-mobileone qat`: quantization-aware training of a classifier on class folders."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from keras_mobileone.cli.console import console
from keras_mobileone.data.imagenet import NUM_CLASSES, class_index, labels_of, preprocess_input
from keras_mobileone.data.images import list_images, load_crops, spread
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.qat import export_qat
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import ends_in_softmax
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.qat import quantize_aware
from keras_mobileone.quantization.qat_model import packages
from keras_mobileone.weights.loading import load_keras

CALIBRATION_IMAGES = 100
CROP_FRACTION = 0.875
CHECKPOINT = "checkpoint.npz"


@click.command("qat")
@click.option("--model", "model_file", required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Class folders.")
@click.option("--epochs", required=True, type=click.IntRange(1))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--learning-rate", default=1e-5, show_default=True, type=float, help="Of Adam.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--limit", type=click.IntRange(1), help="So many images in an epoch, drawn anew.")
@click.option("--run", "run_directory", type=click.Path(path_type=Path), help="For checkpoints.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --run.")
def qat_command(model_file, data, epochs, output, run_directory, resume, **settings):
    """Train a classifier as its int8 file computes, and write that file.

    DATA holds train/ and, if there is one, val/ with one folder of photographs for each class, or
    these folders directly. Their sorted order is the model's; for ImageNet's 1000 outputs the
    WordNet ids say which. The model is fused and equalized first.

    \b
    Example: keras-mobileone qat --model s0.keras --data imagenette/ --epochs 2 \\
                 --output s0_int8.tflite --run runs/s0
    """
    packages()
    check_paths(output, run_directory, resume)
    model = load_keras(model_file)
    model = fuse(model) if has_blocks(model) else model
    train, val = read_data(data, model)
    student = make_student(model, train, calibrate=not resume)
    first = 0
    compile_student(student, model, settings["learning_rate"])
    if resume:
        first = load_checkpoint(run_directory / CHECKPOINT, student, settings)
        if first > epochs:
            raise InputValueError(
                f"The checkpoint has {first} epochs done. Received: --epochs {epochs}."
            )
    history = train_student(student, train, val, first, epochs, run_directory, settings)
    complete = len(train.folders) == student.output_shape[-1]
    export_qat(student, output, labels=labels_of(train.folders) if complete else None)
    results = ", ".join(f"{name} {values[-1]:.4f}" for name, values in history.items())
    console.print(
        f"{output}: {output.stat().st_size / 1e6:.2f} MB, int8 throughout, after {epochs} "
        f"epochs{': ' if results else ''}{results}."
    )


def check_paths(output, run_directory, resume) -> None:
    """Raises for an output, a run directory or a resumption that can't be."""
    if output.suffix != ".tflite":
        raise InputValueError(f"The output must end in .tflite. Received: {output}.")
    require_writable(output)
    if run_directory is None:
        if resume:
            raise InputValueError("--resume needs the directory of checkpoints. Add --run DIR.")
        return
    checkpoint = run_directory / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(
            f"Expected a checkpoint to resume from. Received: --run {run_directory}, which has no "
            f"{CHECKPOINT}. Start without --resume."
        )
    if not resume and checkpoint.exists():
        raise FileExistsError(
            f"Expected a new run directory. Received: --run {run_directory}, which holds a "
            "checkpoint. Add --resume to go on from it, or name another directory."
        )
    run_directory.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class LabelledImages:
    """Photographs with their class indices.

    Attributes:
        paths, labels: One of each for every image.
        size: (height, width) that the model takes.
        folders: Of the classes, in the order of their indices.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    size: tuple[int, int]
    folders: Sequence[str]

    def batches(self, order, flips, batch_size) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Normalized images and labels; those in `flips` are mirrored."""
        crops = load_crops([self.paths[i] for i in order], self.size, CROP_FRACTION)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            images = np.stack([next(crops) for _ in chosen])
            mirrored = flips[start : start + batch_size]
            images[mirrored] = images[mirrored, :, ::-1]
            yield preprocess_input(images), self.labels[chosen]

    def epoch(self, epoch, limit, batch_size) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The training batches of one epoch: its number alone decides order and mirroring."""
        rng = np.random.default_rng(epoch)
        order = rng.permutation(len(self.paths))[:limit]
        yield from self.batches(order, rng.random(len(order)) < 0.5, batch_size)


def read_data(data: Path, model) -> tuple[LabelledImages, LabelledImages | None]:
    """Training and validation images of a directory, labelled as `model`'s outputs are."""
    if not data.is_dir():
        raise FileNotFoundError(
            f"Expected a directory of class folders. Received: --data {data}, which is none."
        )
    outputs, size = model.output_shape, model.input_shape[1:3]
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise InputValueError(
            f"Expected a classifier with one output. Received: {model.name!r} with {outputs}."
        )
    root = data / "train" if (data / "train").is_dir() else data
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    indices = class_indices(names, outputs[-1], root)
    train = read_folders(root, indices, size)
    has_val = root is not data and (data / "val").is_dir()
    return train, read_folders(data / "val", indices, size) if has_val else None


def class_indices(names: list[str], outputs: int, root: Path) -> dict[str, int]:
    """Which output of the model stands for each class folder."""
    if outputs == NUM_CLASSES and names and all(name in class_index() for name in names):
        return {name: class_index()[name] for name in names}
    if len(names) != outputs:
        raise InputValueError(
            f"Expected one class folder for each of the model's {outputs} outputs"
            f"{', or folders named by WordNet id' if outputs == NUM_CLASSES else ''}. "
            f"Received: {len(names)} in {root}."
        )
    return {name: index for index, name in enumerate(names)}


def read_folders(root: Path, indices: dict[str, int], size) -> LabelledImages:
    """The images of the class folders in `root`."""
    paths = list_images(root)
    folders = [path.relative_to(root).parts[0] for path in paths]
    for folder, path in zip(folders, paths, strict=True):
        if folder not in indices:
            raise InputValueError(
                f"Expected images in class folders ({', '.join(list(indices)[:3])} …). "
                f"Received: {path}."
            )
    labels = np.array([indices[folder] for folder in folders])
    return LabelledImages(paths, labels, size, sorted(indices, key=indices.get))


def make_student(model, train: LabelledImages, calibrate: bool):
    """The equalized model, ready for training; without calibration for a checkpoint's weights."""
    if not calibrate:
        return quantize_aware(model)
    with console.status("Equalizing"):
        paths = spread(train.paths, CALIBRATION_IMAGES)
        images = preprocess_input(np.stack(list(load_crops(paths, train.size, CROP_FRACTION))))
        return quantize_aware(equalize(model, images).model, images)


def compile_student(student, model, learning_rate) -> None:
    """Adam and cross-entropy, from logits unless the model ends in a softmax."""
    _, keras2 = packages()
    optimizer = keras2.optimizers.Adam(learning_rate)
    optimizer.build(student.trainable_variables)
    loss = keras2.losses.SparseCategoricalCrossentropy(from_logits=not ends_in_softmax(model))
    student.compile(optimizer, loss, metrics=["accuracy"])


def train_student(student, train, val, first, epochs, run_directory, settings) -> dict:
    """Trains from epoch `first` to `epochs`, with a checkpoint after each; the last metrics."""
    import tensorflow as tf

    _, keras2 = packages()
    limit, batch_size = settings["limit"], settings["batch_size"]
    signature = (
        tf.TensorSpec((None, *student.input_shape[1:]), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )

    def dataset(generator):
        return tf.data.Dataset.from_generator(generator, output_signature=signature).prefetch(2)

    def training():
        for epoch in range(first, epochs):
            yield from train.epoch(epoch, limit, batch_size)

    def validation():
        order = np.arange(len(val.paths))
        yield from val.batches(order, np.zeros(len(order), bool), batch_size)

    def save(epoch, logs=None):
        if run_directory is not None:
            save_checkpoint(run_directory / CHECKPOINT, student, epoch + 1, settings)

    images = min(len(train.paths), limit or len(train.paths))
    history = student.fit(
        dataset(training),
        initial_epoch=first,
        epochs=epochs,
        steps_per_epoch=-(-images // batch_size),
        validation_data=None if val is None else dataset(validation),
        callbacks=[keras2.callbacks.LambdaCallback(on_epoch_end=save)],
    )
    return history.history


def save_checkpoint(path: Path, student, epoch: int, settings: dict) -> None:
    """Writes weights, ranges, the optimizer's state and the number of epochs done."""
    arrays = {f"weight{i}": w for i, w in enumerate(student.get_weights())}
    arrays |= {f"optimizer{i}": v.numpy() for i, v in enumerate(student.optimizer.variables)}
    with atomic_write(path) as temporary:
        np.savez(temporary, epoch=epoch, settings=json.dumps(settings), **arrays)


def load_checkpoint(path: Path, student, settings: dict) -> int:
    """Restores what `save_checkpoint` wrote and returns the number of epochs done."""
    try:
        with np.load(path) as file:
            stored = {name: file[name] for name in file.files}
        before = json.loads(str(stored["settings"]))
        epoch = int(stored["epoch"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputValueError(
            f"Expected a whole checkpoint. Received: {path}, which is damaged. Start anew."
        ) from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputValueError(
                f"Resuming needs the settings of the run so far. Received: {name} {value}, where "
                f"{path} has {before.get(name)}."
            )
    weights = [stored[f"weight{i}"] for i in range(len(student.get_weights()))]
    if [w.shape for w in weights] != [w.shape for w in student.get_weights()]:
        raise InputValueError(
            f"Expected a checkpoint of {student.name!r}. Received: {path}, of another."
        )
    student.set_weights(weights)
    for i, variable in enumerate(student.optimizer.variables):
        variable.assign(stored[f"optimizer{i}"])
    return epoch
