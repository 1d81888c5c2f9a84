"""Callbacks that validate, write checkpoints and write logs between the steps of `fit`."""

import csv
import io
import math
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_mobileone.data.pipeline import BadImages
from keras_mobileone.errors import VerificationError
from keras_mobileone.files import atomic_write
from keras_mobileone.training.checkpoint import Progress, save_checkpoint
from keras_mobileone.training.trainer import Trainer

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.csv"


class Validation(NamedTuple):
    """What is validated, and when.

    Attributes:
        batches: Dataset of all validation images.
        steps: Number of its batches.
        scores: Function that takes the trainer and returns further metrics, such as those of
            detection, which need the outputs for all images at once.
        epochs: The epochs, counted from 1, after which it is validated.
    """

    batches: Any
    steps: int
    scores: Callable[[Trainer], dict[str, float]]
    epochs: Container[int]


def validate(
    trainer: Trainer,
    batches: Any,
    steps: int,
    scores: Callable[[Trainer], dict[str, float]] = lambda trainer: {},
) -> dict[str, float]:
    """Returns the metrics of the weights, and of their averages if there are any.

    The arguments are attributes of `Validation`.
    """

    def measured() -> dict[str, float]:
        logs = trainer.evaluate(batches, steps=steps, verbose=0, return_dict=True)
        return logs | scores(trainer)

    results = {f"val_{name}": value for name, value in measured().items()}
    if trainer.averages:
        with trainer.averaged_weights():
            results |= {f"val_average_{name}": value for name, value in measured().items()}
    return results


class Recorder(keras.callbacks.Callback):
    """Validates, and writes the checkpoint and the log.

    Args:
        directory: Directory of the run, or None on machines that do not write.
        progress: Progress of the run, which is updated during training.
        validation: What is validated, or None.
        save_every: Number of steps between checkpoints within an epoch.
        bad: The files that were left out so far, which the checkpoint names.
    """

    def __init__(
        self,
        directory: Path | None,
        progress: Progress,
        validation: Validation | None,
        save_every: int,
        bad: BadImages,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.progress = progress
        self.validation = validation
        self.save_every = save_every
        self.bad = bad

    def on_train_begin(self, logs: Any = None) -> None:
        self.clock = time.perf_counter()

    def save(self) -> None:
        """Writes the checkpoint if this machine writes files."""
        now = time.perf_counter()
        self.progress.seconds += now - self.clock
        self.clock = now
        self.progress.skipped = sorted(self.bad.names)
        if self.directory is not None:
            save_checkpoint(self.directory / CHECKPOINT, self.model, self.progress)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not math.isfinite(logs["loss"]):
            raise VerificationError(
                f"The loss is {float(logs['loss'])} in step {self.progress.step + 1}. Lower the "
                "learning rate (--set learning_rate=…), or lengthen the warm-up. The last "
                "checkpoint was kept."
            )
        self.progress.step += 1
        if self.progress.step % self.save_every == 0:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.validation is not None and epoch + 1 in self.validation.epochs:
            batches, steps, scores, _ = self.validation
            logs |= validate(self.model, batches, steps, scores)
        optimizer = self.model.optimizer
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        self.progress.history.append(row)
        self.save()
        if self.directory is not None:
            write_log(self.directory / LOG, self.progress.history)


def write_log(path: Path, history: list[dict]) -> None:
    """Writes the rows of all epochs as CSV.

    They are taken from the history in the checkpoint, so that a resumed run has the log of an
    uninterrupted one. The cells of an epoch that was not validated are empty."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    with atomic_write(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
