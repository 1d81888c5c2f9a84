"""Networks for segmentation and detection to compare latency with.

Their backbones are those of `keras.applications`, and their heads are the ones of
`MobileOneDeepLabV3` and `MobileOneSSDLite`, so that nothing but the backbone differs. Lite R-ASPP
is the head that was published with MobileNetV3. Weights are random, as in `baselines`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_mobileone.benchmarking.published_results import PUBLISHED_DENSE
from keras_mobileone.dense_applications import (
    DETECTION_SIZE,
    MobileOneDeepLabV3,
    MobileOneSSDLite,
)
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.network import detection_head
from keras_mobileone.models.heads import HeadLayers
from keras_mobileone.models.segmentation import (
    LOGITS_NAME,
    SEGMENTATION_NAME,
    SegmentationConfig,
    segmentation_head,
    upsampled,
)
from keras_mobileone.quantization.layerwise_correction import Steps
from keras_mobileone.quantization.ptq import quantize_images
from keras_mobileone.variants import VARIANTS

VOC_CLASSES, COCO_CLASSES = 21, 80
SEGMENTATION_SIZE = 512
# Channels of Lite R-ASPP (arXiv 1905.02244, section 6.4), and the stride of its finer features.
LITE_RASPP_FILTERS, LITE_RASPP_STRIDE = 128, 8
PAPER = "MobileOne's paper"
Tensor = Any  # a symbolic tensor of Keras


@dataclass(frozen=True)
class DensePeer:
    """A network for segmentation or detection to measure.

    Attributes:
        name: Key of the network in `DENSE_PEERS`.
        task: `"segment"` or `"detect"`.
        build: Function that returns the network as a new Keras model with random weights. MobileOne
            and all heads are in their deploy form.
        accuracy: Published accuracy in percent: mIoU on Pascal VOC 2012, or mAP on MS COCO. None if
            it was not published.
        source: Where `accuracy` is published.
        quantizer: Function that makes the int8 file of the network, for latency only.
    """

    name: str
    task: str
    build: Callable[[], keras.Model]
    accuracy: float | None
    source: str
    quantizer: Callable[[keras.Model, np.ndarray], bytes]


class _Backbone(NamedTuple):
    """A network of `keras.applications` with the layers that a head needs.

    Attributes:
        application: Name of the function.
        arguments: Its arguments besides the usual ones.
        last_stage: Name of the first block of the last stage, which has stride 2.
        pad: Name of the layer that pads the depthwise convolution of that block. Its input is the
            expansion, to which SSDLite attaches its first predictions.
        segmented: Name of the layer whose features DeepLabV3 takes; None for the last one.
        fine: Name of the layer with features of stride 8.
    """

    application: str
    arguments: dict[str, Any]
    last_stage: str
    pad: str
    segmented: str | None
    fine: str


BACKBONES = {
    "MobileNetV2": _Backbone(
        # The 1,280 channels of the last convolution are left out in segmentation (arXiv 1801.04381,
        # section 6.3).
        *("MobileNetV2", {}, "block_13", "block_13_pad", "block_16_project_BN"),
        "block_3_project_BN",
    ),
    "MobileNetV3Large": _Backbone(
        *("MobileNetV3Large", {"include_preprocessing": False}, "expanded_conv_12"),
        *("expanded_conv_12_depthwise_pad", None, "expanded_conv_3_project_bn"),
    ),
}


def build_backbone(name: str, size: int, output_stride: int = 32) -> keras.Model:
    """Builds a backbone without its classifier.

    Args:
        name: Key of `BACKBONES`.
        size: Side of the square image in pixels.
        output_stride: Stride of the last features: 32, or 16, where the first block of the last
            stage has no stride and the depthwise convolutions of the blocks behind it have
            dilation 2.

    Raises:
        ValueError: For another stride.
    """
    if output_stride not in (32, 16):
        raise InputValueError(f"`output_stride` must be 32 or 16. Received: {output_stride!r}.")
    backbone = BACKBONES[name]
    build = getattr(keras.applications, backbone.application)
    model = build(
        include_top=False, weights=None, input_shape=(size, size, 3), **backbone.arguments
    )
    if output_stride == 32:
        return model
    names = [layer.name for layer in model.layers]
    dense_from = names.index(backbone.pad)

    def changed(layer: keras.Layer) -> keras.Layer:
        if layer.name == backbone.pad:
            return layers.Identity(name=layer.name)
        config = layer.get_config()
        if isinstance(layer, layers.DepthwiseConv2D) and names.index(layer.name) > dense_from:
            rate = 1 if layer.name.startswith(f"{backbone.last_stage}_") else 2
            config |= {"strides": (1, 1), "padding": "same", "dilation_rate": (rate, rate)}
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=changed)


def build_deeplab(
    name: str,
    config: SegmentationConfig | None = None,
    size: int = SEGMENTATION_SIZE,
    *,
    deploy: bool = True,
) -> keras.Model:
    """Builds DeepLabV3 on a backbone of `keras.applications`, with the head of this package.

    Args:
        name: Key of `BACKBONES`.
        config: The head. Defaults to that of `MobileOneDeepLabV3` with 21 classes.
        size: Side of the square image in pixels.
        deploy: Whether batch normalization is folded in the head. The backbone always has it.

    Returns:
        A Functional model that returns the logits at the size of the image.
    """
    config = config or SegmentationConfig(VOC_CLASSES)
    backbone = build_backbone(name, size, config.output_stride)
    segmented = BACKBONES[name].segmented
    features = backbone.output if segmented is None else backbone.get_layer(segmented).output
    head = HeadLayers(deploy, False, None)
    logits = segmentation_head(head, [features], config, (size, size))
    return keras.Model(backbone.input, logits, name=f"{name.lower()}_deeplabv3")


def build_lite_raspp(
    name: str, classes: int = VOC_CLASSES, size: int = SEGMENTATION_SIZE, *, deploy: bool = True
) -> keras.Model:
    """Builds Lite R-ASPP at output stride 16 on a backbone of `keras.applications`.

    The gate averages the whole image, as in torchvision's `lraspp_mobilenet_v3_large`. The paper
    (arXiv 1905.02244, section 6.4) averages large windows of its larger images.

    Args:
        name, size, deploy: As in `build_deeplab`.
        classes: Number of classes.

    Returns:
        A Functional model that returns the logits at the size of the image.
    """
    backbone = build_backbone(name, size, 16)
    head = HeadLayers(deploy, False, None)
    fine = backbone.get_layer(BACKBONES[name].fine).output
    x = head.conv(backbone.output, "lraspp", LITE_RASPP_FILTERS)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="lraspp_pool")(backbone.output)
    gate = layers.Conv2D(
        LITE_RASPP_FILTERS, 1, use_bias=False, activation="sigmoid", name="lraspp_gate"
    )(gate)
    x = layers.Multiply(name="lraspp_gated")([x, gate])
    x = upsampled(x, 2, fine.shape[1:3], "lraspp_upsampled", None)
    coarse = layers.Conv2D(classes, 1, name=LOGITS_NAME)(x)
    x = layers.Add(name="lraspp_sum")([coarse, layers.Conv2D(classes, 1, name="fine_logits")(fine)])
    x = upsampled(x, LITE_RASPP_STRIDE, (size, size), SEGMENTATION_NAME, "float32")
    return keras.Model(backbone.input, x, name=f"{name.lower()}_lraspp")


def build_ssdlite(
    name: str,
    config: DetectionConfig | None = None,
    size: int = DETECTION_SIZE,
    *,
    deploy: bool = True,
) -> keras.Model:
    """Builds SSDLite on a backbone of `keras.applications`, with the head of this package.

    The predictions are attached to the expansion of the first block of the last stage, at stride
    16, and to the last features (arXiv 1801.04381, section 6.2; 1905.02244, section 6.3).

    Args:
        name, size, deploy: As in `build_deeplab`.
        config: The head. Defaults to that of `MobileOneSSDLite` with 80 classes.

    Returns:
        A Functional model that returns the raw outputs of `MobileOneSSDLite`.
    """
    backbone = build_backbone(name, size)
    features = [backbone.get_layer(BACKBONES[name].pad).input, backbone.output]
    head = HeadLayers(deploy, False, None)
    outputs = detection_head(head, features, config or DetectionConfig(COCO_CLASSES))
    return keras.Model(backbone.input, outputs, name=f"{name.lower()}_ssdlite")


def quantized_for_timing(model: keras.Model, images: np.ndarray) -> bytes:
    """Returns an int8 file with the operators of `quantize`, and without its corrections.

    The corrections take long and change no operator. The ranges matter for latency, because a
    concatenation of tensors with different scales, which the converter makes, runs more slowly.
    One image suffices for them.

    Args:
        model: Fused model, or one of `keras.applications` with a head.
        images: float32 images, shape (count, height, width, 3). Only the first one is used.
    """
    steps = Steps(rounding="nearest", biases=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers that are noise, as those of random heads are
        return quantize_images(model, images[:1], None, equalization=False, steps=steps).content


def _mobileones() -> list[DensePeer]:
    peers = []
    for index, key in enumerate(VARIANTS):
        shape = (SEGMENTATION_SIZE, SEGMENTATION_SIZE, 3)
        settings: dict[str, Any] = {"weights": None, "deploy": True}
        segment = partial(MobileOneDeepLabV3, key, VOC_CLASSES, shape, **settings)
        detect = partial(MobileOneSSDLite, key, COCO_CLASSES, **settings)
        for head, task, build, data in (
            ("DeepLabV3", "segment", segment, "voc"),
            ("SSDLite", "detect", detect, "coco"),
        ):
            name, accuracy = f"{head}-MobileOne{key.upper()}", PUBLISHED_DENSE[data][index]
            peers.append(DensePeer(name, task, build, accuracy, PAPER, quantized_for_timing))
    return peers


def _peer(
    head: str, backbone: str, build: Callable, accuracy: float | None = None, source: str = ""
) -> DensePeer:
    task = "detect" if head == "SSDLite" else "segment"
    name = f"{head}-{backbone}"
    return DensePeer(name, task, partial(build, backbone), accuracy, source, quantized_for_timing)


_V2, _V3 = "MobileNetV2", "MobileNetV3Large"
DENSE_PEERS = {
    peer.name: peer
    for peer in (
        *_mobileones(),
        # With a dense ASPP, and trained on MS COCO besides.
        _peer("DeepLabV3", _V2, build_deeplab, 75.7, "arXiv 1801.04381, table 7"),
        _peer("DeepLabV3", _V3, build_deeplab),
        _peer("LiteRASPP", _V3, build_lite_raspp),
        _peer("SSDLite", _V2, build_ssdlite, 22.1, "arXiv 1801.04381, table 6"),
        _peer("SSDLite", _V3, build_ssdlite, 22.0, "arXiv 1905.02244, table 6"),
    )
}
