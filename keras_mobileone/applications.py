"""`MobileOneS0` … `MobileOneS4`, in the manner of Keras Applications."""

import os
from fnmatch import fnmatch
from pathlib import Path

import keras

from keras_mobileone.checks import require_channels_last
from keras_mobileone.data.image_config import ImageConfig, set_image_config
from keras_mobileone.data.imagenet import (
    NUM_CLASSES,
    PRETRAINED_CLASSES,
    class_table,
    unique_labels,
)
from keras_mobileone.errors import InputTypeError, InputValueError
from keras_mobileone.models.network import build
from keras_mobileone.variants import S0, S1, S2, S3, S4, VARIANTS, Variant, get_variant
from keras_mobileone.weights.loading import model_from_weights
from keras_mobileone.weights.pretrained import PRETRAINED, find_weights

DEFAULT_SIZE = 224
MIN_SIZE = 32
KNOWN_WEIGHTS = ", ".join(f"'{name}'" for name in PRETRAINED_CLASSES)

_ARGUMENTS = """
    Args:
        include_top: Whether to add global average pooling and the classifier.
        weights: None (random); `"imagenet"`; `"imagenette"` (S0 with classes=10, comes with this
            package); or the path of a weight file: safetensors in the authors' or timm's naming,
            fused or not; a PyTorch state dict (needs torch); this package's own `.keras` or
            `.weights.h5`.
        input_tensor: Keras tensor to use as image input.
        input_shape: (height, width, channels) of the images, at least 32 pixels each way. Without
            top, height and width may be None. (224, 224, 3) by default, (None, None, 3) without
            top.
        pooling: Without top: None for the last feature map, `"avg"` or `"max"` for its pooled
            features.
        classes: Size of the classifier's output.
        classifier_activation: Activation of the classifier; None for logits.
        name: Name of the model.
        deploy: Build the fused network of stock Keras layers, for inference.

    Input shape:
        (batch, height, width, 3) float32: RGB normalized by `preprocess_input`.

    Output shape:
        (batch, classes) with top. Without: (batch, ceil(height / 32), ceil(width / 32), channels),
        or (batch, channels) when pooled.

    Returns:
        A Functional `keras.Model`, whose layers `"stage1"` … `"stage4"` give the feature maps at
        strides 4, 8, 16 and 32. A train-time model has a method `fuse()`.

    Raises:
        ValueError: For arguments that contradict each other, and weights that do not fit.
        FileNotFoundError: When the weights are found nowhere.
"""


