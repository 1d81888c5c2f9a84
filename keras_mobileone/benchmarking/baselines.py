"""Networks to compare latency with, exported as `.tflite` files.

The weights are random. Latency does not depend on their values as long as no activation overflows
or becomes smaller than 1e-38, since such denormal numbers are computed slowly; `settle` scales the
weights accordingly. The accuracy of these networks is published, not measured here.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.applications import DEFAULT_SIZE, MobileOne
from keras_mobileone.benchmarking.published_results import PUBLISHED
from keras_mobileone.choices import DEPLOY_PRECISIONS, INTEGER
from keras_mobileone.compat import flatten_layers
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.tflite import require_exportable
from keras_mobileone.files import atomic_write, keras_cache
from keras_mobileone.litert.converter import convert
from keras_mobileone.variants import UNOFFICIAL_VARIANTS, VARIANTS

IMAGES = 4  # images of noise for the statistics and the calibration of int8
KERAS_TABLE = "keras.io/api/applications"


@dataclass(frozen=True)
class Peer:
    """A network that MobileOne is compared with.

    Attributes:
        name: Key of the network in `PEERS`.
        build: Function that returns the network as a new Keras model, which takes
            (pixels, pixels, 3) images and returns logits of ImageNet's classes, with random
            weights. MobileOne is in its deploy form.
        top1: Published top-1 accuracy on ImageNet, in percent.
        source: Where `top1` is published.
        pixels: Height and width of the images for which `top1` is published.
    """

    name: str
    build: Callable[[], keras.Model]
    top1: float
    source: str
    pixels: int = DEFAULT_SIZE


def _mobileone(key: str) -> Peer:
    return Peer(
        f"MobileOne{key.upper()}",
        partial(MobileOne, key, weights=None, classifier_activation=None, deploy=True),
        PUBLISHED[VARIANTS[key].name].authors_top1,
        "github.com/apple/ml-mobileone",
    )


def _application(name: str, top1: float, source: str = KERAS_TABLE, **arguments: Any) -> Peer:
    build = getattr(keras.applications, name)
    # MobileNetV3 leaves the image size open by default.
    arguments["input_shape"] = (DEFAULT_SIZE, DEFAULT_SIZE, 3)
    arguments |= {"weights": None, "classifier_activation": None}
    return Peer(name, partial(build, **arguments), top1, source)


def _micro(key: str, top1: float) -> Peer:
    """Returns an unofficial micro variant, whose accuracy is that of the paper's own network."""
    return Peer(
        f"MobileOne{key.capitalize()}Unofficial",
        partial(MobileOne, key, weights=None, classifier_activation=None, deploy=True),
        top1,
        "the paper, for its own micro networks of the same counts",
    )


# Normalization is left out where Keras offers the choice, as in MobileOne. EfficientNetB0 always
# contains it: one multiplication and one addition for each value.
_V3: dict[str, Any] = {
    "source": "docstring of keras.applications' function",
    "include_preprocessing": False,
}

PEERS = {
    peer.name: peer
    for peer in (
        *map(_micro, UNOFFICIAL_VARIANTS, (58.5, 66.2, 69.0)),
        *map(_mobileone, VARIANTS),
        _application("MobileNet", 70.4),
        _application("MobileNetV2", 71.3),
        _application("MobileNetV3Small", 68.1, **_V3),
        _application("MobileNetV3Large", 75.6, **_V3),
        _application("EfficientNetB0", 77.1),
        _application("EfficientNetV2B0", 78.7, include_preprocessing=False),
        _application("NASNetMobile", 74.4),
        _application("ResNet50", 74.9),
    )
}


