"""Class labels of an exported classifier."""

from collections.abc import Sequence
from typing import Any

from keras_mobileone.data.imagenet import NUM_CLASSES, classes, unique_labels
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import attached


def check_labels(labels: Sequence[str] | None, outputs: int, name: str) -> None:
    """Raises ValueError unless there is one usable label for each of `outputs`."""
    if labels is None:
        return
    if len(labels) != outputs:
        raise InputValueError(
            f"Expected {outputs} labels, one for each output of {name!r}. Received: {len(labels)}."
        )
    for label in labels:
        if not label.strip() or len(label.splitlines()) > 1:
            raise InputValueError(f"Expected a line of text for each label. Received: {label!r}.")


def default_labels(model: Any, labels: Sequence[str] | None) -> list[str] | None:
    """Names of the classes of a Keras classifier.

    Args:
        model: The classifier.
        labels: The names; None for those that the model carries in its `ImageConfig`, and else for
            ImageNet's if it has 1,000 outputs.

    Returns:
        `labels`, checked against the outputs of the model, or None where there are none.

    Raises:
        ValueError: See `check_labels`; also for labels of what is no classifier.
    """
    shape = model.output_shape
    outputs = shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None
    if labels is None:
        labels = getattr(attached(model), "labels", None)
    if labels is None:
        return unique_labels(classes()) if outputs == NUM_CLASSES else None
    if outputs is None:
        raise InputValueError(
            "Labels need a model with one output of shape (batch, classes). "
            f"Received: {model.name!r} with output shape {shape}. Leave them out."
        )
    check_labels(labels, outputs, model.name)
    return list(labels)
