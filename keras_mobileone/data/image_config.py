"""`ImageConfig`: how a model takes its images, as one value that every module asks.

It is resolved once from a model. What the model computes before its first layer with a kernel is
run on constant images: from that follows which range of values the model takes.
"""

import json
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import keras
import numpy as np

from keras_mobileone.data.imagenet import MEAN, STD
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import CONFIG_KEY, attach, attached
from keras_mobileone.models.graph import nested_models, replay
from keras_mobileone.variants import VARIANTS

DEFAULT_SIZE = 224
DEFAULT_CROP_FRACTION = 0.875
PIXELS = (0.0, 255.0)
# Ranges of values that public models take, lowest and highest.
INPUT_RANGES = {"0 … 255": PIXELS, "0 … 1": (0.0, 1.0), "−1 … 1": (-1.0, 1.0)}
# What the first convolution of public models receives for the lowest and the highest pixel.
_IMAGENET = (-np.array(MEAN) / STD, (1 - np.array(MEAN)) / STD)
_CAFFE = (-np.array([103.939, 116.779, 123.68]), 255 - np.array([103.939, 116.779, 123.68]))
RECEIVED_RANGES = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), PIXELS, _IMAGENET, _CAFFE)
# Of the span of a range: how far a range may be off to be recognized.
TOLERANCE = 0.02
# Statistics of photographs, as parts of the span of the input range: where the mean may lie, and
# how large a standard deviation may be. They recognize a normalization by a data set's statistics.
PLAUSIBLE_MEAN = (0.3, 0.7)
PLAUSIBLE_STD = (0.05, 0.7)
# Layers whose weights normalize; every other layer with weights has a kernel.
NORMALIZING = (
    keras.layers.Normalization,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


@dataclass(frozen=True)
class ImageConfig:
    """How a model takes its images: what is done to a photograph before the model sees it.

    A value `x` of a channel, from 0 to 255, enters the model as `(x - mean) / std`.

    Attributes:
        image_size: (height, width) in pixels.
        mean, std: For each channel, in units of pixels. A mean of 0 and a standard deviation of 1
            stand for a model that takes the pixels themselves. None for a model whose images are
            not RGB, of which nothing is known.
        interpolation: Of the resizing; `"bilinear"`, with antialiasing.
        crop_fraction: Side of the center crop over the resized short side, in (0, 1].
        labels: Names of the classes in the order of the outputs, or None.

    Example:

    >>> config = km.ImageConfig((224, 224), mean=(127.5,) * 3, std=(127.5,) * 3)
    >>> config.range
    (-1.0, 1.0)
    """

    image_size: tuple[int, int] = (DEFAULT_SIZE, DEFAULT_SIZE)
    mean: tuple[float, ...] | None = tuple(255 * m for m in MEAN)
    std: tuple[float, ...] | None = tuple(255 * s for s in STD)
    interpolation: str = "bilinear"
    crop_fraction: float = DEFAULT_CROP_FRACTION
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.crop_fraction <= 1:
            raise InputValueError(
                f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={self.crop_fraction}."
            )
        for name in ("image_size", "mean", "std", "labels"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    @property
    def is_rgb(self) -> bool:
        """Whether the model takes RGB images."""
        return self.mean is not None

    @property
    def takes_pixels(self) -> bool:
        """Whether the model takes RGB pixels from 0 to 255 as they are."""
        return self.is_rgb and not any(self.mean) and set(self.std) == {1}

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that a pixel can become."""
        low, high = self.normalize(np.array([PIXELS] * len(self.mean), np.float32).T)
        return float(low.min()), float(high.max())

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """The values that the model takes, from pixels 0 to 255.

        Args:
            pixels: RGB of any shape (…, 3) and any dtype.

        Returns:
            float32 of the same shape.
        """
        values = np.asarray(pixels, np.float32)
        if not self.is_rgb or self.takes_pixels:
            return values
        # A product and a sum, as in `preprocess_input`, so that both give the same bits.
        scale, offset = 1 / np.array(self.std), np.array(self.mean) / self.std
        return values * scale.astype(np.float32) - offset.astype(np.float32)

    def with_pixels(self) -> "ImageConfig":
        """The configuration of the same model behind its normalization: it takes pixels."""
        return replace(self, mean=(0.0,) * 3, std=(1.0,) * 3) if self.is_rgb else self

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "ImageConfig":
        """The inverse of `to_dict`; keys that this version does not know are left out."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def image_config(model: keras.Model, normalize: bool | None = None) -> ImageConfig:
    """How `model` takes its images.

    A configuration that the model carries (see `set_image_config`) is taken as it is. Otherwise the
    graph is followed from the input to the first layers with kernels. Arithmetic on the way, by
    layers or by `keras.ops`, says which range of values the model takes: 0 … 255, 0 … 1 or −1 … 1.
    A model without any takes what `preprocess_input` returns, as MobileOne does.

    Args:
        model: A Keras model with one image input.
        normalize: For a model whose graph is not clear: True if it takes what `preprocess_input`
            returns, False if it takes pixels.

    Raises:
        ValueError: If the graph is not clear and `normalize` is None.

    Example:

    >>> model = km.MobileOneS1(weights=None, deploy=True)
    >>> km.image_config(model).crop_fraction
    0.9
    """
    stored = attached(model)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise InputValueError(
            "Expected a model with one input of images, of shape (batch, height, width, channels). "
            f"Received: {model.name!r} with input shape {shape}. Pass a model that takes the "
            "images alone."
        )
    size = tuple(length or DEFAULT_SIZE for length in shape[1:3])
    if stored is not None:
        return replace(stored, image_size=size)
    config = ImageConfig(size, crop_fraction=_crop_fraction(model), labels=_labels(model))
    if shape[3] != 3:
        return replace(config, mean=None, std=None)
    name = _input_range(model)
    if name is None:
        if normalize is None:
            raise InputValueError(
                f"The graph of {model.name!r} does not tell which range of values it takes, since "
                "what it does before its first convolution is neither a normalization of pixels "
                "nor nothing. Received: normalize=None. Pass normalize=True if it takes what "
                "`preprocess_input` returns, normalize=False if it takes pixels from 0 to 255, or "
                "call keras_mobileone.set_image_config(model, ImageConfig(…)) first."
            )
        return config if normalize else config.with_pixels()
    if name == "":
        return config
    low, high = INPUT_RANGES[name]
    std = 255 / (high - low)
    return replace(config, mean=(-low * std + 0.0,) * 3, std=(std,) * 3)


def config_of_file(
    config: ImageConfig, normalize: bool | None
) -> tuple[ImageConfig, ImageConfig | None]:
    """How an exported file takes images, and the normalization that it has to hold for that.

    Args:
        config: Of the model.
        normalize: True: the file takes pixels. False: it takes what the model takes. None: True for
            a model of RGB images.

    Returns:
        The configuration of the file, and the one whose normalization goes into the file; None if
        nothing has to be added, since the model takes what the file takes.
    """
    if normalize and not config.is_rgb:
        raise InputValueError(
            "`normalize` needs a model of RGB images. Received: a model whose images have another "
            "number of channels. Pass normalize=False, and normalize where the file is used."
        )
    if normalize is None:
        normalize = config.is_rgb
    if not normalize or config.takes_pixels:
        return config, None
    return config.with_pixels(), config


def set_image_config(model: keras.Model, config: ImageConfig) -> keras.Model:
    """Makes `model` carry a configuration, which is saved with it in a `.keras` file.

    Keras loads such a file where this package is not installed, and ignores the configuration. It
    comes back where this package loads the file: in `load_predictor` and on the command line.

    Args:
        model: A Keras model; it is changed.
        config: What `image_config(model)` returns from now on.

    Returns:
        `model`.
    """
    attach(model, config)
    return model


def read_image_config(path: str | os.PathLike) -> ImageConfig | None:
    """The configuration in a `.keras` file, or None if it has none."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("config.json"))
    stored = data.get("config", {}).get(CONFIG_KEY)
    return None if stored is None else ImageConfig.from_dict(stored)


def _crop_fraction(model: keras.Model) -> float:
    """The published crop of the variant that a model is or holds, by its name."""
    published = {variant.name: variant.crop_fraction for variant in VARIANTS.values()}
    for part in (model, *nested_models(model)):
        stored = attached(part)
        if stored is not None:
            return stored.crop_fraction
        if part.name in published:
            return published[part.name]
    return DEFAULT_CROP_FRACTION


def _labels(model: keras.Model) -> tuple[str, ...] | None:
    """Labels that a nested model carries, if it has the outputs of the whole model."""
    for part in nested_models(model):
        stored = attached(part)
        if stored and stored.labels and part.output_shape == model.output_shape:
            return stored.labels
    return None


def _input_range(model: keras.Model) -> str | None:
    """The key in `INPUT_RANGES` of what `model` takes; "" for values normalized outside.

    None if its graph does not tell.
    """
    names = {_range_of(prefix) for prefix in _prefixes(model)}
    return names.pop() if len(names) == 1 else None


def _prefixes(model: keras.Model) -> list[keras.Model]:
    """What `model` computes from its input to each input of its first layers with kernels."""
    source = model.inputs[0]
    image = keras.Input(batch_shape=source.shape, dtype=source.dtype)
    # By identity, and kept, since the identity of a deleted tensor is given to another.
    before, entrances = {id(image): image}, {}

    def call(operation, *args, **kwargs):
        outputs = operation(*args, **kwargs)
        tensors = [
            t for t in keras.tree.flatten((args, kwargs)) if keras.backend.is_keras_tensor(t)
        ]
        ready = {id(tensor): tensor for tensor in tensors if id(tensor) in before}
        if ready and has_kernel(operation):
            entrances.update(ready)
        elif ready and len(ready) == len({id(tensor) for tensor in tensors}):
            before.update((id(output), output) for output in keras.tree.flatten(outputs))
        return outputs

    replay(model, call, image, flatten=True)
    found = list(entrances.values()) or [list(before.values())[-1]]
    return [keras.Model(image, tensor) for tensor in found]


def has_kernel(operation) -> bool:
    """Whether a layer has weights that do more than normalize."""
    weights = isinstance(operation, keras.Layer) and operation.weights
    return bool(weights) and not isinstance(operation, NORMALIZING)


def _range_of(prefix: keras.Model) -> str | None:
    """The key in `INPUT_RANGES` of what a prefix takes; "" if it does nothing, None if unclear."""
    if not _changes_values(prefix):
        return ""
    matching, plausible = [], []
    for name, (low, high) in INPUT_RANGES.items():
        received = _on_constant_images(prefix, (low, (low + high) / 2, high))
        if received is None:
            continue
        first, middle, last = received
        span = last - first
        if (span <= 0).any() or (abs(middle - (first + last) / 2) > TOLERANCE * span).any():
            continue
        others = [known for known in RECEIVED_RANGES if not np.array_equal(known, (low, high))]
        if any(_close(first, last, *known) for known in others):
            matching.append(name)
        # The value that becomes 0, and the one that becomes 1 more, over the span of the range.
        mean, std = -first / span, 1 / span
        if _within(mean, PLAUSIBLE_MEAN) and _within(std, PLAUSIBLE_STD):
            plausible.append(name)
    found = matching or plausible
    return found[0] if len(found) == 1 else None


def _changes_values(prefix: keras.Model) -> bool:
    for limits in INPUT_RANGES.values():
        received = _on_constant_images(prefix, limits)
        if received is None or not _close(*received, *limits):
            return True
    return False


def _on_constant_images(prefix: keras.Model, values: Sequence[float]) -> np.ndarray | None:
    """What a prefix gives in the middle of images of one value: (values, channels).

    None if its channels are not those of the image, in whatever order.
    """
    _, height, width, channels = prefix.input_shape
    shape = (len(values), height or DEFAULT_SIZE, width or DEFAULT_SIZE, channels)
    images = np.broadcast_to(np.reshape(values, (-1, 1, 1, 1)), shape).astype(np.float32)
    outputs = keras.ops.convert_to_numpy(prefix(images.astype(prefix.inputs[0].dtype)))
    if outputs.ndim == 4:
        middle = outputs[:, outputs.shape[1] // 2, outputs.shape[2] // 2]
    else:
        middle = outputs.reshape(len(values), -1)[:, :channels]
    return middle.astype(np.float64) if middle.shape[1] == channels else None


def _close(first: np.ndarray, last: np.ndarray, low, high) -> bool:
    """Whether a range of values, in the order of the channels or the reverse, is a known one."""
    low, high = (np.broadcast_to(value, first.shape) for value in (low, high))
    margin = TOLERANCE * (high - low)
    return any(
        bool(
            (abs(first[::step] - low) <= margin).all()
            and (abs(last[::step] - high) <= margin).all()
        )
        for step in (1, -1)
    )


def _within(values: np.ndarray, limits: tuple[float, float]) -> bool:
    return all(limits[0] <= value <= limits[1] and math.isfinite(value) for value in values)
