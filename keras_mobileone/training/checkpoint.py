"""The state of a training run in one file, which is written atomically."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write
from keras_mobileone.training.distribution import Devices
from keras_mobileone.training.trainer import Trainer

STATE_KEY = "state"


@dataclass
class Progress:
    """The progress of a training run.

    Attributes:
        step: Number of steps done, over all epochs.
        history: One row of metrics for each finished epoch.
        seconds: Time in `fit` in seconds, including validation, over all resumptions.
        skipped: Files that could not be decoded and were left out.
    """

    step: int = 0
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)


def state_variables(trainer: Trainer) -> list:
    """Returns the variables that the next step depends on: weights, averages, and optimizer."""
    variables = [*trainer.network.weights, *trainer.averages, *trainer.optimizer.variables]
    # The seeds of layers that draw random numbers, such as dropout in a user's network.
    variables += [v for v in trainer.network.variables if not any(v is w for w in variables)]
    return variables


def save_checkpoint(path: str | os.PathLike, trainer: Trainer, progress: Progress) -> None:
    """Writes the state of `trainer` and `progress`.

    Weights that are not finite are not written, so that the last good checkpoint stays.

    Raises:
        OSError: If the disk is full or the directory is not writable.
    """
    arrays = [keras.ops.convert_to_numpy(variable) for variable in state_variables(trainer)]
    if all(np.isfinite(array).all() for array in arrays):  # else `Recorder` raises for the loss
        write_state(path, arrays, asdict(progress))


def write_state(
    path: str | os.PathLike, arrays: Sequence[np.ndarray], state: dict[str, Any]
) -> None:
    """Writes arrays and a JSON-serializable state as safetensors, atomically.

    Raises:
        OSError: If the disk is full or the directory is not writable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    named = {f"{index:04d}": np.array(array, order="C") for index, array in enumerate(arrays)}
    try:
        with atomic_write(path) as temporary:
            save_file(named, temporary, metadata={STATE_KEY: json.dumps(state)})
    except SafetensorError as error:
        raise OSError(
            f"Expected to write a checkpoint of {sum(a.nbytes for a in arrays) / 1e6:.1f} "
            f"MB to {path}. Received: {error}. Free disk space and continue with --resume; the "
            "last checkpoint was kept."
        ) from error


def read_state(path: str | os.PathLike) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Reads the arrays and the state that `write_state` wrote.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a checkpoint. Received: {path}, which does not exist.")
    try:
        with safe_open(path, "numpy") as file:
            state = json.loads(file.metadata()[STATE_KEY])
            return [file.get_tensor(name) for name in sorted(file.keys())], dict(state)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputValueError(
            f"Expected a complete checkpoint. Received: {path}, which is damaged ({error}). "
            "Start a new run in another directory."
        ) from error


def read_progress(path: str | os.PathLike) -> Progress:
    """Reads the progress of the run that wrote a checkpoint.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged.
    """
    return Progress(**read_state(path)[1])


def load_checkpoint(path: str | os.PathLike, trainer: Trainer) -> Progress:
    """Restores what `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or was written for another network or optimizer.
    """
    arrays, state = read_state(path)
    variables = state_variables(trainer)
    if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
        raise InputValueError(
            f"Expected a checkpoint of {trainer.network.name!r} with this recipe. "
            f"Received: {path}, whose variables have other shapes."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return Progress(**state)


def broadcast_state(trainer: Trainer, step: int, devices: Devices) -> int:
    """Copies the chief's variables to every machine, and returns the chief's `step`."""
    variables = state_variables(trainer)
    arrays = [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]
    # There is one message for each dtype, which keeps integers exact. Hundreds of small messages
    # would be slow.
    for dtype in sorted({array.dtype.str for array in arrays}):
        chosen = [i for i, array in enumerate(arrays) if array.dtype.str == dtype]
        flat = devices.from_chief(np.concatenate([arrays[i].ravel() for i in chosen]))
        for i in chosen:
            part, flat = np.split(flat, [arrays[i].size])
            variables[i].assign(part.reshape(arrays[i].shape))
    return int(devices.from_chief(np.array([step]))[0])