def export_peer(name: str, directory: str | os.PathLike, precision: str = "float32") -> Path:
    """Exports a network of the comparison, unless `directory` already has its file.

    The file is meant for timing only: its batch is 1, its weights are random, and `"int8"` is the
    converter's own full-integer quantization, calibrated on noise. The file name contains the
    versions of Keras, TensorFlow and this package, so that an upgrade exports the file again.

    Args:
        name: Key of `PEERS`, such as `"MobileNetV2"`.
        directory: Directory that keeps the files. It is created, with its parents, if missing.
        precision: `"float32"`, `"float16"` or `"int8"`.

    Returns:
        Path of the `.tflite` file.

    Raises:
        ValueError: For an unknown network or precision, or if Keras' backend is not TensorFlow.
    """
    if name not in PEERS:
        raise InputValueError(f"Expected one of the peers {', '.join(PEERS)}. Received: {name!r}.")
    return export_network(name, PEERS[name].build, directory, precision)


def export_network(
    name: str,
    build: Callable[[], keras.Model],
    directory: str | os.PathLike,
    precision: str = "float32",
    quantizer: Callable[[keras.Model, np.ndarray], bytes] | None = None,
) -> Path:
    """Exports any network for timing, with random weights, unless `directory` has its file.

    Args:
        name: Name of the network, which becomes a part of the file name. It must identify the
            network, since a later call with the same name returns the same file.
        build: Function that returns the network as a new Keras model. Its train-time blocks are not
            fused.
        directory: Directory that keeps the files. It is created, with its parents, if missing.
        precision: `"float32"`, `"float16"` or `"int8"`.
        quantizer: Function that takes the network and images of noise and returns the content of
            the int8 file. Defaults to the converter's own quantization.

    Returns:
        Path of the `.tflite` file.

    Raises:
        ValueError: For an unknown precision, or if Keras' backend is not TensorFlow.
    """
    if precision not in DEPLOY_PRECISIONS:
        raise InputValueError(
            f"`precision` must be one of {', '.join(DEPLOY_PRECISIONS)} for a network to compare "
            f"with. Received: {precision!r}."
        )
    require_exportable(precision)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{precision}-{_versions()}.tflite"
    if path.is_file():
        return path
    model = build()
    settle(model)
    if quantizer is not None and precision == "int8":
        content = quantizer(model, noise(model))
    else:
        content = convert(model, precision, noise(model) if precision in INTEGER else None)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def _versions() -> str:
    """Returns the versions of all packages that determine the content of an exported file."""
    try:
        own = version("keras-mobileone")
    except PackageNotFoundError:  # imported from a directory without being installed
        own = "source"
    return f"keras{keras.__version__}-tf{version('tensorflow')}-mobileone{own}"


def cache_directory() -> Path:
    """Returns the directory of the command line's files, below that of Keras (`~/.keras`)."""
    return keras_cache("peers")


def peer_label(path: Path) -> str:
    """Returns name and precision of a network from the path that `export_peer` returned."""
    return " ".join(path.stem.split("-")[:2])


def settle(model: keras.Model, seed: int = 0) -> None:
    """Fills `model` with random weights that keep the activations near 1 at any depth.

    Kernels are drawn from He et al.'s normal distribution (arXiv 1502.01852), in which the fan-in
    of a depthwise kernel counts only its own channel. The statistics of batch normalization are
    those of a few images of noise.

    Args:
        model: Model whose weights are replaced.
        seed: Seed of the random kernels.
    """
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        kind = variable.path.rsplit("/", 1)[-1]
        if not kind.endswith("kernel"):
            continue
        shape = tuple(variable.shape)
        # Depthwise kernels are (height, width, channels, 1); no other kernel has a last axis of 1.
        fan_in = np.prod(shape[:2] if len(shape) == 4 and shape[3] == 1 else shape[:-1])
        variable.assign(rng.normal(0, (2 / fan_in) ** 0.5, shape))
    norms = [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the moving statistics become those of this one batch
    if norms:
        model(noise(model), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def noise(model: keras.Model) -> np.ndarray:
    """Returns a few images of standard normal noise, (count, height, width, channels) float32."""
    shape = (IMAGES, *model.input_shape[1:])
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)
