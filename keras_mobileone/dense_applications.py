"""Segmentation and detection: `MobileOneDeepLabV3` and `MobileOneSSDLite`."""

import os
from functools import partial
from typing import Any

import keras

from keras_mobileone.applications import check_input_shape
from keras_mobileone.checks import require_channels_last
from keras_mobileone.data.image_config import ImageConfig, set_image_config
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import TaskConfig, build_task
from keras_mobileone.variants import Variant, get_variant
from keras_mobileone.weights.loading import model_from_weights
from keras_mobileone.weights.selection import require_known, weights_path

DETECTION_SIZE = 320


def MobileOneDeepLabV3(
    variant: Variant | str,
    classes: int,
    input_shape: tuple[int, int, int],
    weights: str | os.PathLike | None = "imagenet",
    output_stride: int = 16,
    rates: tuple[int, ...] = (6, 12, 18),
    separable: bool = True,
    aspp_filters: int = 256,
    deploy: bool = False,
    *,
    decoder_filters: int | None = None,
    dropout: float = 0.1,
    name: str | None = None,
) -> keras.Model:
    """Instantiates DeepLabV3, for semantic segmentation, with a MobileOne as its backbone.

    Images must be normalized by `keras_mobileone.preprocess_input` before they reach the model.

    Reference:

    - [MobileOne](https://arxiv.org/abs/2206.04040), section 4.4
    - [Rethinking Atrous Convolution for Semantic Image Segmentation](
      https://arxiv.org/abs/1706.05587)
    - [Encoder-Decoder with Atrous Separable Convolution](https://arxiv.org/abs/1802.02611), for
      separable branches and the decoder

    Args:
        variant: One of `"s0"` to `"s4"`, or a `Variant` that you define.
        classes: Number of classes.
        input_shape: `(height, width, 3)`, at least 32 pixels. Images are resized to it as a whole.
        weights: Weights of the backbone: None (random), `"imagenet"`, `"imagenette"`, or the path
            of a weight file of a MobileOne with any head, as in `MobileOne`. The head is random.
            Fused weights need `deploy=True`; `unfuse` turns the result into a train-time model.
        output_stride: Stride of the features that the head sees: 16, 32 (faster) or 8 (finer, and
            several times slower; the paper's `rates` are then twice as large).
        rates: Dilation rates of the branches of the atrous spatial pyramid pooling (ASPP).
        separable: Whether these branches are depthwise separable. Dense ones cost several times the
            S0 backbone.
        aspp_filters: Number of output channels of the ASPP.
        deploy: Whether to build the fused network of stock Keras layers, for inference.
        decoder_filters: Number of channels of DeepLabV3+'s decoder, which adds the detail of the
            stride-4 features and helps with thin objects. None: no decoder.
        dropout: Fraction of the values before the logits that training drops.
        name: Name of the model.

    Input shape:
        `(batch, height, width, 3)`, float32.

    Output shape:
        `(batch, height, width, classes)`, float32: the logits of each pixel.

    Returns:
        A Functional `keras.Model`. A train-time model has a method `fuse()` and a `backbone`.

    Raises:
        ValueError: If an argument is out of range, or if the weights do not fit the network.
        TypeError: If `weights` has a wrong type.
        FileNotFoundError: If the weights are not found.

    Examples:
        >>> model = km.MobileOneDeepLabV3("s0", 11, (64, 96, 3), weights=None)
        >>> model.output_shape
        (None, 64, 96, 11)
        >>> tuple(model.backbone.output_shape)
        (None, 4, 6, 1024)
    """
    config = SegmentationConfig(
        classes, output_stride, rates, separable, aspp_filters, decoder_filters, dropout
    )
    return _build(variant, config, input_shape, weights, deploy, name)


def MobileOneSSDLite(
    variant: Variant | str,
    classes: int,
    input_shape: tuple[int, int, int] = (DETECTION_SIZE, DETECTION_SIZE, 3),
    bounding_box_format: str = "xyxy",
    weights: str | os.PathLike | None = "imagenet",
    deploy: bool = False,
    *,
    name: str | None = None,
    **head: Any,
) -> keras.Model:
    """Instantiates SSDLite, for object detection, with a MobileOne as its backbone.

    Images must be normalized by `keras_mobileone.preprocess_input` before they reach the model.
    `compile` needs only an optimizer, since a train-time model has its loss. Its labels are a
    dictionary of `"boxes"` (batch, count, 4), in `bounding_box_format`, and `"labels"` (batch,
    count), the classes from 0, or −1 for rows that pad the image to `count`.

    Reference:

    - [MobileOne](https://arxiv.org/abs/2206.04040), section 4.4
    - [SSD](https://arxiv.org/abs/1512.02325)
    - [MobileNetV2](https://arxiv.org/abs/1801.04381), section 6.2, for separable predictions

    Args:
        variant: One of `"s0"` to `"s4"`, or a `Variant` that you define.
        classes: Number of classes, without the background.
        input_shape: `(height, width, 3)`, at least 32 pixels. Images are resized to it as a whole.
        bounding_box_format: Format of the boxes in labels and detections, one of those of
            `keras.utils.bounding_boxes`, such as `"xyxy"`, in pixels of the input.
        weights: Weights of the backbone, as in `MobileOneDeepLabV3`. The head is random.
        deploy: Whether to build the fused network of stock Keras layers, for inference.
        name: Name of the model.
        **head: `extra_filters`, `scales`, `aspect_ratios` and `variances` of `DetectionConfig`.

    Input shape:
        `(batch, height, width, 3)`, float32.

    Output shape:
        A dictionary of float32: `"bbox_regression"` `(batch, anchors, 4)`, the offsets from the
        anchors, and `"cls_logits"` `(batch, anchors, 1 + classes)` with the background first.
        `decode_detections` converts them to boxes, classes and scores.

    Returns:
        A Functional `keras.Model`. A train-time model has a method `fuse()` and a `backbone`.

    Raises:
        ValueError: If an argument is out of range, or if the weights do not fit the network.
        TypeError: If `weights` has a wrong type, or an argument is not known.
        FileNotFoundError: If the weights are not found.

    Examples:
        >>> model = km.MobileOneSSDLite("s0", 3, (96, 96, 3), weights=None, deploy=True)
        >>> tuple(model.output["bbox_regression"].shape), tuple(model.output["cls_logits"].shape)
        ((None, 312, 4), (None, 312, 4))
    """
    config = DetectionConfig(classes, bounding_box_format, **head)
    return _build(variant, config, input_shape, weights, deploy, name)


def _build(
    variant: Variant | str,
    config: TaskConfig,
    input_shape: tuple[int, int, int],
    weights: str | os.PathLike | None,
    deploy: bool,
    name: str | None,
) -> keras.Model:
    """Builds the network of a task, with the weights of its backbone."""
    require_channels_last()
    if isinstance(variant, str):
        variant = get_variant(variant)
    require_known(weights)
    shape = tuple(input_shape)
    if len(shape) != 3 or None in shape or shape[2] != 3:
        raise InputValueError(
            "Segmentation and detection need RGB images of a fixed size, (height, width, 3). "
            f"Received: input_shape={shape}."
        )
    check_input_shape(shape, True, weights)
    build = partial(build_task, config)
    image = keras.Input(shape, name="image")
    if weights is None:
        model = build(variant, image=image, deploy=deploy, name=name)
    else:
        path = weights_path(weights, variant, deploy)
        model = model_from_weights(
            variant, path, deploy=deploy, builder=build, image=image, name=name
        )
    return set_image_config(model, ImageConfig(shape[:2], crop_fraction=1.0, stretch=True))
