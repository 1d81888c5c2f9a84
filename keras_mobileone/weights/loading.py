"""Loads weight files into a MobileOne. All tensors are checked before any of them is assigned."""

import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.data.image_config import (
    read_image_config,
    set_image_config,
    stored_config,
)
from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.models.attachment import TASK_KEY
from keras_mobileone.models.fusing import fuse
from keras_mobileone.models.network import CLASSIFIER_NAME, build
from keras_mobileone.models.tasks import TaskConfig, set_task_config, task_from_dict
from keras_mobileone.variants import Variant
from keras_mobileone.weights.checkpoint import KERAS_SUFFIXES, read_checkpoint
from keras_mobileone.weights.naming import APPLE, SCHEMES, detect_scheme, is_fused, slots

SHOWN_NAMES = 5  # how many names an error lists for each kind of mistake


def model_from_weights(
    variant: Variant,
    path: str | os.PathLike,
    *,
    deploy: bool = False,
    builder: Callable[..., keras.Model] = build,
    **arguments: Any,
) -> keras.Model:
    """Builds a MobileOne with the weights of a file.

    If the network has another head than a classifier, the head keeps its initial weights.

    Args:
        variant: The architecture that the file belongs to.
        path: A safetensors file or a PyTorch pickle with the authors' or timm's names, fused or
            not, or a `.keras` or `.weights.h5` file that this package saved.
        deploy: Whether to return the fused model. If the weights are not fused, they are folded.
        builder: Function that takes the variant, `deploy` and `arguments`, and builds the network.
        **arguments: Further arguments of `builder`.

    Returns:
        A Functional `keras.Model`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If names or shapes do not fit `variant`, or if the weights are fused and
            `deploy` is False.
    """
    tensors = read_weights(variant, path)
    fused = is_fused(tensors)
    if fused and not deploy:
        raise InputValueError(
            f"{path} contains fused weights, whose branches are summed, so that only a deploy "
            "model can use them. Received: deploy=False. Pass deploy=True, or use a file of "
            "unfused weights. For fine-tuning, build the deploy model and call `unfuse`, which "
            "restores branches."
        )
    model = builder(variant, deploy=fused, **arguments)
    assign(model, variant, tensors, path)
    return fuse(model, verify=False) if deploy and not fused else model


def read_weights(variant: Variant, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a weight file of any supported format.

    Args:
        variant: The architecture that the file belongs to.
        path: Path of the file, as in `model_from_weights`.

    Returns:
        Arrays in PyTorch's layout, by name. The names of a `.keras` or `.weights.h5` file are the
        authors'.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or is a `.keras` or `.weights.h5` file that does not
            fit `variant`.
    """
    path = Path(path)
    if path.suffix not in KERAS_SUFFIXES:
        return read_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the path of a weight file. Received: {path}, which does not exist."
        )
    model = load_keras(path) if path.suffix == ".keras" else _load_h5(variant, path)
    return export_tensors(model, variant, path)


def export_tensors(
    model: keras.Model, variant: Variant, origin: str | os.PathLike = "the model"
) -> dict[str, np.ndarray]:
    """Returns the weights of a MobileOne under the authors' names and in PyTorch's layout.

    Args:
        model: A MobileOne, train-time or deploy.
        variant: Its architecture.
        origin: Name of the model in error messages, for example the path of its file.

    Returns:
        Arrays by name.

    Raises:
        ValueError: If `model` does not have the layers of `variant`.
    """
    try:
        named = slots(model, variant, APPLE)
    except ValueError as error:
        raise InputValueError(
            f"{origin} does not have the layers of {variant.name}: {str(error).split('.')[0]}. "
            "Check the variant."
        ) from error
    return {name: slot.to_torch() for name, slot in named.items()}


def assign(
    model: keras.Model, variant: Variant, tensors: dict[str, np.ndarray], origin: str | os.PathLike
) -> None:
    """Sets the weights of a model, after a check that every name and every shape fits.

    A model without top ignores the tensors of the classifier.

    Args:
        model: A MobileOne, train-time or deploy. An error leaves it unchanged.
        variant: Its architecture.
        tensors: Arrays in PyTorch's layout by the authors' or timm's names.
        origin: Name of the tensors in error messages, for example the path of their file.

    Raises:
        ValueError: If tensors are missing, unknown or of a wrong shape. The message names them.
    """
    scheme = detect_scheme(tensors)
    if scheme is None:
        raise InputValueError(
            f"Expected weights of a MobileOne under the {' or '.join(SCHEMES)} names. "
            f"Received: {origin}, which has {_some(list(tensors)) or 'no tensors'}."
        )
    expected = slots(model, variant, scheme)
    if not _has_top(model):
        tensors = {k: v for k, v in tensors.items() if not k.startswith(f"{scheme.classifier}.")}
    misshapen = [
        f"{name} {tensors[name].shape} instead of {slot.torch_shape}"
        for name, slot in expected.items()
        if name in tensors and tensors[name].shape != slot.torch_shape
    ]
    mistakes = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "misshapen": misshapen,
    }
    found = "; ".join(f"{kind}: {_some(names)}" for kind, names in mistakes.items() if names)
    if found:
        raise InputValueError(
            f"The weights in {origin} do not fit {model.name!r} ({variant.name}). "
            f"{found[0].upper()}{found[1:]}. Check the variant and the number of classes."
        )
    for name, slot in expected.items():
        slot.variable.assign(tensors[name].astype(np.float32).transpose(slot.axes))


def load_keras(path: str | os.PathLike) -> keras.Model:
    """Loads a `.keras` file, together with the image configuration that it stores.

    Args:
        path: Path of the file.

    Returns:
        The model, not compiled.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If Keras cannot load the file, for example because it is damaged.

    Examples:
        >>> from keras_mobileone.weights.loading import load_keras
        >>> keras_mobileone.MobileOneS0(weights="imagenette", deploy=True).save("model.keras")
        >>> keras_mobileone.image_config(load_keras("model.keras")).labels[0]
        'tench'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the path of a .keras file. Received: {path}, which does not exist."
        )
    if not zipfile.is_zipfile(path):
        raise InputValueError(
            f"Expected a .keras file that Keras 3 saved. Received: {path}, which is damaged or of "
            "another format. Save the model again with model.save, or copy the file again."
        )
    try:
        model = keras.models.load_model(path, compile=False)
        config, task = read_image_config(path), read_task_config(path)
    except Exception as error:  # Keras raises many types for a damaged archive
        raise InputValueError(
            f"Keras can't load {path}: {_reason(error)}. Save or copy the file "
            "again if it is damaged, and import the modules of its custom layers if it has any."
        ) from error
    if task is not None:
        set_task_config(model, task)
    return model if config is None else set_image_config(model, config)


