"""DeepLabV3 over the stages of a MobileOne, with DeepLabV3+'s decoder as an option."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any, ClassVar

import keras
from keras import layers

from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import TASK_KEY, attach
from keras_mobileone.models.graph import called
from keras_mobileone.models.heads import HeadLayers
from keras_mobileone.models.network import MobileOneModel, stages
from keras_mobileone.variants import OUTPUT_STRIDES, Variant

LOGITS_NAME, SEGMENTATION_NAME = "logits", "segmentation"
# Stride of the features that the decoder adds, and how many channels of them it takes (arXiv
# 1802.02611, table 1).
LOW_LEVEL_STRIDE, LOW_LEVEL_FILTERS = 4, 48
Tensor = Any  # a symbolic tensor of Keras


@dataclass(frozen=True)
class SegmentationConfig:
    """The head of a semantic segmentation model.

    Attributes:
        classes: Number of classes.
        output_stride: Stride of the last stage's features: 32, 16 or 8.
        rates: Dilation rates of the branches of the atrous spatial pyramid pooling (ASPP).
        separable: Whether these branches are depthwise separable.
        aspp_filters: Number of output channels of each branch, and of their projection.
        decoder_filters: Number of channels of DeepLabV3+'s decoder; None for no decoder.
        dropout: Fraction of the values before the logits that training drops.

    Raises:
        ValueError: If an attribute is out of range.

    Examples:
        >>> from keras_mobileone.models.segmentation import SegmentationConfig
        >>> SegmentationConfig(classes=21).rates
        (6, 12, 18)
    """

    task: ClassVar[str] = "segment"

    classes: int
    output_stride: int = 16
    rates: tuple[int, ...] = (6, 12, 18)
    separable: bool = True
    aspp_filters: int = 256
    decoder_filters: int | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(self.rates))
        for name in ("classes", "aspp_filters", "decoder_filters"):
            value = getattr(self, name)
            if value is None and name == "decoder_filters":
                continue
            if not isinstance(value, Integral) or value < 1:
                raise InputValueError(f"`{name}` must be a positive integer. Received: {value!r}.")
        if self.output_stride not in OUTPUT_STRIDES:
            raise InputValueError(
                f"`output_stride` must be one of {', '.join(map(str, OUTPUT_STRIDES))}. "
                f"Received: output_stride={self.output_stride!r}."
            )
        if not all(isinstance(rate, Integral) and rate > 0 for rate in self.rates) or (
            len(set(self.rates)) != len(self.rates)
        ):
            raise InputValueError(
                "`rates` must be different positive integers, such as (6, 12, 18). "
                f"Received: rates={self.rates}."
            )
        if not 0 <= self.dropout < 1:
            raise InputValueError(
                f"`dropout` must lie in [0, 1). Received: dropout={self.dropout}."
            )

    def to_dict(self) -> dict:
        """Converts the configuration to plain data for JSON."""
        return {"task": self.task, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict) -> "SegmentationConfig":
        """Restores a configuration from `to_dict`. Unknown keys are ignored."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: data[name] for name in names if name in data})


