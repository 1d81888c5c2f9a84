"""`export_coreml`: from a Keras model to a Core ML package, described as Xcode shows it."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import COMPRESSIONS, COMPUTE_PRECISIONS, DEPLOYMENT_TARGETS
from keras_mobileone.data.image_config import ImageConfig, image_config
from keras_mobileone.data.imagenet import top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputTypeError, InputValueError, MissingPackageError
from keras_mobileone.files import staged_path
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.complexity import Complexity, model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import as_functional, ends_in_softmax, in_float32
from keras_mobileone.reports import Report

INPUT = "image"
LABEL, SCORES = "classLabel", "scores"


@dataclass(frozen=True)
class CoreMLReport(Report):
    """What `export_coreml` wrote.

    Attributes:
        path: The package, a directory.
        bytes: Size of all its files.
        compute_precision: Precision of weights and arithmetic.
        minimum_deployment_target: Oldest system that reads it.
        compression: Of the weights, or None.
        shape: (height, width, channels) of its input.
        image: Whether it takes a picture; else float32 values.
        image_config: How it takes images.
        labels: Names of the classes, for a classifier; else None.
        input: Its input in one line.
        output: Its output in one line.
        expected: (label, score) of the five best classes of `images.example_image`, as Keras
            runs the model; None for what is no classifier of RGB images.
        operators: How often each operator of the ML Program occurs.
        deploy: Parameters and multiply-accumulates.
    """

    path: Path
    bytes: int
    compute_precision: str
    minimum_deployment_target: str
    compression: str | None
    shape: tuple[int, int, int]
    image: bool
    image_config: ImageConfig
    labels: tuple[str, ...] | None
    input: str
    output: str
    expected: tuple[tuple[str, float], ...] | None
    operators: dict[str, int]
    deploy: Complexity


def export_coreml(
    model: keras.Model,
    path: str | os.PathLike,
    compute_precision: str = "float16",
    *,
    labels: Sequence[str] | None = None,
    classifier: bool | None = None,
    image: bool = True,
    normalize: bool | None = None,
    minimum_deployment_target: str = "iOS15",
    compression: str | None = None,
    about: About | None = None,
) -> CoreMLReport:
    """Writes `model` as a Core ML package (an ML Program) with a fixed batch of 1.

    Args:
        model: Functional or Sequential classifier of normalized images of fixed size. MobileOne
            blocks are fused first; `model` itself stays untouched.
        path: Directory to make, ending in `.mlpackage`. It appears whole or not at all.
        compute_precision: `"float16"` or `"float32"` weights and arithmetic.
        labels: Names of the classes in the order of the outputs. None: those that the model
            carries, else ImageNet's for a model of 1,000 classes.
        classifier: Whether the package is a classifier, which gives the best label and the
            probability of each. False: the model's own outputs, as the multi-array `"scores"`.
            None: a classifier if there are labels.
        image: Take an RGB image 0 … 255, normalized in the graph as the model needs it. Else a
            multi-array (1, height, width, channels) float32 of what the model takes.
        normalize: For a model whose graph does not tell what it takes: True if it takes what
            `preprocess_input` returns, False if it takes pixels. See `image_config`.
        minimum_deployment_target: Oldest system that has to read it: `"iOS15"` …
            `"iOS18"`, or macOS of that year.
        compression: None; `"linear8"`, 8-bit weights with a scale for each channel; `"palette8"`,
            8 bits pointing into a table for each layer, the more exact of the two. Depthwise
            kernels, a fiftieth of S0's weights, keep their precision. Needs iOS16.
        about: What Xcode shows of the model.

    Returns:
        A `CoreMLReport`.

    Raises:
        ValueError: For arguments out of range or contradicting each other, an image size left
            open, labels that are not as many as the outputs.
        TypeError: If `model` is not Functional or Sequential, or has layers that Keras does not.
        FileExistsError: If `path` exists.
        ImportError: Without coremltools.

    Example:

    ```python
    model = keras_mobileone.MobileOneS0(deploy=True)
    names = [name for _, name in keras_mobileone.data.imagenet.classes()]
    keras_mobileone.export_coreml(model, "MobileOneS0.mlpackage", labels=names)
    ```
    """
    path = Path(path)
    _check_arguments(path, compute_precision, minimum_deployment_target, compression)
    functional = copy_attachment(model, as_functional(model))
    _check_model(functional, image)
    config = image_config(functional, normalize)
    labels = _labels(functional, labels, classifier, config)
    deploy = in_float32(fuse(functional) if has_blocks(functional) else functional)
    _check_layers(deploy)
    ct = require_coremltools()
    network = _with_ends(deploy, config if image else None, softmax=labels is not None)
    shape = (1, *network.input_shape[1:])
    tensor = (
        ct.ImageType(INPUT, shape, color_layout=ct.colorlayout.RGB)
        if image
        else ct.TensorType(INPUT, shape)
    )
    with quiet():
        converted = ct.convert(
            network,
            source="tensorflow",
            convert_to="mlprogram",
            inputs=[tensor],
            classifier_config=ct.ClassifierConfig(list(labels), LABEL) if labels else None,
            minimum_deployment_target=getattr(ct.target, minimum_deployment_target),
            compute_precision=getattr(ct.precision, compute_precision.upper()),
            skip_model_load=True,
        )
        if compression:
            converted = _compressed(converted, compression)
        converted = _renamed(ct, converted, labels is not None)
    _describe(converted, model, labels, config if not image else None, about or About())
    operators = _operators(converted)
    with staged_path(path) as temporary, quiet():
        converted.save(str(temporary))
    return CoreMLReport(
        path=path,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        compute_precision=compute_precision,
        minimum_deployment_target=minimum_deployment_target,
        compression=compression,
        shape=tuple(network.input_shape[1:]),
        image=image,
        image_config=config,
        labels=labels and tuple(labels),
        input=converted.input_description[INPUT],
        output=", ".join(
            converted.output_description[name] for name in converted.output_description
        ),
        expected=_expected(functional, config, labels),
        operators=operators,
        deploy=model_complexity(deploy),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without coremltools' progress bars and its notes about versions and macOS.

    Nothing else that goes to stderr meanwhile is held back.
    """
    from tqdm import std

    logger = logging.getLogger("coremltools")
    level, start = logger.level, std.tqdm.__init__
    logger.setLevel(logging.ERROR)
    std.tqdm.__init__ = partialmethod(start, disable=True)
    try:
        yield
    finally:
        std.tqdm.__init__ = start
        logger.setLevel(level)


