"""The networks `MobileOneS0` to `MobileOneS4`, with the signature of Keras Applications."""

import inspect
import os
import textwrap
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, TypeVar

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
from keras_mobileone.variants import ALL_VARIANTS, S0, S1, S2, S3, S4, Variant, get_variant
from keras_mobileone.weights.loading import model_from_weights
from keras_mobileone.weights.pretrained import PRETRAINED
from keras_mobileone.weights.selection import require_known, weights_path

DEFAULT_SIZE = 224
MIN_SIZE = 32

Activation = str | Callable | None
Shape = tuple[int | None, int | None, int]
Builder = TypeVar("Builder", bound=Callable)

_DOCUMENTATION = """
Reference:

- [MobileOne: An Improved One millisecond Mobile Backbone](
  https://arxiv.org/abs/2206.04040) (CVPR 2023)

Images must be normalized by `keras_mobileone.preprocess_input` before they reach the model.

Args:
    {variant}include_top: Whether to include the classifier at the top of the network, which is
        global average pooling and a dense layer.
    weights: One of `None` (random initialization), `"imagenet"`, `"imagenette"` (ten classes, S0
        only, shipped with this package), or the path of a weight file. The file is a safetensors
        file with the authors' or timm's names, fused or not, a PyTorch state dict (which needs
        torch), or a `.keras` or `.weights.h5` file that this package saved.
    input_tensor: Optional Keras tensor to use as image input for the model.
    input_shape: Optional tuple `(height, width, channels)`. Height and width are at least 32; they
        may be `None` if `include_top` is `False`. Multiples of 32 suit pretrained weights, which
        lose several points at sizes such as 208 or 240, where the last stage gets an odd size.
        Defaults to `(224, 224, 3)`, or to `(None, None, 3)` if `include_top` is `False`.
    pooling: Optional pooling mode when `include_top` is `False`: `None` for the feature map of the
        last stage, `"avg"` or `"max"` for its global average or maximum pooling.
    classes: Number of classes of the classifier. `weights="imagenette"` implies 10, even if
        `classes=1000` is passed, which cannot be distinguished from the default.
    classifier_activation: Activation of the classifier. `None` returns the logits.
    name: Name of the model.
    deploy: Whether to build the fused network of stock Keras layers, for inference, instead of the
        branches for training.

Input shape:
    `(batch, height, width, 3)`, float32. Images are RGB and normalized by `preprocess_input`.

Output shape:
    `(batch, classes)` if `include_top` is `True`. Otherwise
    `(batch, ceil(height / 32), ceil(width / 32), channels)`, or `(batch, channels)` with `pooling`.

Returns:
    A Functional `keras.Model`. The outputs of its layers `"stage1"` to `"stage4"` are the feature
    maps at strides 4, 8, 16 and 32. A train-time model has a method `fuse()`.

Raises:
    ValueError: If an argument has a wrong value or contradicts another one, or if the weights do
        not fit the network.
    TypeError: If `weights` or `input_tensor` has a wrong type.
    FileNotFoundError: If the weights are not found.

Examples:
{example}
"""
_VARIANT_ARGUMENT = """variant: One of `"s0"` to `"s4"`, or a `Variant` that you define.
    """
_OWN_VARIANT = """
>>> tiny = keras_mobileone.Variant("tiny", widths=(0.5, 0.5, 0.5, 0.5), depths=(1, 2, 2, 1))
>>> keras_mobileone.MobileOne(tiny, weights=None, classes=10).output_shape
(None, 10)
"""
_NAMED_VARIANT = """
>>> model = keras_mobileone.{name}(weights=None, deploy=True, input_shape=(64, 64, 3))
>>> model.output_shape
(None, 1000)
"""


def _documented(builder: Builder) -> Builder:
    """Adds the sections that all functions share to the docstring of `builder`."""
    any_variant = "variant" in inspect.signature(builder).parameters
    example = _OWN_VARIANT if any_variant else _NAMED_VARIANT.format(name=builder.__name__)
    common = _DOCUMENTATION.format(
        variant=_VARIANT_ARGUMENT if any_variant else "",
        example=textwrap.indent(example.strip(), " " * 4),
    )
    builder.__doc__ = f"{inspect.cleandoc(builder.__doc__ or '')}\n{common}"
    return builder


