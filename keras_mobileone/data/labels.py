"""Chooses and checks the class labels of a classifier, and reads them from text files."""

import os
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_mobileone.data.imagenet import NUM_CLASSES, classes, unique_labels
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import attached
from keras_mobileone.models.tasks import task_config


def check_labels(labels: Sequence[str] | None, outputs: int, name: str) -> None:
    """Raises ValueError unless there is one usable label for each of `outputs`.

    Args:
        labels: The labels. None, for a model without labels, is accepted.
        outputs: Number of outputs of the classifier.
        name: Name of the classifier, for the message.
    """
    if labels is None:
        return
    if len(labels) != outputs:
        raise InputValueError(
            f"Expected {outputs} labels, one for each output of {name!r}. Received: {len(labels)}."
        )
    for label in labels:
        if not label.strip() or len(label.splitlines()) > 1:
            raise InputValueError(
                f"Expected each label to be one line of text. Received: {label!r}."
            )


def read_label_file(path: str | os.PathLike) -> list[str]:
    """Reads a UTF-8 text file with one class name on each line, such as `classes.txt` of a run.

    A byte order mark and blank lines at the end are ignored.

    Args:
        path: The file.

    Returns:
        The names in the order of the lines.

    Raises:
        FileNotFoundError: If `path` is not a file.
        ValueError: If the file is not UTF-8, has no names, or has a blank line between names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a file of class names. Received: {path}, which is not a file."
        )
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputValueError(
            f"Expected class names in UTF-8. Received: {path}, which cannot be decoded at byte "
            f"{error.start}. Save the file as UTF-8."
        ) from error
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise InputValueError(
            f"Expected one class name on each line. Received: {path}, which has no names."
        )
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise InputValueError(
                f"Expected one class name on each line. Received: {path}, whose line {number} is "
                "blank. Remove the line, or write the name of the class."
            )
    return names


def default_labels(model: keras.Model, labels: Sequence[str] | None) -> list[str] | None:
    """Chooses the names of the classes of a Keras classifier.

    Args:
        model: The classifier.
        labels: The names. By default, those that the model carries in its `ImageConfig`, or else
            ImageNet's if it has 1,000 outputs.

    Returns:
        The names, checked against the outputs of the model, or None if there are none.

    Raises:
        ValueError: If the labels do not fit the outputs (see `check_labels`), or if labels are
            given for a model that is not a classifier.
    """
    shape, task = model.output_shape, task_config(model)
    classifies = isinstance(shape, tuple) and len(shape) == 2
    outputs = task.classes if task is not None else shape[1] if classifies else None
    if labels is None:
        labels = getattr(attached(model), "labels", None)
    if labels is None:
        return unique_labels(classes()) if outputs == NUM_CLASSES and task is None else None
    if outputs is None:
        raise InputValueError(
            "Labels need a classifier with one output of shape (batch, classes), a segmentation "
            "model or a detector of this package. "
            f"Received: {model.name!r} with output shape {shape}. Leave the labels out."
        )
    check_labels(labels, outputs, model.name)
    return list(labels)
