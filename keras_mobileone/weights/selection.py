"""Decides which weight file the argument `weights` of the networks means."""

import os
from pathlib import Path
from typing import Any

from keras_mobileone.data.imagenet import PRETRAINED_CLASSES
from keras_mobileone.errors import InputTypeError
from keras_mobileone.variants import Variant
from keras_mobileone.weights.pretrained import find_weights

KNOWN_WEIGHTS = ", ".join(f"'{name}'" for name in PRETRAINED_CLASSES)


def require_known(weights: Any) -> None:
    """Raises an error unless `weights` is None, the name of weights, or the path of a file.

    Raises:
        TypeError: If `weights` has another type.
        FileNotFoundError: If the file does not exist.
    """
    if not isinstance(weights, (str, os.PathLike, type(None))):
        raise InputTypeError(
            f"`weights` must be None, {KNOWN_WEIGHTS} or the path of a file. "
            f"Received: weights of type {type(weights).__name__}."
        )
    if weights is not None and weights not in PRETRAINED_CLASSES and not Path(weights).is_file():
        raise FileNotFoundError(
            f"`weights` must be None, {KNOWN_WEIGHTS} or the path of a file. "
            f"Received: weights={str(weights)!r}, which does not exist."
        )


def weights_path(weights: str | os.PathLike, variant: Variant, deploy: bool) -> Path:
    """Returns the path of the file that `weights` means; see `find_weights` for names.

    Args:
        weights: The name of weights, or the path of a file.
        variant: The architecture that the weights are for.
        deploy: Whether fused weights are also accepted.
    """
    if weights in PRETRAINED_CLASSES:
        return find_weights(str(weights), variant, deploy)
    return Path(weights)
