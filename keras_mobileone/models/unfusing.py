"""`unfuse`: turns a deploy model into a train-time model, to fine-tune fused weights.

Every split of a fused kernel W and bias b into branches gives the same outputs at inference, but
training depends on the split. This one is a good start:

- *Branches differ.* Equal branches would get equal gradients and remain equal. Each convolution
  gets W / k plus a random part; the random parts sum to zero. Scale and skip get random shares, and
  the last convolution gets the remainder of W.
- *Branches are equally strong.* Each of n branches gets 0.5 … 1 times σ/√n of the output's standard
  deviation σ, as if the branches were independent, so that no gamma is tiny. The norm of no part
  exceeds 1/√n of the norm of W, so that the sum does not cancel in float32.
- *Kernels have the norm of freshly initialized ones.* BatchNorm cancels any scale of a kernel w,
  but the size of its training steps grows with 1/‖w‖². Filters therefore get the norm of He's
  initialization, and gamma gets the rest of the scale.
- *Batch statistics agree with moving statistics.* A filter f sees patches of the block's input with
  mean m and covariance Σ, so its output has mean fᵀm and variance fᵀΣf. One pass over the data
  collects m and Σ for every block. The statistics of any branch follow from them.

The computation is in float64, on arrays of shape (groups, taps, outputs): (1, height · width · in,
out) for a dense kernel, (channels, height · width, 1) for a depthwise one. The axis `taps` has size
1 for values that belong to a whole filter.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mobileone.errors import InputTypeError, InputValueError, VerificationError
from keras_mobileone.layers import reparameterization
from keras_mobileone.layers.block import CONV_SUFFIX, NORM_SUFFIX, MobileOneBlock
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.fusing import has_blocks
from keras_mobileone.models.graph import as_functional, in_float32
from keras_mobileone.models.network import CLASSIFIER_NAME, MobileOneModel, build
from keras_mobileone.models.patch_moments import OutputMoments, PatchMoments, float64
from keras_mobileone.models.segmentation import SegmentationConfig
from keras_mobileone.models.tasks import build_task, task_config
from keras_mobileone.variants import OUTPUT_STRIDES, BlockSpec, Variant, get_variant

Tensor = Any  # a tensor or variable of Keras' backend

VERIFY_TOLERANCE = 1e-5  # of the output's largest magnitude
VERIFY_IMAGES = 4
CHUNK = 8  # images per call, since the inputs of all blocks are kept: 68 MB per image for S4
HE_NORM = 2**0.5  # norm of a filter whose weights have variance 2 / fan_in (arXiv 1502.01852)
FLOOR = 0.01  # smallest size of filters and outputs, relative to the layer's root mean square
TINY = 1e-30
BRIGHTEST = 20.0  # larger than any normalized RGB value, smaller than most pixels


def unfuse(
    deploy_model: keras.Model,
    variant: Variant | str,
    data: np.ndarray | Iterable[np.ndarray],
    *,
    seed: int = 0,
) -> MobileOneModel:
    """Returns a train-time model with the outputs of `deploy_model`, ready to be fine-tuned.

    Args:
        deploy_model: Fused MobileOne with or without top, or fused segmentation model or detector
            of this package, made by `fuse` or with `deploy=True` or loaded from a file. It is not
            changed.
        variant: Architecture of the model: a `Variant`, or `"s0"` … `"s4"`.
        data: Images like the training images, at the same size: a floating-point array of shape
            (count, height, width, channels), normalized by `preprocess_input`, or an iterable of
            such arrays, which is read once. The moving statistics of BatchNorm are computed from
            all of them; 64 … 256 images are recommended.
        seed: Seed of the random parts of the branches.

    Returns:
        A model with random branches and the head of `deploy_model`. Its inference output equals
        that of `deploy_model`, and so does its training-mode output on `data` as one batch, if it
        has no dropout. Normalizations in the head get the statistics of `data`.

    Raises:
        TypeError: If `deploy_model` is subclassed and has no graph, or if `data` is neither an
            array nor an iterable.
        ValueError: If `deploy_model` is not fused, or does not have exactly the layers of
            `variant`. The message names the first difference. If `data` is empty, not finite, not
            normalized or of a wrong shape.
        ArithmeticError: If the outputs differ by more than 1e-5 of the largest magnitude.

    Reference: section 3.2 of [MobileOne](https://arxiv.org/abs/2206.04040), in reverse.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, num_conv_branches=2, depths=(1, 1, 1, 1))
        >>> fused = km.MobileOne(tiny, weights=None, deploy=True, input_shape=(32, 32, 3))
        >>> model = km.unfuse(fused, tiny, np.random.normal(size=(8, 32, 32, 3)))
        >>> model.fuse().count_params() == fused.count_params() < model.count_params()
        True
    """
    variant = get_variant(variant) if isinstance(variant, str) else variant
    deploy_model = as_functional(deploy_model)
    if has_blocks(deploy_model):
        raise InputValueError(
            f"Expected a fused model. Received: {deploy_model.name!r}, which has train-time "
            "branches. Train this model itself."
        )
    blocks, network = _architecture(deploy_model, variant)
    image = keras.Input(deploy_model.input_shape[1:], name="image")
    _require_fit(deploy_model, variant, network(image, deploy=True))
    source = in_float32(deploy_model)
    model = network(image, name=deploy_model.name)
    norms = _head_norms(model)
    chunks = _chunks(data, deploy_model.input_shape)
    moments, outputs, sample = _measure(source, blocks, list(norms), chunks)

    rng = np.random.default_rng(seed)
    for spec in blocks:
        block = model.get_layer(spec.name)
        kernel, bias = source.get_layer(f"{spec.name}_conv").get_weights()
        _Split(kernel, bias, block, moments.pop(spec.name), rng).assign()
        if spec.se_ratio:
            block.se_reduce.set_weights(source.get_layer(f"{spec.name}_se_reduce").get_weights())
            block.se_expand.set_weights(source.get_layer(f"{spec.name}_se_expand").get_weights())
    _restore_head(model, source, norms, outputs)
    _verify(model, source, [spec.name for spec in blocks], sample)
    return copy_attachment(deploy_model, model)


def _architecture(
    model: keras.Model, variant: Variant
) -> tuple[list[BlockSpec], Callable[..., MobileOneModel]]:
    """Returns the blocks of a model, and the function that builds its network on an image."""
    task = task_config(model)
    if task is None:
        return list(variant.blocks()), partial(build, variant, **_head(model))
    stride = task.output_stride if isinstance(task, SegmentationConfig) else OUTPUT_STRIDES[0]
    return list(variant.blocks(stride)), partial(build_task, task, variant)


def _head_norms(model: MobileOneModel) -> dict[str, keras.layers.BatchNormalization]:
    """Returns the normalizations outside the blocks by the names of their convolutions."""
    return {
        layer.name.removesuffix(NORM_SUFFIX) + CONV_SUFFIX: layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }


def _restore_head(
    model: MobileOneModel,
    source: keras.Model,
    norms: dict[str, keras.layers.BatchNormalization],
    outputs: dict[str, OutputMoments],
) -> None:
    """Sets the weights of all layers outside the blocks.

    A convolution keeps its kernel. The normalization behind it gets the statistics of its output
    without the bias, and undoes itself but for the bias.
    """
    for layer in model.layers:
        if layer.name in norms:
            kernel, bias = source.get_layer(layer.name).get_weights()
            mean, variance = (values[0] for values in outputs[layer.name].mean_and_variance())
            layer.set_weights([kernel])
            norm = norms[layer.name]
            variance = _rounded(variance)
            gamma = np.sqrt(variance + norm.epsilon)
            norm.set_weights([gamma, mean, mean - bias, variance])
        elif layer.weights and not isinstance(
            layer, (MobileOneBlock, keras.layers.BatchNormalization)
        ):
            layer.set_weights(source.get_layer(layer.name).get_weights())


def _head(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of `build` that describe the head of `model`."""
    layers = {layer.name: layer for layer in model.layers}
    classifier = layers.get(CLASSIFIER_NAME)
    if isinstance(classifier, keras.layers.Dense):
        return {
            "include_top": True,
            "classes": classifier.units,
            "classifier_activation": classifier.activation,
        }
    pooling = next((p for p in ("avg", "max") if f"{p}_pool" in layers), None)
    return {"include_top": False, "pooling": pooling}


def _require_fit(model: keras.Model, variant: Variant, reference: keras.Model) -> None:
    """Raises ValueError unless `model` has exactly the layers of `reference` of `variant`."""
    if len(model.inputs) != 1 or len(model.outputs) != len(reference.outputs):
        raise InputValueError(
            "Expected a model with one input and one output. Received: "
            f"{model.name!r} with {len(model.inputs)} and {len(model.outputs)}."
        )
    expected, found = _described(reference), _described(model)
    mistakes = [f"no layer {name!r}" for name in expected if name not in found]
    mistakes += [f"additional layer {name!r}" for name in found if name not in expected]
    mistakes += [
        f"layer {name!r} is {found[name]} instead of {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if mistakes:
        more = f" ({len(mistakes) - 1} more differences)" if len(mistakes) > 1 else ""
        raise InputValueError(
            f"Expected a fused {variant.name} and nothing else. Received: {model.name!r}, "
            f"{mistakes[0]}{more}. Check the variant. If the MobileOne is part of a larger model, "
            "pass only that part."
        )


def _described(model: keras.Model) -> dict[str, str]:
    return {
        layer.name: f"{type(layer).__name__} with weights {[tuple(w.shape) for w in layer.weights]}"
        f" and output {tuple(layer.output.shape[1:])}"
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }


def _chunks(data: Any, input_shape: tuple[int | None, ...]) -> Iterator[np.ndarray]:
    """Checks the images of `data` and yields them as float32 arrays, a few at a time."""
    batches = [data] if hasattr(data, "shape") else data
    if not isinstance(batches, Iterable):
        raise InputTypeError(
            f"`data` must be an array or an iterable of arrays. Received: {type(data).__name__}."
        )
    empty = True
    for batch in batches:
        images = _checked(batch, input_shape)
        for start in range(0, len(images), CHUNK):
            empty = False
            yield images[start : start + CHUNK]
    if empty:
        raise InputValueError(
            "`data` must contain at least one image. Received: none. Pass 64 … 256 images."
        )


def _checked(batch: Any, input_shape: tuple[int | None, ...]) -> np.ndarray:
    if not hasattr(batch, "shape"):
        raise InputValueError(
            "Batches of `data` must be arrays of images. "
            f"Received: a {type(batch).__name__}. Leave out labels."
        )
    images = ops.convert_to_numpy(batch)
    pairs = zip(input_shape[1:], images.shape[1:], strict=False)
    if images.ndim != 4 or any(expected not in (None, side) for expected, side in pairs):
        shape = ", ".join("any" if side is None else str(side) for side in input_shape[1:])
        raise InputValueError(
            f"`data` must have shape (count, {shape}), like the model's input. "
            f"Received: shape {images.shape}."
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise InputValueError(
            f"`data` must be normalized images in floating point. Received: {images.dtype}. "
            "Pass them through preprocess_input."
        )
    if not np.isfinite(images).all():
        raise InputValueError(
            "`data` must be finite. Received: NaN or infinity. Remove images with such values."
        )
    if images.shape[3] == 3 and images.size and images.max() > BRIGHTEST:
        raise InputValueError(
            "`data` must be normalized to about -2.1 … 2.6. Received: values up to "
            f"{images.max():g}. Pass the images through preprocess_input."
        )
    return images.astype(np.float32)


def _measure(
    source: keras.Model,
    blocks: Iterable[BlockSpec],
    convolutions: Iterable[str],
    chunks: Iterable[np.ndarray],
) -> tuple[dict[str, PatchMoments], dict[str, OutputMoments], np.ndarray]:
    """Collects statistics of a model.

    Returns:
        The moments of each block's input by the name of the block, those of the output of each of
        `convolutions` by its name, and a few images.
    """
    moments = {spec.name: PatchMoments(spec) for spec in blocks}
    outputs = {name: OutputMoments() for name in convolutions}
    names = {layer.name for layer in source.layers}
    first_layers = [f"{n}_pad" if f"{n}_pad" in names else f"{n}{CONV_SUFFIX}" for n in moments]
    tensors = [source.get_layer(name).input for name in first_layers]
    tensors += [source.get_layer(name).output for name in outputs]
    inside = keras.Model(source.input, tensors)
    sample: Any = None
    for images in chunks:
        sample = images[:VERIFY_IMAGES] if sample is None else sample
        collectors: list[Any] = [*moments.values(), *outputs.values()]
        for collector, tensor in zip(collectors, inside(images), strict=True):
            collector.add(tensor)
    return moments, outputs, sample


class _Split:
    """Distributes the kernel and bias of a fused block over the branches of a train-time block.

    Args:
        kernel: Kernel of the fused block.
        bias: Bias of the fused block.
        block: The train-time block.
        moments: Moments of the input of the block.
        rng: Generator of the random parts.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        block: MobileOneBlock,
        moments: PatchMoments,
        rng: np.random.Generator,
    ) -> None:
        self.block, self.moments, self.rng, self.shape = block, moments, rng, kernel.shape
        self.rest = _filters(kernel.astype(np.float64), block.depthwise)
        self.rest_bias = bias.astype(np.float64).reshape(self.rest.shape[0], 1, -1)
        norms = [*block.conv_norms, block.scale_norm, block.skip_norm]
        self.branches = sum(norm is not None for norm in norms)
        self.beta = (moments.mean(self.rest) + self.rest_bias) / self.branches
        self.limits = [
            np.maximum(size, FLOOR * (np.sqrt(np.mean(size**2)) or 1)) / self.branches**0.5
            for size in self.sizes(self.rest)
        ]

    def sizes(self, filters: np.ndarray) -> tuple[Any, np.ndarray]:
        """Returns the norm of filters and the standard deviation of their outputs on the data."""
        norm = np.linalg.norm(filters, axis=1, keepdims=True)
        return norm, np.sqrt(self.moments.variance(filters))

    def share(self, filters: np.ndarray) -> np.ndarray:
        """Scales `filters` to a random share of the kernel that one branch may have."""
        ratios = (
            limit / np.maximum(size, TINY)
            for limit, size in zip(self.limits, self.sizes(filters), strict=True)
        )
        factor = np.minimum(*ratios)
        return filters * factor * self.rng.uniform(0.5, 1, factor.shape)

    def assign(self) -> None:
        """Sets the weights of the block."""
        block = self.block
        if block.skip_norm is not None:
            identity = reparameterization.identity_kernel(block.filters, block.depthwise)
            self.take(self.share(self.centered(identity)), block.skip_norm, kernel_norm=1.0)
        if block.scale_layer is not None:
            draw = self.rng.standard_normal((1, 1, *self.shape[2:]))
            self.take(self.share(self.centered(draw)), block.scale_norm, block.scale_layer)
        parts = np.stack(
            [self.share(self.rng.standard_normal(self.rest.shape)) for _ in block.conv_layers]
        )
        parts += self.rest / len(parts) - parts.mean(axis=0)
        *others, last = zip(block.conv_norms, block.conv_layers, strict=True)
        for part, (norm, conv) in zip(parts, others, strict=False):
            self.take(part, norm, conv)
        self.take(self.rest, *last, last=True)

    def take(
        self,
        filters: np.ndarray,
        norm: keras.layers.BatchNormalization,
        conv: keras.Layer | None = None,
        kernel_norm: Any = HE_NORM,
        last: bool = False,
    ) -> None:
        """Sets a branch to compute `filters`, and subtracts them from the remaining kernel.

        Args:
            filters: Filters (groups, taps, outputs) that the branch computes.
            norm: Batch normalization of the branch.
            conv: Convolution of the branch; None for the skip branch.
            kernel_norm: Norm of each filter of the convolution.
            last: Whether the branch gets the remaining bias.
        """
        size = np.linalg.norm(filters, axis=1, keepdims=True)
        # A filter of zeros has no direction. It gets a random one, with gamma 0.
        direction = np.where(size > 0, filters, self.rng.standard_normal(filters.shape))
        stored = direction / np.linalg.norm(direction, axis=1, keepdims=True) * kernel_norm
        stored = stored.astype(np.float32).astype(np.float64)

        mean, variance = (
            value.astype(np.float32).astype(np.float64)
            for value in (self.moments.mean(stored), self.moments.variance(stored))
        )
        gamma = _rounded(size / kernel_norm * np.sqrt(variance + norm.epsilon))
        scale = gamma / np.sqrt(variance + norm.epsilon)
        beta = _rounded(self.rest_bias + scale * mean if last else self.beta)
        norm.set_weights([value.ravel() for value in (gamma, beta, mean, variance)])
        if conv is not None:
            conv.kernel.assign(self.cropped(stored, conv.kernel_size[0]))
        parameters = reparameterization.BatchNormParameters(
            gamma, beta, mean, variance, norm.epsilon
        )
        kernel, bias = reparameterization.fold_branch(reparameterization.Branch(stored, parameters))
        self.rest, self.rest_bias = self.rest - kernel, self.rest_bias - bias

    def centered(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the filters of a 1×1 kernel, padded to the taps of the whole patch."""
        margin = (self.shape[0] - 1) // 2
        pads = [(margin, margin)] * 2 + [(0, 0)] * (kernel.ndim - 2)
        return _filters(np.pad(kernel, pads), self.block.depthwise)

    def cropped(self, filters: np.ndarray, kernel_size: int) -> np.ndarray:
        """Returns the inner `kernel_size` taps of filters in the layout of a layer's kernel."""
        taps = filters[..., 0].T if self.block.depthwise else filters
        margin = (self.shape[0] - kernel_size) // 2
        inner = slice(margin, margin + kernel_size)
        return taps.reshape(self.shape)[inner, inner]


def _rounded(values: Any) -> np.ndarray:
    """Rounds `values` to float32, and returns them in float64."""
    return np.asarray(values, np.float32).astype(np.float64)


def _filters(kernel: np.ndarray, depthwise: bool) -> np.ndarray:
    """Reshapes a kernel in the layout of its layer to (groups, taps, outputs)."""
    if depthwise:
        return kernel.reshape(kernel.shape[0] ** 2, -1).T[:, :, None]
    return kernel.reshape(1, -1, kernel.shape[-1])


def _verify(
    model: MobileOneModel, source: keras.Model, names: list[str], images: np.ndarray
) -> None:
    """Raises ArithmeticError if the inference outputs of two models or their blocks differ."""
    features = [
        keras.Model(m.input, [*(m.get_layer(name).output for name in names), *m.outputs])(
            images, training=False
        )
        for m in (source, in_float32(model))
    ]
    errors = [_relative_error(*pair) for pair in zip(*features, strict=True)]
    error = float(np.max(errors[len(names) :]))  # np.max keeps NaN
    if not error <= VERIFY_TOLERANCE:
        named = zip([*names, *["the head"] * len(model.outputs)], errors, strict=True)
        wrong = next(name for name, error in named if not error <= VERIFY_TOLERANCE)
        raise VerificationError(
            f"The train-time model differs from {source.name!r} by {error:.1e} of the "
            f"output's largest magnitude; the limit is {VERIFY_TOLERANCE:.0e}. The first part "
            f"that differs is {wrong!r}."
        )


def _relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    expected, found = float64(expected), float64(found)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), TINY))
