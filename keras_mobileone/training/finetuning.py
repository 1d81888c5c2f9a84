"""`finetune` trains pretrained features and a new classifier on the user's images."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.applications import MobileOne
from keras_mobileone.data.imagenet import PRETRAINED_CLASSES, preprocess_input
from keras_mobileone.data.pipeline import BadImages, sample_crops
from keras_mobileone.data.sources import Source
from keras_mobileone.models.network import CLASSIFIER_NAME
from keras_mobileone.models.unfusing import unfuse
from keras_mobileone.training.finalize import TrainingReport
from keras_mobileone.training.recipe import CLASSIFY, RECIPES, Recipe
from keras_mobileone.training.tasks import make_task
from keras_mobileone.training.train import train
from keras_mobileone.variants import Variant, get_variant
from keras_mobileone.weights.loading import read_weights
from keras_mobileone.weights.naming import is_fused
from keras_mobileone.weights.pretrained import find_weights
from keras_mobileone.weights.selection import KNOWN_WEIGHTS

STATISTICS_IMAGES = 64


def finetune(
    data: str | os.PathLike,
    output: str | os.PathLike,
    *,
    variant: Variant | str | None = None,
    weights: str | os.PathLike = "imagenet",
    recipe: Recipe = RECIPES["finetune"],
    **options: Any,
) -> TrainingReport | None:
    """Fine-tunes pretrained weights on images of any number of classes.

    The recipe says whether the result is a classifier, a segmentation model or a detector. The
    features are loaded from `weights`, which may be train-time or fused (see `unfuse`). The
    classifier starts at zero, so that early gradients do not disturb the pretrained features.

    Args:
        data: Class folders or TFRecords; see `train`.
        output: Directory of the run.
        variant: Variant of MobileOne. By default, that of the recipe.
        weights: `"imagenet"` or the path of a weight file; see `MobileOne`.
        recipe: The training recipe.
        **options: Further arguments of `train`, such as `resume`, `exports` and `devices`.

    Returns:
        A `TrainingReport`, or None on all machines but the first.

    Raises:
        FileNotFoundError: If the data or the weights do not exist, or if there is no run to resume.
        ValueError: If the weights do not fit the network. `train` raises further errors.

    Examples:
        ```python
        report = keras_mobileone.finetune("photos/", "runs/photos", exports=["int8"])
        print(report.top1, report.validation_images)
        ```
    """
    if isinstance(variant, str):
        variant = get_variant(variant)
    recipe = dataclasses.replace(recipe, variant=variant or recipe.variant)
    path = weights_path(recipe.variant, weights)
    bad = BadImages(bool(options.get("skip_bad")))
    return train(
        recipe,
        data,
        output,
        initial=lambda source: pretrained_network(recipe, path, source, bad),
        **options,
    )


def weights_path(variant: Variant, weights: str | os.PathLike) -> Path:
    """Returns the path of the weights: train-time if they are available, otherwise fused."""
    if weights not in PRETRAINED_CLASSES:
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"`weights` must be {KNOWN_WEIGHTS} or the path of a file. "
                f"Received: weights={str(weights)!r}, which does not exist."
            )
        return path
    try:
        return find_weights(weights, variant, deploy=False)
    except FileNotFoundError:
        return find_weights(weights, variant, deploy=True)


def pretrained_network(
    recipe: Recipe, path: Path, source: Source, bad: BadImages | None = None
) -> keras.Model:
    """Returns a train-time model with the features of a weight file.

    A classifier starts at zero; a head for segmentation or detection has random weights.
    """
    variant = recipe.variant
    fused = is_fused(read_weights(variant, path))
    features = MobileOne(variant, include_top=False, weights=path, deploy=fused)
    if fused:
        images = preprocess_input(
            sample_crops(
                source,
                STATISTICS_IMAGES,
                recipe.image_size,
                recipe.variant.crop_fraction,
                recipe.seed,
                bad,
            )
        )
        features = unfuse(features, variant, images)
    model = make_task(recipe).build(recipe, len(source.classes))
    for layer in features.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    if recipe.task == CLASSIFY:
        classifier = model.get_layer(CLASSIFIER_NAME)
        classifier.set_weights([np.zeros_like(array) for array in classifier.get_weights()])
    return model
