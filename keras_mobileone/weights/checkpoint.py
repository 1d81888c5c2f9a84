"""Reading and writing weight files as plain dictionaries from name to NumPy array."""

import os
from pathlib import Path

import numpy as np

from keras_mobileone.errors import InputValueError, MissingPackageError, first_line
from keras_mobileone.files import atomic_write

TORCH_SUFFIXES = (".tar", ".pth", ".pt", ".bin", ".ckpt")
KERAS_SUFFIXES = (".keras", ".h5")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, *KERAS_SUFFIXES)


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file or a PyTorch pickle, under their own names.

    Pickles are read by torch with `weights_only=True`, which runs no code from the file.
    Containers (`{"state_dict": …}`) are opened, `module.` prefixes and the step counters of
    PyTorch's BatchNorm dropped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is unknown or the file is damaged.
        ImportError: If a pickle is given and torch is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a weight file. Received: {path}, which does not exist.")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        raise InputValueError(
            f"Expected a weight file ending in one of {', '.join(SUFFIXES)}. Received: {path}."
        )
    return {
        name.removeprefix("module."): value
        for name, value in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def write_safetensors(path: str | os.PathLike, tensors: dict[str, np.ndarray]) -> None:
    """Writes `tensors` whole or not at all."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(contiguous))


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected a whole safetensors file of float32 or float16. Received: {path} ({error}). "
            "Fetch it again."
        ) from error


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f"Reading the PyTorch file {path} needs torch. Install it with "
            "`pip install keras-mobileone[torch]`, or use a .safetensors file."
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or unsafe pickle
        raise InputValueError(
            f"Expected a PyTorch state dict that loads with weights_only=True. Received: {path} "
            f"({first_line(error)})."
        ) from error
    for container in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise InputValueError(
            f"Expected a state dict, names to tensors. Received: {path}, which holds something "
            "else. Save it with torch.save(model.state_dict(), path)."
        )
    return {name: value.float().numpy() for name, value in content.items()}
