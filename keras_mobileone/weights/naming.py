"""Maps the names in weight files to the variables of a MobileOne."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_mobileone.layers.block import MobileOneBlock
from keras_mobileone.models.network import CLASSIFIER_NAME
from keras_mobileone.variants import BlockSpec, Variant


class NamingScheme(NamedTuple):
    """The names of tensors in one family of weight files.

    The placeholders `{}` in `block` are the stage and the position in it. The placeholder in `conv`
    is the number of the branch.
    """

    stem: str
    block: str
    first_stage: int
    conv: str
    scale: str
    skip: str
    se_reduce: str
    se_expand: str
    classifier: str
    fused: str = "reparam_conv"

    def prefix(self, spec: BlockSpec) -> str:
        """Returns the common prefix of the names of all tensors of a block."""
        if spec.stage == 0:
            return self.stem
        return self.block.format(spec.stage - 1 + self.first_stage, spec.position)


# mobileone.py of github.com/apple/ml-mobileone
APPLE = NamingScheme(
    stem="stage0",
    block="stage{}.{}",
    first_stage=1,
    conv="rbr_conv.{}",
    scale="rbr_scale",
    skip="rbr_skip",
    se_reduce="se.reduce",
    se_expand="se.expand",
    classifier="linear",
)
# byobnet.py of github.com/huggingface/pytorch-image-models
TIMM = NamingScheme(
    stem="stem",
    block="stages.{}.{}",
    first_stage=0,
    conv="conv_kxk.{}",
    scale="conv_scale",
    skip="identity",
    se_reduce="attn.fc1",
    se_expand="attn.fc2",
    classifier="head.fc",
)
SCHEMES = {"authors'": APPLE, "timm's": TIMM}


class Slot(NamedTuple):
    """A Keras variable, and the permutation of axes from PyTorch's layout to Keras' layout."""

    variable: keras.Variable
    axes: tuple[int, ...]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of the variable in PyTorch's layout."""
        return tuple(self.variable.shape[self.axes.index(i)] for i in range(len(self.axes)))

    def to_torch(self) -> np.ndarray:
        """Returns the value of the variable in PyTorch's layout."""
        value = keras.ops.convert_to_numpy(self.variable)
        return value.transpose([self.axes.index(i) for i in range(len(self.axes))])


# PyTorch stores dense kernels as (out, in, height, width), depthwise kernels as (channels, 1,
# height, width) and kernels of linear layers as (out, in).
_DENSE = (2, 3, 1, 0)
_DEPTHWISE = (2, 3, 0, 1)
_LINEAR = (1, 0)
_VECTOR = (0,)


def is_fused(names: Iterable[str]) -> bool:
    """Returns whether tensors with these names are fused (deploy) weights."""
    return any("reparam_conv" in name for name in names)


def detect_scheme(names: Iterable[str]) -> NamingScheme | None:
    """Returns the scheme whose name for the stem occurs in `names`, or None if there is none.

    Examples:
        >>> from keras_mobileone.weights.naming import TIMM, detect_scheme
        >>> detect_scheme({"stem.conv_scale.conv.weight"}) is TIMM
        True
    """
    names = list(names)
    for scheme in SCHEMES.values():
        if any(name.startswith(scheme.stem + ".") for name in names):
            return scheme
    return None


def slots(model: keras.Model, variant: Variant, scheme: NamingScheme) -> dict[str, Slot]:
    """Returns every variable of a MobileOne by its name in a weight file.

    Args:
        model: A MobileOne, train-time or deploy.
        variant: Its architecture.
        scheme: The naming scheme of the weight file.

    Raises:
        ValueError: If `model` does not have the layers of `variant`.
    """
    named: dict[str, Slot] = {}
    for spec in variant.blocks():
        layer = model.get_layer(spec.name)
        parts = (
            _train_slots(layer, scheme)
            if isinstance(layer, MobileOneBlock)
            else _plain_slots(model, spec, scheme)
        )
        named.update((f"{scheme.prefix(spec)}.{name}", slot) for name, slot in parts)
    if any(layer.name == CLASSIFIER_NAME for layer in model.layers):
        named.update(_weight_and_bias(scheme.classifier, model.get_layer(CLASSIFIER_NAME)))
    return named


def _train_slots(block: MobileOneBlock, scheme: NamingScheme) -> Iterator[tuple[str, Slot]]:
    for i, (conv, norm) in enumerate(zip(block.conv_layers, block.conv_norms, strict=True)):
        yield f"{scheme.conv.format(i)}.conv.weight", _kernel(conv)
        yield from _norm(f"{scheme.conv.format(i)}.bn", norm)
    if block.scale_layer is not None:
        yield f"{scheme.scale}.conv.weight", _kernel(block.scale_layer)
        yield from _norm(f"{scheme.scale}.bn", block.scale_norm)
    if block.skip_norm is not None:
        yield from _norm(scheme.skip, block.skip_norm)
    if block.se is not None:
        yield from _weight_and_bias(scheme.se_reduce, block.se_reduce)
        yield from _weight_and_bias(scheme.se_expand, block.se_expand)


def _plain_slots(
    model: keras.Model, spec: BlockSpec, scheme: NamingScheme
) -> Iterator[tuple[str, Slot]]:
    yield from _weight_and_bias(scheme.fused, model.get_layer(f"{spec.name}_conv"))
    if spec.se_ratio:
        yield from _weight_and_bias(scheme.se_reduce, model.get_layer(f"{spec.name}_se_reduce"))
        yield from _weight_and_bias(scheme.se_expand, model.get_layer(f"{spec.name}_se_expand"))


def _kernel(layer: Any) -> Slot:
    if isinstance(layer, keras.layers.Dense):
        return Slot(layer.kernel, _LINEAR)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return Slot(layer.kernel, _DEPTHWISE if depthwise else _DENSE)


def _weight_and_bias(name: str, layer: Any) -> Iterator[tuple[str, Slot]]:
    yield f"{name}.weight", _kernel(layer)
    yield f"{name}.bias", Slot(layer.bias, _VECTOR)


def _norm(name: str, norm: keras.layers.BatchNormalization) -> Iterator[tuple[str, Slot]]:
    yield f"{name}.weight", Slot(norm.gamma, _VECTOR)
    yield f"{name}.bias", Slot(norm.beta, _VECTOR)
    yield f"{name}.running_mean", Slot(norm.moving_mean, _VECTOR)
    yield f"{name}.running_var", Slot(norm.moving_variance, _VECTOR)
