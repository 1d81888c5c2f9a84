"""Builds SSDLite on the stages of a MobileOne."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import TASK_KEY, attach, attached
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.decoding import decode_outputs
from keras_mobileone.models.detection.loss import BOXES_OUTPUT, CLASSES_OUTPUT, detection_loss
from keras_mobileone.models.graph import called
from keras_mobileone.models.heads import HeadLayers
from keras_mobileone.models.network import MobileOneModel, stages
from keras_mobileone.variants import Variant

Tensor = Any  # a tensor of Keras' backend, or a symbolic tensor


@keras.saving.register_keras_serializable(package="keras_mobileone")
class MobileOneDetector(MobileOneModel):
    """A Functional train-time SSDLite with its loss, so that `compile` needs only an optimizer."""

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the sum of the losses of `detection_loss`.

        Args:
            x: Images, which are not used.
            y: Labels, a dictionary of `"boxes"` and `"labels"`.
            y_pred: Outputs of the model.
            sample_weight: Must be None.
            training: Whether the model is in training mode, which makes no difference.

        Raises:
            ValueError: If `sample_weight` is given.
        """
        if sample_weight is not None:
            raise InputValueError(
                "The loss of a detector has no weights of images. Received: sample_weight. "
                "Leave it out."
            )
        losses = detection_loss(y, y_pred, detection_config(self), image_size(self))
        return sum(losses.values())

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "MobileOneDetector":
        """Restores a detector from `get_config`."""
        model = super().from_config(config, custom_objects)
        if TASK_KEY in config:
            attach(model, DetectionConfig.from_dict(config[TASK_KEY]), TASK_KEY)
        return model


def detection_config(model: keras.Model) -> DetectionConfig:
    """Returns the configuration of a detector.

    Raises:
        ValueError: If `model` is not a detector of this package.
    """
    config = attached(model, TASK_KEY)
    if not isinstance(config, DetectionConfig):
        raise InputValueError(
            f"Expected a detector made by MobileOneSSDLite. Received: {model.name!r}."
        )
    return config


def image_size(model: keras.Model) -> tuple[int, int]:
    """Returns (height, width) of the images that a detector takes."""
    return model.input_shape[1:3]


def decode_detections(
    model: keras.Model, outputs: Mapping[str, Tensor], **settings: Any
) -> dict[str, Tensor]:
    """Converts the outputs of a detector to boxes, classes and scores.

    Args:
        model: The detector, train-time or fused.
        outputs: What `model` returned for a batch of images.
        **settings: `score_threshold`, `iou_threshold`, `max_detections` and `candidates` of
            `keras_mobileone.models.detection.decoding.decode_outputs`.

    Returns:
        A dictionary of `"boxes"` (batch, max_detections, 4) in the format of the detector,
        `"labels"` and `"confidence"` (batch, max_detections), the best first and −1 behind the last
        one, and `"num_detections"` (batch,).

    Raises:
        ValueError: If `model` is not a detector of this package.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOneSSDLite(tiny, classes=3, input_shape=(64, 64, 3), weights=None)
        >>> outputs = model(np.zeros((2, 64, 64, 3), "float32"))
        >>> detections = km.decode_detections(model, outputs, max_detections=10)
        >>> tuple(detections["boxes"].shape), tuple(detections["labels"].shape)
        ((2, 10, 4), (2, 10))
    """
    return decode_outputs(outputs, detection_config(model), image_size(model), **settings)


def build_detector(
    variant: Variant,
    image: Tensor,
    config: DetectionConfig,
    *,
    deploy: bool = False,
    name: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Builds SSDLite on the symbolic image tensor `image`.

    The features of strides 16 and 32 come from the backbone. Each further feature map is made by a
    1×1 convolution to half its channels, a depthwise convolution of stride 2 and a 1×1 convolution.
    The predictions on each feature map are a depthwise and a 1×1 convolution (MobileNetV2, arXiv
    1801.04381, section 6.2).

    Args:
        variant: The architecture of the backbone.
        image: Symbolic tensor of shape (batch, height, width, 3) with a fixed height and width.
        config: The head.
        deploy: Whether to build the fused network of stock Keras layers.
        name: Name of the model. Defaults to the name of the variant and `_ssdlite`.
        synchronized: Whether to compute batch statistics over all replicas.
        dtype: Dtype policy of the layers.

    Returns:
        A Functional model: a `keras.Model` if `deploy`, else a `MobileOneDetector`. The outputs
        are a dictionary of float32: `"bbox_regression"` (batch, anchors, 4), and `"cls_logits"`
        (batch, anchors, 1 + classes) with the background first.
    """
    backbone = stages(variant, image, deploy=deploy, synchronized=synchronized, dtype=dtype)
    head = HeadLayers(deploy, synchronized, dtype)
    outputs = detection_head(head, backbone, config)
    model_class = keras.Model if deploy else MobileOneDetector
    model = model_class(image, outputs, name=name or f"{variant.name}_ssdlite")
    attach(model, config, TASK_KEY)
    return called(model)


def detection_head(
    head: HeadLayers, backbone: Sequence[Tensor], config: DetectionConfig
) -> dict[str, Tensor]:
    """Builds the head of SSDLite on the features of any backbone.

    Args:
        head: Makes the convolutions.
        backbone: Feature maps of the backbone. The last two have the strides 16 and 32.
        config: The head.

    Returns:
        The outputs of a detector, see `build_detector`.
    """
    features = _feature_maps(head, backbone, config.extra_filters)
    return {
        output: _predictions(head, features, output, prefix, config.anchors_per_cell, values)
        for output, prefix, values in (
            (BOXES_OUTPUT, "boxes", 4),
            (CLASSES_OUTPUT, "classes", config.classes + 1),
        )
    }


def _feature_maps(
    head: HeadLayers, backbone: Sequence[Tensor], extra_filters: tuple[int, ...]
) -> list[Tensor]:
    features = list(backbone[-2:])
    for level, filters in enumerate(extra_filters, len(features) + 1):
        x = head.conv(features[-1], f"extra{level}_reduce", max(1, filters // 2))
        features.append(head.separable(x, f"extra{level}", filters, strides=2))
    return features


def _predictions(
    head: HeadLayers, features: list[Tensor], output: str, prefix: str, anchors: int, values: int
) -> Tensor:
    """Predicts `values` numbers for each anchor, shape (batch, anchors, values)."""
    parts = []
    for level, x in enumerate(features, 1):
        name = f"{prefix}{level}"
        x = head.depthwise(x, f"{name}_depthwise")
        x = layers.Conv2D(anchors * values, 1, name=name, dtype=head.dtype)(x)
        parts.append(layers.Reshape((-1, values), name=f"{name}_rows", dtype=head.dtype)(x))
    return layers.Concatenate(axis=1, name=output, dtype="float32")(parts)
