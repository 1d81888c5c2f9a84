"""`ImageConfig` describes how a model takes its images.

The value is resolved once from a model. The part of the model before its first layer with a kernel
is run on constant images, and its outputs show which range of values the model takes.
"""

import json
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_mobileone.data.imagenet import MEAN, STD
from keras_mobileone.errors import InputValueError
from keras_mobileone.models.attachment import CONFIG_KEY, attach, attached
from keras_mobileone.models.graph import as_functional, nested_models, replay
from keras_mobileone.variants import VARIANTS

Tensor = Any  # a symbolic tensor of Keras
Operation = Any  # a layer or an operation of keras.ops

DEFAULT_SIZE = 224
DEFAULT_CROP_FRACTION = 0.875
PIXELS = (0.0, 255.0)
# Ranges of values that public models take: the lowest and the highest value.
INPUT_RANGES = {"0 … 255": PIXELS, "0 … 1": (0.0, 1.0), "−1 … 1": (-1.0, 1.0)}
# What the first convolution of public models receives for the lowest and the highest pixel.
_IMAGENET = (-np.array(MEAN) / STD, (1 - np.array(MEAN)) / STD)
_CAFFE = (-np.array([103.939, 116.779, 123.68]), 255 - np.array([103.939, 116.779, 123.68]))
RECEIVED_RANGES = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), PIXELS, _IMAGENET, _CAFFE)
# How far the ends of a range may deviate and still be recognized, as a fraction of its span.
TOLERANCE = 0.02
# Where the mean and the standard deviation of photographs may lie, as fractions of the span of the
# input range. These limits recognize a normalization by the statistics of some dataset.
PLAUSIBLE_MEAN = (0.3, 0.7)
PLAUSIBLE_STD = (0.05, 0.7)
# Layers whose weights only normalize. Every other layer with weights counts as one with a kernel.
NORMALIZING = (
    keras.layers.Normalization,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


@dataclass(frozen=True)
class ImageConfig:
    """Description of how a photograph is converted to the input of a model.

    A pixel value `x` of a channel, from 0 to 255, enters the model as `(x - mean) / std`.

    Attributes:
        image_size: (height, width) in pixels.
        mean, std: Mean and standard deviation of each channel, in units of pixels. A mean of 0 and
            a standard deviation of 1 describe a model that takes the pixels themselves. Both are
            None for a model whose images are not RGB; how such images are normalized is unknown.
        interpolation: Method of resizing: `"bilinear"`, with antialiasing.
        crop_fraction: Side of the center crop divided by the short side of the resized image, in
            (0, 1].
        labels: Names of the classes in the order of the outputs, or None.
        stretch: Whether the whole photograph is resized to `image_size`, which may change its
            aspect ratio, instead of cropped. Models for segmentation and detection, which see
            everything in a photograph, and MediaPipe do so.

    Raises:
        ValueError: If `crop_fraction` is out of range, or if only one of `mean` and `std` is None.

    Examples:
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
    stretch: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.crop_fraction <= 1:
            raise InputValueError(
                f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={self.crop_fraction}."
            )
        if (self.mean is None) != (self.std is None):
            raise InputValueError(
                "`mean` and `std` belong together. "
                f"Received: mean={self.mean}, std={self.std}. Pass both, or None for both."
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
        if self.mean is None or self.std is None:
            return False
        return not any(self.mean) and set(self.std) == {1}

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that a normalized pixel can have."""
        low, high = self.normalize(np.array([PIXELS] * 3, np.float32).T)
        return float(low.min()), float(high.max())

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Converts pixels from 0 to 255 to the values that the model takes.

        Args:
            pixels: RGB of any shape (…, 3) and any dtype.

        Returns:
            float32 of the same shape.
        """
        values = np.asarray(pixels, np.float32)
        if self.mean is None or self.std is None or self.takes_pixels:
            return values
        # A product and a sum, as in `preprocess_input`, so that both give the same bits.
        scale, offset = 1 / np.array(self.std), np.array(self.mean) / self.std
        return values * scale.astype(np.float32) - offset.astype(np.float32)

    def with_pixels(self) -> "ImageConfig":
        """Returns the configuration of the same model with its normalization put in front."""
        return replace(self, mean=(0.0,) * 3, std=(1.0,) * 3) if self.is_rgb else self

    def to_dict(self) -> dict:
        """Converts the configuration to plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "ImageConfig":
        """Restores a configuration from `to_dict`. Unknown keys are ignored."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def image_config(model: keras.Model, normalize: bool | None = None) -> ImageConfig:
    """Finds out how `model` takes its images.

    A configuration that the model carries (see `set_image_config`) is returned with the image size
    of the model. Otherwise the graph is followed from the input to the first layers with kernels.
    The arithmetic on the way, in layers or in `keras.ops`, shows which range of values the model
    takes: 0 … 255, 0 … 1 or −1 … 1. A model without such arithmetic takes what `preprocess_input`
    returns, as MobileOne does.

    Args:
        model: A Keras model with one image input.
        normalize: For a model whose graph is not clear: True if it takes what `preprocess_input`
            returns, False if it takes pixels.

    Returns:
        An `ImageConfig`. An image size that the model does not fix is 224.

    Raises:
        ValueError: If the model has several inputs or one that is not an image, or if its graph is
            not clear and `normalize` is None.

    Examples:
        >>> model = km.MobileOneS1(weights=None, deploy=True)
        >>> km.image_config(model).crop_fraction
        0.9
    """
    stored = _attached_config(model)
    model = as_functional(model)
    height, width, channels = image_shape(model)
    size = (height or DEFAULT_SIZE, width or DEFAULT_SIZE)
    if stored is not None:
        return replace(stored, image_size=size)
    config = ImageConfig(size, crop_fraction=_crop_fraction(model), labels=_labels(model))
    if channels != 3:
        return replace(config, mean=None, std=None)
    name = _input_range(model)
    if name is None:
        if normalize is None:
            raise InputValueError(
                f"The graph of {model.name!r} does not tell which range of values it takes: the "
                "operations before its first convolution are not a known normalization of pixels. "
                "Received: normalize=None. Pass normalize=True if the model takes what "
                "`preprocess_input` returns, or normalize=False if it takes pixels from 0 to 255. "
                "For any other range, call "
                "keras_mobileone.set_image_config(model, ImageConfig(…)) first."
            )
        return config if normalize else config.with_pixels()
    if name == "":
        return config
    low, high = INPUT_RANGES[name]
    std = 255 / (high - low)
    return replace(config, mean=(-low * std + 0.0,) * 3, std=(std,) * 3)


def image_shape(model: keras.Model) -> tuple[int | None, int | None, int]:
    """Returns (height, width, channels) of a model with one image input.

    Raises:
        ValueError: If the model has several inputs, or one that is not a batch of images.
    """
    shape = model.input_shape
    if isinstance(shape, tuple) and len(shape) == 4 and isinstance(shape[3], int):
        return shape[1:]
    expected = "Expected a model with one image input of shape (batch, height, width, channels)."
    if len(model.inputs) == 1:
        raise InputValueError(
            f"{expected} Received: {model.name!r} with input shape {tuple(model.inputs[0].shape)}. "
            "Build it with input_shape=(height, width, channels)."
        )
    inputs = ", ".join(f"{tensor.name!r} {tuple(tensor.shape)}" for tensor in model.inputs)
    raise InputValueError(
        f"{expected} Received: {model.name!r} with {len(model.inputs)} inputs: {inputs}. Make a "
        "model of the part that needs the image alone, which ends where the inputs meet: "
        "keras.Model(image_input, model.get_layer(NAME).output)."
    )


def config_of_file(
    config: ImageConfig, normalize: bool | None
) -> tuple[ImageConfig, ImageConfig | None]:
    """Decides how an exported file takes images, and which normalization it holds.

    Args:
        config: Configuration of the model.
        normalize: Whether the file takes pixels (True) or what the model takes (False). None means
            True for a model of RGB images.

    Returns:
        The configuration of the file, and the configuration whose normalization the file performs.
        The latter is None if the file takes what the model takes.

    Raises:
        ValueError: If `normalize` is True and the images of the model are not RGB.
    """
    if normalize and not config.is_rgb:
        raise InputValueError(
            "normalize=True needs a model of RGB images, which have 3 channels. Received: a model "
            "whose images have a different number of channels. Pass normalize=False, and normalize "
            "the images in the app."
        )
    if normalize is None:
        normalize = config.is_rgb
    if not normalize or config.takes_pixels:
        return config, None
    return config.with_pixels(), config


def set_image_config(model: keras.Model, config: ImageConfig) -> keras.Model:
    """Attaches a configuration to `model`, which is saved with it in a `.keras` file.

    Where this package is not installed, Keras loads such a file and ignores the configuration.
    `load_predictor` and the command line read the configuration.

    Args:
        model: A Keras model. It is changed in place.
        config: What `image_config(model)` returns from now on.

    Returns:
        `model`.

    Examples:
        >>> model = km.MobileOneS0(weights=None, input_shape=(64, 64, 3), deploy=True)
        >>> config = km.ImageConfig((64, 64), crop_fraction=1.0)
        >>> km.image_config(km.set_image_config(model, config)).crop_fraction
        1.0
    """
    attach(model, config)
    return model


def read_image_config(path: str | os.PathLike) -> ImageConfig | None:
    """Returns the configuration in a `.keras` file, or None if there is none."""
    stored = stored_config(path, CONFIG_KEY)
    return None if stored is None else ImageConfig.from_dict(stored)


def stored_config(path: str | os.PathLike, key: str) -> dict | None:
    """Returns the data that a model carries under `key` in a `.keras` file, or None."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("config.json"))
    return data.get("config", {}).get(key)


def _attached_config(model: keras.Model) -> ImageConfig | None:
    """Returns the configuration that `model` carries, or None."""
    value = attached(model)
    return value if isinstance(value, ImageConfig) else None


def _crop_fraction(model: keras.Model) -> float:
    """Returns the published crop of the variant that a model is or contains, found by its name."""
    published = {variant.name: variant.crop_fraction for variant in VARIANTS.values()}
    for part in (model, *nested_models(model)):
        stored = _attached_config(part)
        if stored is not None:
            return stored.crop_fraction
        if part.name in published:
            return published[part.name]
    return DEFAULT_CROP_FRACTION


def _labels(model: keras.Model) -> tuple[str, ...] | None:
    """Returns the labels of a nested model whose output shape is that of the whole model."""
    for part in nested_models(model):
        stored = _attached_config(part)
        if stored and stored.labels and part.output_shape == model.output_shape:
            return stored.labels
    return None


def _input_range(model: keras.Model) -> str | None:
    """Finds the range of values that `model` takes.

    Returns:
        A key of `INPUT_RANGES`, "" for a model that does not normalize its input, or None if the
        graph does not tell.
    """
    names = {_range_of(prefix) for prefix in _prefixes(model)}
    return names.pop() if len(names) == 1 else None


def _prefixes(model: keras.Model) -> list[keras.Model]:
    """Makes models from the input of `model` to each input of its first layers with kernels."""
    source = model.inputs[0]
    image = keras.Input(batch_shape=source.shape, dtype=source.dtype)
    # Keyed by identity. The tensors are kept because Python reuses the identity of deleted objects.
    before: dict[int, Tensor] = {id(image): image}
    entrances: dict[int, Tensor] = {}

    def call(operation: Operation, *args: Any, **kwargs: Any) -> Any:
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


def has_kernel(operation: Operation) -> bool:
    """Returns whether an operation is a layer whose weights do more than normalize."""
    weights = isinstance(operation, keras.Layer) and operation.weights
    return bool(weights) and not isinstance(operation, NORMALIZING)


def _range_of(prefix: keras.Model) -> str | None:
    """Finds the range of values that a prefix of a model takes; see `_input_range`."""
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
        if any(_matches(first, last, lowest, highest) for lowest, highest in others):
            matching.append(name)
        # Mean and standard deviation of the normalization, as fractions of the span of the range.
        mean, std = -first / span, 1 / span
        if _within(mean, PLAUSIBLE_MEAN) and _within(std, PLAUSIBLE_STD):
            plausible.append(name)
    found = matching or plausible
    return found[0] if len(found) == 1 else None


def _changes_values(prefix: keras.Model) -> bool:
    """Returns whether the outputs of a prefix differ from its inputs."""
    for low, high in INPUT_RANGES.values():
        received = _on_constant_images(prefix, (low, high))
        if received is None or not _matches(received[0], received[1], low, high):
            return True
    return False


def _on_constant_images(prefix: keras.Model, values: Sequence[float]) -> np.ndarray | None:
    """Runs a prefix on constant images, one for each of `values`.

    Returns:
        The outputs in the middle of the images, (values, channels); None if the prefix changes the
        number of channels.
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


def _matches(
    first: np.ndarray, last: np.ndarray, low: float | np.ndarray, high: float | np.ndarray
) -> bool:
    """Returns whether two ranges agree, in RGB or BGR order.

    Args:
        first, last: Ends of a range for each channel, (channels,).
        low, high: Ends of a known range, for each channel or for all channels.
    """
    low, high = np.broadcast_to(low, first.shape), np.broadcast_to(high, first.shape)
    margin = TOLERANCE * (high - low)
    return any(
        bool(
            (abs(first[::step] - low) <= margin).all()
            and (abs(last[::step] - high) <= margin).all()
        )
        for step in (1, -1)
    )


def _within(values: np.ndarray, limits: tuple[float, float]) -> bool:
    """Returns whether all values are finite and lie within `limits`."""
    return all(limits[0] <= value <= limits[1] and math.isfinite(value) for value in values)