def require_coremltools():
    """The package coremltools, imported without its noise.

    Raises:
        ImportError: Where it is missing; names the extra to install.
    """
    try:
        with quiet():
            import coremltools
    except ImportError as error:
        raise MissingPackageError(
            "Core ML export needs coremltools. Received: "
            f"{error}. Install it with `pip install keras-mobileone[coreml]`."
        ) from error
    return coremltools


def _check_arguments(path, compute_precision, minimum_deployment_target, compression):
    for name, value, known in (
        ("compute_precision", compute_precision, COMPUTE_PRECISIONS),
        ("minimum_deployment_target", minimum_deployment_target, DEPLOYMENT_TARGETS),
        ("compression", compression, (None, *COMPRESSIONS)),
    ):
        if value not in known:
            raise InputValueError(
                f"`{name}` must be one of {', '.join(map(str, known))}. Received: {value!r}."
            )
    if compression and minimum_deployment_target == "iOS15":
        raise InputValueError(
            "Compressed weights need iOS16 or newer. Received: "
            f"compression={compression!r} with minimum_deployment_target='iOS15'."
        )
    if path.suffix != ".mlpackage":
        raise InputValueError(f"`path` must end in .mlpackage. Received: {path}.")
    if path.exists():
        raise FileExistsError(
            f"Expected a package to make. Received: {path}, which exists. Remove it first, or "
            "name another one."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected a directory to write to. Received: {path.parent}, which is none. "
            "Create it first."
        )
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"Expected a writable directory. Received: {path.parent}.")
    if keras.backend.backend() != "tensorflow":
        raise InputValueError(
            "Core ML export needs Keras' TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )


def _labels(
    model: keras.Model,
    labels: Sequence[str] | None,
    classifier: bool | None,
    config: ImageConfig,
) -> list[str] | None:
    """The labels of a classifier, or None for a package that gives the model's own outputs."""
    if classifier is False:
        if labels is not None:
            raise InputValueError(
                "Labels need a classifier. Received: labels with classifier=False. Leave out one "
                "of them."
            )
        return None
    found = default_labels(model, config.labels if labels is None else labels)
    if found is not None and len(set(found)) != len(found):
        twice = next(label for label in found if found.count(label) > 1)
        raise InputValueError(
            "Core ML tells classes by their labels, so that all must differ. "
            f"Received: {twice!r} more than once."
        )
    if classifier and found is None:
        raise InputValueError(
            f"Expected --labels with the names of the classes of {model.name!r}, whose output has "
            f"shape {model.output_shape}, or --scores. Received: neither."
        )
    return found


def _check_model(model: keras.Model, image: bool) -> None:
    shape, outputs = model.input_shape, model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise InputValueError(
            f"Expected a model with one image input of fixed size. Received: {model.name!r} with "
            f"input shape {shape}. Build it with input_shape=(height, width, channels)."
        )
    if image and shape[3] != 3:
        raise InputValueError(
            f"An image input needs a model of RGB images. Received: {shape[3]} channels. "
            "Pass image=False."
        )
    if not isinstance(outputs, tuple):
        raise InputValueError(
            "Expected a model with one output. "
            f"Received: {model.name!r} with output shape {outputs}."
        )


def _check_layers(deploy: keras.Model) -> None:
    for layer in deploy.layers:
        if not type(layer).__module__.startswith("keras."):
            raise InputTypeError(
                "Expected layers of Keras itself and MobileOne blocks, which are fused. Received: "
                f"{layer.name!r} of type {type(layer).__name__}. Replace it before exporting."
            )


def _with_ends(model: keras.Model, config: ImageConfig | None, softmax: bool) -> keras.Model:
    """The model from pixels, by its configuration if given, and to probabilities if `softmax`."""
    inputs = x = keras.Input(batch_shape=(1, *model.input_shape[1:]), name=INPUT)
    if config is not None and not config.takes_pixels:
        scale, offset = 1 / np.array(config.std), -np.array(config.mean) / config.std
        x = keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="normalization")(x)
    x = model(x)
    if softmax and not ends_in_softmax(model):
        x = keras.layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, x)


