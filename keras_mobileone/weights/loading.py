"""Putting a weight file into a MobileOne: everything is checked before anything is assigned."""

import os
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.data.image_config import read_image_config, set_image_config
from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.models.fusing import fuse
from keras_mobileone.models.network import CLASSIFIER_NAME, build
from keras_mobileone.variants import Variant
from keras_mobileone.weights.checkpoint import KERAS_SUFFIXES, read_checkpoint
from keras_mobileone.weights.naming import APPLE, SCHEMES, detect_scheme, is_fused, slots

SHOWN_NAMES = 5  # of each kind of mistake, in an error


def model_from_weights(
    variant: Variant, path: str | os.PathLike, *, deploy: bool = False, **arguments
) -> keras.Model:
    """A MobileOne with the weights of a file.

    Args:
        variant: The architecture that the file belongs to.
        path: safetensors or PyTorch pickle in the authors' or timm's naming, fused or not; or
            this package's own `.keras`, `.weights.h5`.
        deploy: Whether the result is the fused model. Train-time weights are fused for it.
        **arguments: The rest of `keras_mobileone.models.network.build`'s.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If names or shapes do not fit `variant`, with the names; or if a train-time
            model is asked from fused weights.
    """
    tensors = read_weights(variant, path)
    fused = is_fused(tensors)
    if fused and not deploy:
        raise InputValueError(
            f"{path} holds fused weights, in which the branches are summed up and can't be told "
            "apart: they make a deploy model. Received: deploy=False. Pass deploy=True, or use a "
            "file of unfused weights; for fine-tuning, `unfuse` makes new branches."
        )
    model = build(variant, deploy=fused, **arguments)
    assign(model, variant, tensors, path)
    return fuse(model, verify=False) if deploy and not fused else model


def read_weights(variant: Variant, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors of any supported weight file, in PyTorch's layout and a known naming scheme."""
    path = Path(path)
    if path.suffix not in KERAS_SUFFIXES:
        return read_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a weight file. Received: {path}, which does not exist.")
    model = load_keras(path) if path.suffix == ".keras" else _load_h5(variant, path)
    return export_tensors(model, variant, path)


def export_tensors(model: keras.Model, variant: Variant, origin="the model") -> dict:
    """The weights of a MobileOne under the authors' names and in PyTorch's layout.

    Raises:
        ValueError: If `model` does not have the layers of `variant`.
    """
    try:
        named = slots(model, variant, APPLE)
    except ValueError as error:
        raise InputValueError(
            f"{origin} does not hold the layers of {variant.name}: {str(error).split('.')[0]}."
        ) from error
    return {name: slot.to_torch() for name, slot in named.items()}


def assign(model: keras.Model, variant: Variant, tensors: dict, origin) -> None:
    """Sets the weights of `model` from `tensors`, all or none.

    The classifier's entries are ignored by a model without top.

    Raises:
        ValueError: Naming missing, unknown and misshapen entries.
    """
    scheme = detect_scheme(tensors)
    if scheme is None:
        raise InputValueError(
            f"Expected the {' or '.join(SCHEMES)} names of MobileOne's weights. "
            f"Received: {origin} with {_some(list(tensors))}."
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
    """`keras.models.load_model` for a `.keras` file, with one clear sentence when it fails.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole Keras 3 file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a .keras file. Received: {path}, which does not exist.")
    if not zipfile.is_zipfile(path):
        raise InputValueError(
            f"Expected a .keras file as Keras 3 writes it. Received: {path}, which is damaged or "
            "of another format."
        )
    try:
        model = keras.models.load_model(path, compile=False)
        config = read_image_config(path)
    except Exception as error:  # Keras raises many types for a damaged archive
        raise InputValueError(f"Keras can't load {path}: {first_line(error)}") from error
    return model if config is None else set_image_config(model, config)


def _load_h5(variant, path):
    import h5py

    try:
        with h5py.File(path) as file:
            shapes = _dataset_shapes(file)
    except OSError as error:
        raise InputValueError(
            f"Expected a whole HDF5 file. Received: {path}, which is damaged or of another format."
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
    # What Keras itself writes for this model tells which datasets it would read, and their shapes.
    with tempfile.TemporaryDirectory() as directory:
        reference = Path(directory) / "reference.weights.h5"
        model.save_weights(reference)
        with h5py.File(reference) as file:
            expected = _dataset_shapes(file)
    wrong = sorted(k for k in expected | shapes if expected.get(k) != shapes.get(k))
    if wrong:
        raise InputValueError(
            f"The weights in {path} do not fit {variant.name}. Missing, unknown or misshapen: "
            f"{_some(wrong)}. Check the variant."
        )
    model.load_weights(path)
    return model


def _dataset_shapes(file) -> dict[str, tuple[int, ...]]:
    shapes = {}
    file.visititems(
        lambda name, item: shapes.update({name: item.shape}) if hasattr(item, "shape") else None
    )
    return shapes


def _has_top(model) -> bool:
    return any(layer.name == CLASSIFIER_NAME for layer in model.layers)


def _some(names) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