def read_task_config(path: str | os.PathLike) -> TaskConfig | None:
    """Returns what the model in a `.keras` file computes, or None for a classifier."""
    stored = stored_config(path, TASK_KEY)
    return None if stored is None else task_from_dict(stored)


def _reason(error: Exception) -> str:
    """Returns the sentence of Keras' message that gives the cause of the error."""
    _, marker, innermost = str(error).rpartition("Exception encountered: ")
    return first_line(ValueError(innermost) if marker else error).split(". ")[0].rstrip(".")


def _load_h5(variant: Variant, path: Path) -> keras.Model:
    """Builds the model that a `.weights.h5` file fits, and loads the file into it."""
    import h5py

    try:
        with h5py.File(path) as file:
            shapes = _dataset_shapes(file)
    except OSError as error:
        raise InputValueError(
            f"Expected a complete HDF5 file. Received: {path}, which is damaged or of another "
            "format. Save the weights again with model.save_weights, or copy the file again."
        ) from error
    unfused = any("mobile_one_block" in name for name in shapes)
    classes = [shape for name, shape in shapes.items() if "layers/dense/" in name]
    model = build(
        variant,
        keras.Input((224, 224, 3)),
        include_top=bool(classes),
        classes=classes[-1][-1] if classes else 1,
        deploy=not unfused,
    )
    # A file that Keras writes for this model shows which datasets it would read, and their shapes.
    with tempfile.TemporaryDirectory() as directory:
        reference = Path(directory) / "reference.weights.h5"
        model.save_weights(reference)
        with h5py.File(reference) as file:
            expected = _dataset_shapes(file)
    wrong = sorted(k for k in expected | shapes if expected.get(k) != shapes.get(k))
    if wrong:
        raise InputValueError(
            f"The weights in {path} do not fit {variant.name}. Missing, unknown or of a wrong "
            f"shape: {_some(wrong)}. Check the variant."
        )
    model.load_weights(path)
    return model


def _dataset_shapes(file: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all datasets of an open HDF5 file by their paths."""
    shapes: dict[str, tuple[int, ...]] = {}
    file.visititems(
        lambda name, item: shapes.update({name: item.shape}) if hasattr(item, "shape") else None
    )
    return shapes


def _has_top(model: keras.Model) -> bool:
    return any(layer.name == CLASSIFIER_NAME for layer in model.layers)


def _some(names: Sequence[str]) -> str:
    """Lists the first names, and the number of the others."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
