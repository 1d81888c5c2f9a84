"""Counts parameters and multiply-accumulates of the networks for segmentation and detection."""

from typing import NamedTuple

import keras

from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import TaskConfig, build_task
from keras_mobileone.variants import STAGE_NAMES, Variant


class Head(NamedTuple):
    """A head to count.

    Attributes:
        name: Name in tables.
        config: The head.
        image_size: (height, width) of the image in pixels.
        conditions: Classes and image size in words.
    """

    name: str
    config: TaskConfig
    image_size: tuple[int, int]
    conditions: str


class DenseComplexity(NamedTuple):
    """Counts of a fused network; see `Complexity`.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulates for one image.
        backbone_macs: The part of `macs` in stem and stages.
        head_macs: The part of `macs` behind them.
    """

    parameters: int
    macs: int
    backbone_macs: int
    head_macs: int


_VOC = "DeepLabV3, 21 classes, 512×512 pixels, output stride 16"
_COCO = "SSDLite, 80 classes, 320×320 pixels"
DENSE_HEADS: dict[str, tuple[Head, ...]] = {
    "segment": (
        Head("separable", SegmentationConfig(21), (512, 512), _VOC),
        Head("dense", SegmentationConfig(21, separable=False), (512, 512), _VOC),
        Head("separable, decoder", SegmentationConfig(21, decoder_filters=256), (512, 512), _VOC),
    ),
    "detect": (Head("SSDLite", DetectionConfig(80), (320, 320), _COCO),),
}


def dense_complexity(variant: Variant, head: Head) -> DenseComplexity:
    """Counts the fused network of a variant with a head.

    Examples:
        >>> counts = dense_complexity(km.VARIANTS["s0"], DENSE_HEADS["detect"][0])
        >>> round(counts.macs / 1e9, 2)
        0.71
    """
    image = keras.Input((*head.image_size, 3))
    model = build_task(head.config, variant, image, deploy=True)
    whole = model_complexity(model)
    features = model.get_layer(STAGE_NAMES[-1]).output
    backbone = model_complexity(keras.Model(model.input, features)).macs
    parameters = whole.trainable + whole.non_trainable
    return DenseComplexity(parameters, whole.macs, backbone, whole.macs - backbone)