def MobileOne(
    variant: Variant | str,
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor=None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation="softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates any MobileOne: `variant` is `"s0"` … `"s4"` or a `Variant` of your own.

    Reference: [MobileOne: An Improved One millisecond Mobile Backbone](
    https://arxiv.org/abs/2206.04040) (CVPR 2023).
    {arguments}
    Example:

    >>> tiny = keras_mobileone.Variant("tiny", widths=(0.5, 0.5, 0.5, 0.5), depths=(1, 2, 2, 1))
    >>> keras_mobileone.MobileOne(tiny, weights=None, classes=10).output_shape
    (None, 10)
    """
    require_channels_last()
    if isinstance(variant, str):
        variant = get_variant(variant)
    _check_arguments(include_top, weights, pooling, classes, classifier_activation)
    image, inputs = _image_input(input_tensor, input_shape, include_top, weights)
    arguments = {
        "image": image,
        "inputs": inputs,
        "include_top": include_top,
        "pooling": pooling,
        "classes": classes,
        "classifier_activation": classifier_activation,
        "name": name,
    }
    if weights is None:
        model = build(variant, deploy=deploy, **arguments)
    else:
        known = weights in PRETRAINED_CLASSES
        path = find_weights(weights, variant, deploy) if known else Path(weights)
        model = model_from_weights(variant, path, deploy=deploy, **arguments)
    if inputs is None and image.shape[3] == 3:
        labels = unique_labels(class_table(weights)) if weights == "imagenette" else None
        config = ImageConfig(
            crop_fraction=variant.crop_fraction, labels=labels if include_top else None
        )
        set_image_config(model, config)
    return model


def _check_arguments(include_top, weights, pooling, classes, classifier_activation):
    if not isinstance(weights, (str, os.PathLike, type(None))):
        raise InputTypeError(
            f"`weights` must be None, {KNOWN_WEIGHTS} or the path of a file. "
            f"Received: weights of type {type(weights).__name__}."
        )
    known = weights in PRETRAINED_CLASSES
    if weights is not None and not known and not Path(weights).is_file():
        raise FileNotFoundError(
            f"`weights` must be None, {KNOWN_WEIGHTS} or the path of a file. "
            f"Received: weights={str(weights)!r}, which does not exist."
        )
    if known and include_top and classes != PRETRAINED_CLASSES[weights]:
        raise InputValueError(
            f"The classifier of the {weights} weights has {PRETRAINED_CLASSES[weights]} classes. "
            f"Received: classes={classes}. Use classes={PRETRAINED_CLASSES[weights]}, or "
            "include_top=False and a classifier of your own."
        )
    if pooling not in (None, "avg", "max"):
        raise InputValueError(
            f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}."
        )
    if not isinstance(classes, int) or classes < 1:
        raise InputValueError(
            f"`classes` must be a positive integer. Received: classes={classes!r}."
        )
    if known and include_top and classifier_activation not in (None, "softmax"):
        raise InputValueError(
            "With pretrained weights `classifier_activation` must be None or 'softmax'. "
            f"Received: classifier_activation={classifier_activation!r}."
        )


def _image_input(input_tensor, input_shape, include_top, weights):
    """The image tensor to build on, and the inputs of the model (None when they are the same)."""
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor):
            raise InputTypeError(
                "`input_tensor` must be a symbolic Keras tensor such as keras.Input(...). "
                f"Received: {type(input_tensor).__name__}."
            )
        shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise InputValueError(
                "`input_tensor` and `input_shape` must agree. "
                f"Received: {shape} and input_shape={tuple(input_shape)}."
            )
        _check_shape(shape, include_top, weights)
        sources = keras.utils.get_source_inputs(input_tensor)
        return input_tensor, sources[0] if len(sources) == 1 else sources
    if input_shape is None:
        size = DEFAULT_SIZE if include_top else None
        input_shape = (size, size, 3)
    _check_shape(tuple(input_shape), include_top, weights)
    return keras.Input(tuple(input_shape), name="image"), None


def _check_shape(shape, include_top, weights):
    if len(shape) != 3 or shape[2] is None:
        raise InputValueError(
            "The input shape must be (height, width, channels), channels last. "
            f"Received: input_shape={shape}."
        )
    if weights is not None and shape[2] != 3:
        raise InputValueError(
            "Pretrained weights need RGB images. "
            f"Received: {shape[2]} channels. Convert the images, or use weights=None."
        )
    if include_top and None in shape:
        raise InputValueError(
            f"With include_top=True the image size must be fixed. Received: input_shape={shape}. "
            "Give a size, or use include_top=False."
        )
    if any(size is not None and size < MIN_SIZE for size in shape[:2]):
        raise InputValueError(
            f"Images must be at least {MIN_SIZE}×{MIN_SIZE} pixels. Received: input_shape={shape}."
        )


def _application(variant: Variant, function_name: str, note: str):
    def application(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=NUM_CLASSES,
        classifier_activation="softmax",
        name=None,
        *,
        deploy=False,
    ):
        return MobileOne(
            variant,
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            name,
            deploy=deploy,
        )

    application.__name__ = application.__qualname__ = function_name
    application.__doc__ = f"""Instantiates {function_name}: {note}

    Reference: [MobileOne: An Improved One millisecond Mobile Backbone](
    https://arxiv.org/abs/2206.04040) (CVPR 2023).
    {_ARGUMENTS}
    Example:

    >>> keras_mobileone.{function_name}(weights=None, deploy=True).output_shape
    (None, 1000)
    """
    return application


MobileOne.__doc__ = MobileOne.__doc__.replace("{arguments}", _ARGUMENTS)

MobileOneS0 = _application(S0, "MobileOneS0", "2.1 M deploy parameters, 71.4 % ImageNet top-1.")
MobileOneS1 = _application(S1, "MobileOneS1", "4.8 M deploy parameters, 75.9 % ImageNet top-1.")
MobileOneS2 = _application(S2, "MobileOneS2", "7.8 M deploy parameters, 77.4 % ImageNet top-1.")
MobileOneS3 = _application(S3, "MobileOneS3", "10.1 M deploy parameters, 78.1 % ImageNet top-1.")
MobileOneS4 = _application(S4, "MobileOneS4", "14.8 M deploy parameters, 79.4 % ImageNet top-1.")


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Lists the names of the networks, as `timm.list_models` does.

    Args:
        filter: Pattern with `*` and `?` that the names must match. An empty one matches all.
        pretrained: List only networks for which ImageNet weights are known.

    Returns:
        Sorted names, which `MobileOne` and `get_variant` accept.

    Example:

    >>> keras_mobileone.list_models("*s[01]")
    ['mobileone_s0', 'mobileone_s1']
    """
    names = sorted(variant.name for variant in VARIANTS.values())
    return [
        name
        for name in names
        if fnmatch(name, filter or "*") and (name in PRETRAINED or not pretrained)
    ]
