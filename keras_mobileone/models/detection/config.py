"""`DetectionConfig`: the head of a detector, which also defines its anchors."""

from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import ClassVar

import numpy as np

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.detection.anchors import anchor_boxes

# The formats of `keras.utils.bounding_boxes`.
BOUNDING_BOX_FORMATS = (
    *("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw"),
    *("rel_xyxy", "rel_yxyx", "rel_xywh", "rel_center_xywh"),
)
# The settings of mmdetection's ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py: sides of the smaller
# square anchor of each level for images of 320 pixels, and the side of the larger one of the last.
_SIDES = (48, 100, 150, 202, 253, 304, 320)
_IMAGE_SIDE = 320


@dataclass(frozen=True)
class DetectionConfig:
    """The head and the anchors of an SSDLite detector.

    Attributes:
        classes: Number of classes, without the background.
        bounding_box_format: Format of the boxes in labels and detections, one of those of
            `keras.utils.bounding_boxes`.
        extra_filters: Number of channels of each of the feature maps behind the backbone. Each has
            half the size of the one before it.
        scales: Side of the smaller square anchor of each feature map, divided by the short side of
            the image, and last the side of the larger anchor of the last feature map.
        aspect_ratios: Ratios of the anchors that are not square. A ratio r gives a wide anchor, and
            a tall one of 1 / r.
        variances: Divisors of the offsets (center y, center x) and of the log sizes (height, width)
            in the outputs.

    Raises:
        ValueError: If an attribute is out of range.

    Examples:
        >>> from keras_mobileone.models.detection.config import DetectionConfig
        >>> DetectionConfig(classes=80).anchors((320, 320)).shape
        (3234, 4)
    """

    task: ClassVar[str] = "detect"

    classes: int
    bounding_box_format: str = "xyxy"
    extra_filters: tuple[int, ...] = (512, 256, 256, 128)
    scales: tuple[float, ...] = tuple(side / _IMAGE_SIDE for side in _SIDES)
    aspect_ratios: tuple[float, ...] = (2.0, 3.0)
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def __post_init__(self) -> None:
        for name in ("extra_filters", "scales", "aspect_ratios", "variances"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.classes, Integral) or self.classes < 1:
            raise InputValueError(
                f"`classes` must be a positive integer. Received: classes={self.classes!r}."
            )
        if self.bounding_box_format not in BOUNDING_BOX_FORMATS:
            raise InputValueError(
                f"`bounding_box_format` must be one of {', '.join(BOUNDING_BOX_FORMATS)}. "
                f"Received: {self.bounding_box_format!r}."
            )
        if len(self.scales) != len(self.extra_filters) + 3 or min(self.scales) <= 0:
            raise InputValueError(
                "`scales` must have a positive number for each feature map, of which there are two "
                "in the backbone and one for each of `extra_filters`, and one more. Received: "
                f"scales={self.scales}, extra_filters={self.extra_filters}."
            )
        if min((*self.aspect_ratios, 2)) <= 1:
            raise InputValueError(
                "`aspect_ratios` must be larger than 1; each is also used inverted. "
                f"Received: aspect_ratios={self.aspect_ratios}."
            )
        if len(self.variances) != 4 or min(self.variances) <= 0:
            raise InputValueError(
                f"`variances` must be four positive numbers. Received: variances={self.variances}."
            )

    @property
    def anchors_per_cell(self) -> int:
        """Number of anchors at each position of a feature map."""
        return 2 + 2 * len(self.aspect_ratios)

    def anchors(self, image_size: tuple[int, int]) -> np.ndarray:
        """Returns the anchors for images of (height, width) pixels; see `anchor_boxes`."""
        return anchor_boxes(image_size, self.scales, self.aspect_ratios)

    def to_dict(self) -> dict:
        """Converts the configuration to plain data for JSON."""
        return {"task": self.task, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict) -> "DetectionConfig":
        """Restores a configuration from `to_dict`. Unknown keys are ignored."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: data[name] for name in names if name in data})