def build_segmentation(
    variant: Variant,
    image: Tensor,
    config: SegmentationConfig,
    *,
    deploy: bool = False,
    name: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Builds DeepLabV3 on the symbolic image tensor `image`.

    Args:
        variant: The architecture of the backbone.
        image: Symbolic tensor of shape (batch, height, width, 3) with a fixed height and width.
        config: The head.
        deploy: Whether to build the fused network of stock Keras layers.
        name: Name of the model. Defaults to the name of the variant and `_deeplabv3`.
        synchronized: Whether to compute batch statistics over all replicas.
        dtype: Dtype policy of the layers.

    Returns:
        A Functional model: a `keras.Model` if `deploy`, else a `MobileOneModel`. The output is the
        float32 logits (batch, height, width, classes).
    """
    features = stages(
        variant,
        image,
        deploy=deploy,
        output_stride=config.output_stride,
        synchronized=synchronized,
        dtype=dtype,
    )
    head = HeadLayers(deploy, synchronized, dtype)
    x = segmentation_head(head, features, config, image.shape[1:3])
    model_class = keras.Model if deploy else MobileOneModel
    model = model_class(image, x, name=name or f"{variant.name}_deeplabv3")
    attach(model, config, TASK_KEY)
    return called(model)


def segmentation_head(
    head: HeadLayers, features: Sequence[Tensor], config: SegmentationConfig, size: Sequence[int]
) -> Tensor:
    """Builds the head of DeepLabV3 on the features of any backbone.

    Args:
        head: Makes the convolutions.
        features: Feature maps of the backbone. The last one has the stride `config.output_stride`.
            The decoder, if there is one, takes the first, which must have the stride 4.
        config: The head.
        size: (height, width) of the image.

    Returns:
        The float32 logits (batch, height, width, classes).
    """
    x = _pyramid(head, features[-1], config)
    stride = config.output_stride
    if config.decoder_filters is not None:
        x = _decoder(head, x, features[0], stride // LOW_LEVEL_STRIDE, config.decoder_filters)
        stride = LOW_LEVEL_STRIDE
    x = layers.Dropout(config.dropout, name="dropout", dtype=head.dtype)(x)
    x = layers.Conv2D(config.classes, 1, name=LOGITS_NAME, dtype=head.dtype)(x)
    return upsampled(x, stride, size, SEGMENTATION_NAME, "float32")


def _pyramid(head: HeadLayers, x: Tensor, config: SegmentationConfig) -> Tensor:
    """Applies the atrous spatial pyramid pooling (arXiv 1706.05587, section 3.3)."""
    filters = config.aspp_filters
    branches = [head.conv(x, "aspp_pointwise", filters)]
    for rate in config.rates:
        name = f"aspp_rate{rate}"
        if config.separable:
            branches.append(head.separable(x, name, filters, rate=rate))
        else:
            branches.append(head.conv(x, name, filters, 3, rate))
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pool", dtype=head.dtype)(x)
    # One value of each image is too few for batch statistics, so this branch has none.
    pooled = layers.Conv2D(
        filters, 1, activation="relu", name="aspp_pool_pointwise", dtype=head.dtype
    )(pooled)
    size = x.shape[1:3]
    branches.append(upsampled(pooled, size, size, "aspp_pool_upsampled", head.dtype))
    x = layers.Concatenate(name="aspp_concatenated", dtype=head.dtype)(branches)
    return head.conv(x, "aspp_projection", filters)


def _decoder(head: HeadLayers, x: Tensor, low_level: Tensor, factor: int, filters: int) -> Tensor:
    """Adds the detail of the stride-4 features (DeepLabV3+, arXiv 1802.02611, section 3.1)."""
    low_level = head.conv(low_level, "decoder_low_level", LOW_LEVEL_FILTERS)
    x = upsampled(x, factor, low_level.shape[1:3], "decoder_upsampled", head.dtype)
    x = layers.Concatenate(name="decoder_concatenated", dtype=head.dtype)([x, low_level])
    x = head.separable(x, "decoder_1", filters)
    return head.separable(x, "decoder_2", filters)


def upsampled(
    x: Tensor, factors: int | tuple[int, int], size: Sequence[int], name: str, dtype: Any
) -> Tensor:
    """Enlarges features bilinearly by whole factors, and cuts off what exceeds `size`.

    Nearest neighbors would leave a phone's fast kernels. Keras' `Resizing` would take any size, but
    it is made for pipelines: a model that contains it runs in training mode unless it is told not
    to.
    """
    factors = (factors, factors) if isinstance(factors, int) else factors
    excess = [
        f * side - wanted for f, side, wanted in zip(factors, x.shape[1:3], size, strict=True)
    ]
    fits = not any(excess)
    x = layers.UpSampling2D(
        factors, interpolation="bilinear", name=name if fits else f"{name}_whole", dtype=dtype
    )(x)
    if fits:
        return x
    bottom, right = excess
    return layers.Cropping2D(((0, bottom), (0, right)), name=name, dtype=dtype)(x)