@_documented
def MobileOne(
    variant: Variant | str,
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates the MobileOne architecture of any variant."""
    require_channels_last()
    if isinstance(variant, str):
        variant = get_variant(variant)
    if weights == "imagenette" and classes == NUM_CLASSES:
        classes = PRETRAINED_CLASSES[weights]
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
        path = weights_path(weights, variant, deploy)
        model = model_from_weights(variant, path, deploy=deploy, **arguments)
    if inputs is None and image.shape[3] == 3:
        known_classes = weights == "imagenette" and include_top
        labels = tuple(unique_labels(class_table("imagenette"))) if known_classes else None
        set_image_config(model, ImageConfig(crop_fraction=variant.crop_fraction, labels=labels))
    return model


def _check_arguments(
    include_top: bool,
    weights: Any,
    pooling: str | None,
    classes: Any,
    classifier_activation: Activation,
) -> None:
    """Raises an error if an argument has a wrong type or value, or contradicts another one."""
    require_known(weights)
    known = weights in PRETRAINED_CLASSES
    expected = PRETRAINED_CLASSES.get(str(weights))
    if known and include_top and classes != expected:
        raise InputValueError(
            f"The classifier of the {weights} weights has {expected} classes. "
            f"Received: classes={classes}. Use classes={expected}, or include_top=False with a "
            "new classifier."
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


def _image_input(
    input_tensor: Any, input_shape: Shape | None, include_top: bool, weights: Any
) -> tuple[Any, Any]:
    """Returns the image tensor to build on, and the model's inputs or None if they are the same."""
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
        check_input_shape(shape, include_top, weights)
        sources = keras.utils.get_source_inputs(input_tensor)
        return input_tensor, sources[0] if len(sources) == 1 else sources
    if input_shape is None:
        size = DEFAULT_SIZE if include_top else None
        input_shape = (size, size, 3)
    check_input_shape(tuple(input_shape), include_top, weights)
    return keras.Input(tuple(input_shape), name="image"), None


def check_input_shape(shape: tuple[int | None, ...], include_top: bool, weights: Any) -> None:
    """Raises ValueError if images of this shape do not fit the network or the weights.

    Args:
        shape: (height, width, channels).
        include_top: Whether the network has a classifier, which needs a fixed size.
        weights: Anything but None for pretrained weights, which need RGB images.
    """
    if len(shape) != 3 or shape[2] is None:
        raise InputValueError(
            "The input shape must be (height, width, channels), with the channels last. "
            f"Received: input_shape={shape}."
        )
    if weights is not None and shape[2] != 3:
        raise InputValueError(
            "Pretrained weights need RGB images. "
            f"Received: {shape[2]} channels. Convert the images to RGB, or use weights=None."
        )
    if include_top and None in shape:
        raise InputValueError(
            f"With include_top=True the image size must be fixed. Received: input_shape={shape}. "
            "Pass a size, or use include_top=False."
        )
    if any(size is not None and size < MIN_SIZE for size in shape[:2]):
        raise InputValueError(
            f"Images must be at least {MIN_SIZE}×{MIN_SIZE} pixels. Received: input_shape={shape}."
        )


@_documented
def MobileOneS0(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates the MobileOneS0 architecture.

    It has 2.1 M parameters when fused, and 71.4 % top-1 accuracy on ImageNet.
    """
    return MobileOne(
        S0,
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


@_documented
def MobileOneS1(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates the MobileOneS1 architecture.

    It has 4.8 M parameters when fused, and 75.9 % top-1 accuracy on ImageNet.
    """
    return MobileOne(
        S1,
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


@_documented
def MobileOneS2(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates the MobileOneS2 architecture.

    It has 7.8 M parameters when fused, and 77.4 % top-1 accuracy on ImageNet.
    """
    return MobileOne(
        S2,
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


@_documented
def MobileOneS3(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates the MobileOneS3 architecture.

    It has 10.1 M parameters when fused, and 78.1 % top-1 accuracy on ImageNet.
    """
    return MobileOne(
        S3,
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


@_documented
def MobileOneS4(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = NUM_CLASSES,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    deploy: bool = False,
) -> keras.Model:
    """Instantiates the MobileOneS4 architecture.

    It has 14.8 M parameters when fused, and 79.4 % top-1 accuracy on ImageNet.
    """
    return MobileOne(
        S4,
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


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Lists the names of the networks, as `timm.list_models` does.

    Args:
        filter: Pattern with `*` and `?` that the names must match. An empty pattern matches all.
        pretrained: Whether to list only networks with published ImageNet weights.

    Returns:
        Sorted names, which `MobileOne` and `get_variant` accept.

    Examples:
        >>> keras_mobileone.list_models("*s[01]")
        ['mobileone_s0', 'mobileone_s1']
    """
    names = sorted(variant.name for variant in ALL_VARIANTS.values())
    return [
        name
        for name in names
        if fnmatch(name, filter or "*") and (name in PRETRAINED or not pretrained)
    ]
