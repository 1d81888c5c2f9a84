"""Reads and writes weight files as plain dictionaries from names to NumPy arrays."""

import os
from pathlib import Path

import numpy as np

from keras_mobileone.errors import InputValueError, MissingPackageError, first_line
from keras_mobileone.files import atomic_write

TORCH_SUFFIXES = (".tar", ".pth", ".pt", ".bin", ".ckpt")
KERAS_SUFFIXES = (".keras", ".h5")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, *KERAS_SUFFIXES)


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file or a PyTorch pickle.

    Pickles are loaded by torch with `weights_only=True`, which does not run code from the file. A
    state dict may also be inside another dictionary under the key `"state_dict"` or `"model"`. The
    prefix `module.` is removed from the names, and the step counters of PyTorch's batch
    normalization are left out.

    Args:
        path: Path of the file.

    Returns:
        Arrays in PyTorch's layout by their names in the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the suffix is unknown or the file is damaged.
        ImportError: If a pickle is given and torch is not installed.

    Examples:
        >>> from keras_mobileone.weights.checkpoint import read_checkpoint, write_safetensors
        >>> write_safetensors("bias.safetensors", {"module.bias": np.zeros(10, "float32")})
        >>> read_checkpoint("bias.safetensors")["bias"].shape
        (10,)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the path of a weight file. Received: {path}, which does not exist."
        )
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        raise InputValueError(
            f"The name of a weight file must end in one of {', '.join(SUFFIXES)}. Received: {path}."
        )
    return {
        name.removeprefix("module."): value
        for name, value in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def write_safetensors(path: str | os.PathLike, tensors: dict[str, np.ndarray]) -> None:
    """Writes tensors to a safetensors file atomically.

    Args:
        path: Path of the file. If writing fails, an existing file does not change.
        tensors: Arrays by name.
    """
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(contiguous))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected a complete safetensors file of float32 or float16. Received: {path}, which "
            f"cannot be read ({first_line(error)}). Download the file again."
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
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
            "Expected a PyTorch state dict that loads with weights_only=True. "
            f"Received: {path}, which does not ({first_line(error)}). Download the file again, or "
            "save the state dict with torch.save(model.state_dict(), path)."
        ) from error
    for container in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise InputValueError(
            "Expected a PyTorch state dict, which maps names to tensors. Received: "
            f"{path}, which contains something else. Save the state dict with "
            "torch.save(model.state_dict(), path)."
        )
    return {name: value.float().numpy() for name, value in content.items()}