def _expected(
    model: keras.Model, config: ImageConfig, labels: Sequence[str] | None
) -> tuple[tuple[str, float], ...] | None:
    """The best classes of the example image by the model as given."""
    if not config.is_rgb or len(model.output_shape) != 2:
        return None
    batch = config.normalize(example_image(config.image_size))[None]
    scores = keras.ops.convert_to_numpy(model.predict_on_batch(batch))[0]
    if labels is not None and not ends_in_softmax(model):
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return top_labels(scores, labels)


def _renamed(ct, package, classifier):
    """The package with an output that is called what it is."""
    spec = package.get_spec()
    description = spec.description
    current = description.predictedProbabilitiesName if classifier else description.output[0].name
    ct.utils.rename_feature(spec, current, SCORES)
    return ct.models.MLModel(spec, weights_dir=package.weights_dir, skip_model_load=True)


def _compressed(package, compression):
    from coremltools.optimize import coreml as optimize

    linear = compression == "linear8"
    settings = (
        optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
        if linear
        else optimize.OpPalettizerConfig(mode="kmeans", nbits=8)
    )
    config = optimize.OptimizationConfig(
        global_config=settings, op_name_configs=dict.fromkeys(_depthwise_names(package))
    )
    compress = optimize.linear_quantize_weights if linear else optimize.palettize_weights
    return compress(package, config)


def _depthwise_names(package) -> list[str]:
    """Names of the operations whose kernels have one input channel a group."""
    shapes, names = {}, []
    for operation in _operations(package):
        for output in operation.outputs:
            dimensions = output.type.tensorType.dimensions
            shapes[output.name] = [dimension.constant.size for dimension in dimensions]
        if operation.type == "conv":
            kernel = operation.inputs["weight"].arguments[0].name
            if shapes[kernel][1] == 1:
                name = operation.attributes["name"].immediateValue.tensor.strings.values[0]
                names.append(name)
    return names


def _describe(package, model, labels, tensor: ImageConfig | None, about):
    package.author, package.license, package.version = about.author, about.license, about.version
    height, width, channels = model.input_shape[1:]
    package.short_description = about.text(model.name)
    package.input_description[INPUT] = (
        f"RGB image, {width}×{height} pixels; the package normalizes it"
        if tensor is None
        else f"(1, {height}, {width}, {channels}) float32{described(tensor)}"
    )
    if labels is None:
        package.output_description[SCORES] = f"(1, {model.output_shape[-1]}) outputs of the model"
        return
    package.output_description[LABEL] = "label of the most probable class"
    package.output_description[SCORES] = f"probability of each of the {len(labels)} labels"
    package.user_defined_metadata["com.apple.coreml.model.preview.type"] = "imageClassifier"


def described(config: ImageConfig) -> str:
    """What a tensor holds, as the end of a sentence; empty for images that are not RGB."""
    if not config.is_rgb:
        return ""
    if config.takes_pixels:
        return ", RGB 0 … 255"
    mean, std = ([round(value, 4) for value in values] for values in (config.mean, config.std))
    return f", RGB normalized: (x - {mean}) / {std}"


def _operations(package):
    """The operations of the ML Program, in order."""
    block = package.get_spec().mlProgram.functions["main"]
    return block.block_specializations[block.opset].operations


def _operators(package) -> dict[str, int]:
    counts = {}
    for operation in _operations(package):
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
