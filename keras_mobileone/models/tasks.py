"""The tasks other than classification, and the configurations that models carry of them."""

from typing import Any

import keras

from keras_mobileone.models.attachment import TASK_KEY, attach, attached
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.detection.network import build_detector
from keras_mobileone.models.segmentation import SegmentationConfig, build_segmentation
from keras_mobileone.variants import Variant

Tensor = Any  # a symbolic tensor of Keras
TaskConfig = SegmentationConfig | DetectionConfig
CONFIGS: dict[str, Any] = {config.task: config for config in (SegmentationConfig, DetectionConfig)}


def task_config(model: keras.Model) -> TaskConfig | None:
    """Returns what a model computes if it is a segmentation model or a detector, else None.

    Args:
        model: Any Keras model. Those of `MobileOneDeepLabV3` and `MobileOneSSDLite`, and what
            `fuse` and `unfuse` make of them, carry a configuration.
    """
    config = attached(model, TASK_KEY)
    return config if isinstance(config, TaskConfig) else None


def set_task_config(model: keras.Model, config: TaskConfig) -> keras.Model:
    """Attaches a configuration to `model`, and returns `model`."""
    attach(model, config, TASK_KEY)
    return model


def task_from_dict(data: dict) -> TaskConfig | None:
    """Restores a configuration from its `to_dict`; None for a task that is not known."""
    config = CONFIGS.get(data.get("task", ""))
    return None if config is None else config.from_dict(data)


def build_task(config: TaskConfig, variant: Variant, image: Tensor, **arguments: Any) -> Any:
    """Builds the network of a configuration; see `build_segmentation` and `build_detector`."""
    if isinstance(config, SegmentationConfig):
        return build_segmentation(variant, image, config, **arguments)
    return build_detector(variant, image, config, **arguments)
