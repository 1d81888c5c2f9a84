"""Builds the Keras model of a `Variant`: stem, four stages, head."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_mobileone.layers.block import MobileOneBlock, PlainBlock
from keras_mobileone.models.fusing import fuse
from keras_mobileone.models.graph import called
from keras_mobileone.variants import STAGE_NAMES, BlockSpec, Variant

CLASSIFIER_NAME = "predictions"
Tensor = Any  # a tensor or variable of Keras' backend


@keras.saving.register_keras_serializable(package="keras_mobileone")
class MobileOneModel(keras.Model):
    """A Functional train-time MobileOne with a method `fuse`."""

    def fuse(self, verify: bool = True) -> keras.Model:
        """Returns the deploy model.

        Args:
            verify: Whether to run both models on random input and compare their outputs.

        Returns:
            A new Functional model of stock Keras layers, see `keras_mobileone.fuse`.

        Raises:
            ArithmeticError: If `verify` finds outputs that differ by more than 1e-4 of their range.
        """
        return fuse(self, verify=verify)

    @property
    def backbone(self) -> keras.Model:
        """A model that shares the weights of the stem and the stages, and returns their features.

        Its output is that of the last stage, without the head.
        """
        features = self.get_layer(STAGE_NAMES[-1]).output
        return keras.Model(self.input, features, name=f"{self.name}_backbone")


def build(
    variant: Variant,
    image: Tensor,
    *,
    include_top: bool = True,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable[[Tensor], Tensor] | None = "softmax",
    deploy: bool = False,
    inputs: Tensor | None = None,
    name: str | None = None,
    synchronized: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Builds the Keras model of `variant` on the symbolic image tensor `image`.

    Args:
        variant: The network to build.
        image: Symbolic tensor of shape (batch, height, width, channels).
        include_top: Whether to add global average pooling and the classifier.
        pooling: Pooling mode if `include_top` is False: None, `"avg"` or `"max"`.
        classes: Number of classes of the classifier.
        classifier_activation: Activation of the classifier; None for logits.
        deploy: Whether to build the fused network of stock Keras layers.
        inputs: Input of the model, if it is not `image` itself.
        name: Name of the model. Defaults to the name of the variant.
        synchronized: Whether to compute batch statistics over all replicas, see `MobileOneBlock`.
        dtype: Dtype policy of the layers. Defaults to Keras' global policy.

    Returns:
        A Functional model: a `keras.Model` if `deploy`, else a `MobileOneModel`.
    """
    *_, x = stages(variant, image, deploy=deploy, synchronized=synchronized, dtype=dtype)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool", dtype=dtype)(x)
        x = layers.Dense(
            classes, activation=classifier_activation, name=CLASSIFIER_NAME, dtype=dtype
        )(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool", dtype=dtype)(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool", dtype=dtype)(x)
    model_class = keras.Model if deploy else MobileOneModel
    model = model_class(image if inputs is None else inputs, x, name=name or variant.name)
    return called(model)


def stages(
    variant: Variant,
    image: Tensor,
    *,
    deploy: bool = False,
    output_stride: int = 32,
    synchronized: bool = False,
    dtype: Any = None,
) -> list[Tensor]:
    """Builds stem and stages of `variant` on a symbolic image tensor.

    Args:
        variant, image, deploy, synchronized, dtype: As in `build`.
        output_stride: Stride of the last stage's features, see `Variant.blocks`.

    Returns:
        The feature maps of the four stages, at strides 4, 8, 16 and 32, each at most
        `output_stride`.
    """
    x, features = image, []
    specs = list(variant.blocks(output_stride))
    for spec, following in zip(specs, [*specs[1:], None], strict=True):
        if deploy:
            block = PlainBlock(**_block_arguments(spec), dtype=dtype)
        else:
            block = MobileOneBlock(
                **_block_arguments(spec),
                num_conv_branches=spec.num_conv_branches,
                synchronized=synchronized,
                skip=spec.skip,
                dtype=dtype,
            )
        x = block(x)
        if spec.stage and (following is None or following.stage != spec.stage):
            # The layer gives the features of the stage a name. It exports to no operator.
            x = layers.Identity(name=STAGE_NAMES[spec.stage - 1], dtype=dtype)(x)
            features.append(x)
    return features


def _block_arguments(spec: BlockSpec) -> dict:
    return {
        "name": spec.name,
        "filters": spec.filters,
        "kernel_size": spec.kernel_size,
        "strides": spec.strides,
        "depthwise": spec.depthwise,
        "se_ratio": spec.se_ratio,
        "dilation_rate": spec.dilation_rate,
        "activation": "relu",
    }


def feature_extractor(model: keras.Model) -> keras.Model:
    """Returns a model whose outputs are the four feature maps of a MobileOne.

    Args:
        model: Result of `MobileOneS0` … or `fuse`, with or without top.

    Returns:
        A model that shares the weights of `model`. Its outputs are a list of four tensors of shape
        (batch, ceil(height / s), ceil(width / s), channels) for the strides s of 4, 8, 16 and 32.

    Raises:
        ValueError: If the model has no layers named `"stage1"` … `"stage4"`.
    """
    return keras.Model(
        model.input,
        [model.get_layer(stage).output for stage in STAGE_NAMES],
        name=f"{model.name}_features",
    )
