"""Chooses the task of a recipe."""

import os
from collections.abc import Sequence

from keras_mobileone.errors import InputValueError
from keras_mobileone.training.dense_tasks import DenseTask, Detection, Segmentation
from keras_mobileone.training.recipe import CLASSIFY, RECIPES, Recipe
from keras_mobileone.training.task import Classification, Task

DENSE: tuple[type[DenseTask], ...] = (Segmentation, Detection)


def make_task(
    recipe: Recipe,
    labels: str | os.PathLike | Sequence[str] | None = None,
    data_format: str | None = None,
    skip_bad: bool = False,
) -> Task:
    """Returns the task of a recipe, for one run.

    Args:
        recipe: The recipe.
        labels, data_format, skip_bad: How masks or boxes are read; see `open_dense`.

    Raises:
        ValueError: If names or a format of annotations are given for class folders.
    """
    for dense in DENSE:
        if recipe.task == dense.name:
            return dense(labels, data_format, skip_bad)
    for name, value in (("labels", labels), ("data_format", data_format)):
        if value is not None:
            raise InputValueError(
                f"`{name}` describes masks or boxes. Received: {name}={value!r} with recipe "
                f"{recipe.name!r}, which trains a classifier. Leave it out."
            )
    return Classification()


def require_task(recipe: Recipe, task: str | None) -> None:
    """Raises ValueError if a recipe does not train a model for `task`."""
    if task is None or task == recipe.task:
        return
    fitting = ", ".join(name for name, other in RECIPES.items() if other.task == task)
    kind = "a classifier" if recipe.task == CLASSIFY else f"a model for {recipe.task!r}"
    raise InputValueError(
        f"Expected a recipe for the task {task!r} ({fitting}). Received: {recipe.name!r}, which "
        f"trains {kind}. Pass another --recipe or --task."
    )
