"""The networks that MobileOne is compared with, as `.tflite` files to time beside one's own.

The weights are random: latency does not depend on their values, as long as no activation vanishes
(numbers below 1e-38 are computed slowly) or overflows. `settle` sees to that. Accuracy is
published, not measured here.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.applications import DEFAULT_SIZE, MobileOne
from keras_mobileone.benchmarking.published_results import PUBLISHED
from keras_mobileone.choices import DEPLOY_PRECISIONS, INTEGER
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.tflite import require_exportable
from keras_mobileone.files import atomic_write
from keras_mobileone.litert.converter import convert
from keras_mobileone.variants import VARIANTS

IMAGES = 4  # of noise, which set the statistics and calibrate int8
KERAS_TABLE = "keras.io/api/applications"


@dataclass(frozen=True)
class Peer:
    """A network of the comparison.

    Attributes:
        name: Its key in `PEERS`.
        build: Returns it as a new Keras model of (224, 224, 3) images with ImageNet's classes,
            logits, and random weights; MobileOne in its deploy form.
        top1: Published top-1 on ImageNet, percent.
        source: Where `top1` is published.
    """

    name: str
    build: Callable[[], keras.Model]
    top1: float
    source: str


def _mobileone(key: str) -> Peer:
    return Peer(
        f"MobileOne{key.upper()}",
        partial(MobileOne, key, weights=None, classifier_activation=None, deploy=True),
        PUBLISHED[VARIANTS[key].name].authors_top1,
        "github.com/apple/ml-mobileone",
    )


def _application(name: str, top1: float, source: str = KERAS_TABLE, **arguments) -> Peer:
    build = getattr(keras.applications, name)
    # MobileNetV3 leaves the size open unless told.
    arguments["input_shape"] = (DEFAULT_SIZE, DEFAULT_SIZE, 3)
    arguments |= {"weights": None, "classifier_activation": None}
    return Peer(name, partial(build, **arguments), top1, source)


# Where Keras lets one choose, the normalization stays outside the network as it does in MobileOne;
# EfficientNetB0 always has its own, one multiplication and addition for each pixel.
_V3 = {"source": "docstring of keras.applications' function", "include_preprocessing": False}

PEERS = {
    peer.name: peer
    for peer in (
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
    """The `.tflite` file of a peer, made unless `directory` has it already.

    Its name tells peer, precision and versions. The batch is 1, the weights are random; int8 is
    the converter's own full-integer quantization, calibrated on noise. So the file is for timing.

    Args:
        name: Key of `PEERS`, such as `"MobileNetV2"`.
        directory: Where the files are kept; made, with its parents, if it does not exist.
        precision: `"float32"`, `"float16"` or `"int8"`.

    Raises:
        ValueError: For an unknown peer or precision, or another Keras backend than TensorFlow.
    """
    if name not in PEERS:
        raise InputValueError(f"Expected one of the peers {', '.join(PEERS)}. Received: {name!r}.")
    return export_network(name, PEERS[name].build, directory, precision)


def export_network(
    name: str,
    build: Callable[[], keras.Model],
    directory: str | os.PathLike,
    precision: str = "float32",
) -> Path:
    """The `.tflite` file of any network, for timing, made as `export_peer` makes a peer's.

    Args:
        name: Of the network; the file is found by it the next time, so it must stand for one.
        build: Returns the network as a new Keras model. What can be fused in it is left as it is.
        directory, precision: As of `export_peer`.

    Raises:
        ValueError: For an unknown precision, or another Keras backend than TensorFlow.
    """
    if precision not in DEPLOY_PRECISIONS:
        raise InputValueError(
            f"`precision` of a peer must be one of {', '.join(DEPLOY_PRECISIONS)}. "
            f"Received: {precision!r}."
        )
    require_exportable(precision)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    versions = f"keras{keras.__version__}-tf{version('tensorflow')}"
    path = directory / f"{name}-{precision}-{versions}.tflite"
    if path.is_file():
        return path
    model = build()
    settle(model)
    images = noise(model) if precision in INTEGER else None
    content = convert(model, precision, images)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def cache_directory() -> Path:
    """Where the command line keeps the files: in Keras' directory, `~/.keras` by default."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_mobileone" / "peers"


def peer_label(path: Path) -> str:
    """Name and precision of a peer, from the path that `export_peer` gave."""
    return " ".join(path.stem.split("-")[:2])


def settle(model: keras.Model, seed: int = 0) -> None:
    """Fills `model` with random weights that keep the activations near 1, whatever its depth.

    Kernels are drawn as He et al. do (arXiv 1502.01852), with a depthwise kernel's own fan-in, and
    batch normalization takes the statistics of a few images of noise.
    """
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        kind = variable.path.rsplit("/", 1)[-1]
        if not kind.endswith("kernel"):
            continue
        shape = tuple(variable.shape)
        # Depthwise kernels are (height, width, channels, 1); no other one ends in a single filter.
        fan_in = np.prod(shape[:2] if len(shape) == 4 and shape[3] == 1 else shape[:-1])
        variable.assign(rng.normal(0, (2 / fan_in) ** 0.5, shape))
    norms = [
        layer
        for layer in model._flatten_layers()
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
    """A few images for `model`, standard normal, (count, height, width, channels) float32."""
    shape = (IMAGES, *model.input_shape[1:])
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)
