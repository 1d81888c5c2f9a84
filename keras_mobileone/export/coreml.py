"""`export_coreml`: writes a Keras model as a Core ML package with descriptions for Xcode."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import COMPRESSIONS, COMPUTE_PRECISIONS, DEPLOYMENT_TARGETS
from keras_mobileone.data.image_config import ImageConfig, image_config, image_shape
from keras_mobileone.data.imagenet import top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import (
    InputTypeError,
    InputValueError,
    MissingPackageError,
    first_line,
)
from keras_mobileone.files import staged_path
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.complexity import Complexity, model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import as_functional, ends_in_softmax, in_float32
from keras_mobileone.models.tasks import task_config
from keras_mobileone.reports import Report

CoreMLTools = Any  # the module coremltools, which is imported late
Package = Any  # `coremltools.models.MLModel`
# Feature names in the package.
INPUT = "image"
LABEL, SCORES = "classLabel", "scores"


@dataclass(frozen=True)
class CoreMLReport(Report):
    """Result of `export_coreml`.

    Attributes:
        path: Path of the package, which is a directory.
        bytes: Size of all files in the package.
        compute_precision: Precision of weights and arithmetic.
        minimum_deployment_target: Oldest system that reads the package.
        compression: Compression of the weights, or None.
        shape: (height, width, channels) of the input.
        image: Whether the package takes an image. Otherwise it takes float32 values.
        image_config: How the exported model takes images.
        labels: Names of the classes for a classifier, or None.
        input: Description of the input in one line.
        output: Description of the output in one line.
        expected: (label, score) of the five best classes of `images.example_image`, computed with
            Keras; None for a model that does not classify RGB images.
        operators: How often each operator of the ML Program occurs.
        deploy: Parameters and multiply-accumulates of the fused model.
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
        model: Functional or Sequential model with one image input of fixed size and one output.
            MobileOne blocks are fused first; `model` itself is not changed.
        path: Directory to create, ending in `.mlpackage`. If the export fails, it is not created.
        compute_precision: `"float16"` or `"float32"` weights and arithmetic.
        labels: Names of the classes in the order of the outputs. None: the labels attached to the
            model, or else ImageNet's for a model of 1,000 classes. Core ML needs labels that all
            differ; in ImageNet two pairs of classes share a name, and the default gives them
            different labels.
        classifier: True: the package is a classifier, which returns the best label and the
            probability of each label. False: it returns the outputs of the model as the multi-array
            `"scores"`. None: a classifier if there are labels.
        image: True: the package takes an RGB image, which it normalizes as the model needs. False:
            it takes what the model takes, as a multi-array (1, height, width, channels) of float32.
        normalize: For a model whose graph does not show what it takes: True if it takes what
            `preprocess_input` returns, False if it takes pixels. See `image_config`.
        minimum_deployment_target: Oldest system that has to read the package: `"iOS15"` to
            `"iOS18"`, or the macOS version of that year.
        compression: Compression of the weights: None; `"linear8"`, 8-bit weights with a scale for
            each channel; or `"palette8"`, 8-bit indices into a table for each layer, which is more
            accurate. Depthwise kernels, a fiftieth of S0's weights, keep their precision. Needs
            iOS16 or newer.
        about: Description, author, license and version, which Xcode shows.

    Returns:
        A `CoreMLReport`.

    Raises:
        ValueError: If arguments are out of range or contradict each other, the model has several
            inputs or an open image size, or the labels are repeated or do not fit the outputs.
        TypeError: If `model` is not Functional or Sequential, or has layers that are neither
            Keras' own nor MobileOne blocks.
        FileExistsError: If `path` exists.
        FileNotFoundError: If the directory of `path` does not exist.
        ImportError: If coremltools is not installed.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(
        ...     tiny, weights=None, input_shape=(32, 32, 3), classes=2, deploy=True
        ... )
        >>> report = km.export_coreml(model, "Tiny.mlpackage", labels=["tench", "dog"])
        >>> report.labels
        ('tench', 'dog')
    """
    path = Path(path)
    _check_arguments(path, compute_precision, minimum_deployment_target, compression)
    functional = copy_attachment(model, as_functional(model))
    _check_model(functional, image)
    config = image_config(functional, normalize)
    classes = _labels(functional, labels, classifier, config)
    deploy = in_float32(fuse(functional) if has_blocks(functional) else functional)
    _check_layers(deploy)
    ct = require_coremltools()
    network = _package_model(deploy, config if image else None, softmax=classes is not None)
    shape = (1, *network.input_shape[1:])
    tensor = (
        ct.ImageType(INPUT, shape, color_layout=ct.colorlayout.RGB)
        if image
        else ct.TensorType(INPUT, shape)
    )
    with quiet():
        converted = _convert(
            ct,
            network,
            inputs=[tensor],
            classifier_config=ct.ClassifierConfig(classes, LABEL) if classes else None,
            minimum_deployment_target=getattr(ct.target, minimum_deployment_target),
            compute_precision=getattr(ct.precision, compute_precision.upper()),
        )
        if compression:
            converted = _compressed(converted, compression)
        converted = _with_scores_renamed(ct, converted, classes is not None)
    _describe(converted, model, classes, config if not image else None, about or About())
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
        labels=None if classes is None else tuple(classes),
        input=converted.input_description[INPUT],
        output=", ".join(
            converted.output_description[name] for name in converted.output_description
        ),
        expected=_expected(functional, config, classes),
        operators=operators,
        deploy=model_complexity(deploy),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Turns off the progress bars of coremltools and its notes about versions and macOS.

    Everything else is still written to stderr.
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


def require_coremltools() -> CoreMLTools:
    """Imports coremltools quietly and returns the module.

    Raises:
        ImportError: If it is not installed. The message names the extra to install.
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


def _check_arguments(
    path: Path, compute_precision: str, minimum_deployment_target: str, compression: str | None
) -> None:
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
            f"Expected the path of a new package. Received: {path}, which exists. Remove it, or "
            "choose a different name."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing directory. Received: {path.parent}, which is not a directory. "
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
    """Returns the labels of a classifier, or None if the package is not a classifier."""
    if classifier is False:
        if labels is not None:
            raise InputValueError(
                "Labels need a classifier. Received: labels with classifier=False. Leave out one "
                "of them."
            )
        return None
    if task_config(model) is not None:
        if labels is not None or classifier:
            raise InputValueError(
                "A Core ML classifier needs a model that classifies whole images. Received: "
                f"{model.name!r}, which does not. Leave out labels and classifier."
            )
        return None
    found = default_labels(model, config.labels if labels is None else labels)
    if found is not None and len(set(found)) != len(found):
        twice = next(label for label in found if found.count(label) > 1)
        raise InputValueError(
            "Core ML identifies classes by their labels, which must all differ. "
            f"Received: {twice!r} more than once. Rename one of them."
        )
    if classifier and found is None:
        raise InputValueError(
            f"A classifier needs the labels of {model.name!r}, whose output has shape "
            f"{model.output_shape}. Received: labels=None. Pass labels, or classifier=False for a "
            "package that returns the outputs of the model (--labels or --scores on the command "
            "line)."
        )
    return found


def _check_model(model: keras.Model, image: bool) -> None:
    """Raises ValueError unless a model has one image input of fixed size and one output."""
    shape, outputs = image_shape(model), model.output_shape
    if None in shape:
        raise InputValueError(
            f"Expected a model with one image input of fixed size. Received: {model.name!r} with "
            f"input shape {model.input_shape}. Build it with "
            "input_shape=(height, width, channels)."
        )
    if image and shape[2] != 3:
        raise InputValueError(
            f"An image input needs a model of RGB images. Received: {shape[2]} channels. "
            "Pass image=False."
        )
    if not isinstance(outputs, tuple):
        raise InputValueError(
            "Expected a model with one output. "
            f"Received: {model.name!r} with output shape {outputs}. Make a model of one of them: "
            "keras.Model(model.input, model.outputs[0])."
        )


def _check_layers(deploy: keras.Model) -> None:
    """Raises TypeError if a model has layers that coremltools may not know."""
    for layer in deploy.layers:
        if not type(layer).__module__.startswith("keras."):
            raise InputTypeError(
                "Expected Keras' own layers and MobileOne blocks, which are fused. Received: "
                f"{layer.name!r} of type {type(layer).__name__}. Replace it before exporting."
            )


def _convert(ct: Any, network: keras.Model, **settings: Any) -> Any:
    """Converts a model with coremltools, and names the operation that it does not know."""
    try:
        return ct.convert(
            network,
            source="tensorflow",
            convert_to="mlprogram",
            skip_model_load=True,
            **settings,
        )
    except NotImplementedError as error:
        raise InputValueError(
            f"Expected operations that coremltools converts. Received: {first_line(error)} "
            "Replace the layer that computes it, for example an exact GELU by its approximation."
        ) from error


def _package_model(model: keras.Model, config: ImageConfig | None, softmax: bool) -> keras.Model:
    """Makes the model that becomes the package.

    Args:
        model: The fused model.
        config: Configuration whose normalization is put in front of the model, or None.
        softmax: Whether the package returns probabilities.
    """
    inputs = x = keras.Input(batch_shape=(1, *model.input_shape[1:]), name=INPUT)
    if config is not None and config.mean and config.std and not config.takes_pixels:
        scale, offset = 1 / np.array(config.std), -np.array(config.mean) / config.std
        x = keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="normalization")(x)
    x = model(x)
    if softmax and not ends_in_softmax(model):
        x = keras.layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, x)


def _expected(
    model: keras.Model, config: ImageConfig, labels: Sequence[str] | None
) -> tuple[tuple[str, float], ...] | None:
    """Classifies the example image with the exported model; None if it cannot."""
    if not config.is_rgb or len(model.output_shape) != 2:
        return None
    batch = config.normalize(example_image(config.image_size))[None]
    scores = keras.ops.convert_to_numpy(model.predict_on_batch(batch))[0]
    if labels is not None and not ends_in_softmax(model):
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return top_labels(scores, labels)


def _with_scores_renamed(ct: CoreMLTools, package: Package, classifier: bool) -> Package:
    """Returns the package with its output, or the probabilities of a classifier, named `SCORES`."""
    spec = package.get_spec()
    description = spec.description
    current = description.predictedProbabilitiesName if classifier else description.output[0].name
    ct.utils.rename_feature(spec, current, SCORES)
    return ct.models.MLModel(spec, weights_dir=package.weights_dir, skip_model_load=True)


def _compressed(package: Package, compression: str) -> Package:
    """Returns the package with 8-bit weights; depthwise kernels keep their precision."""
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


def _depthwise_names(package: Package) -> list[str]:
    """Returns the names of the convolutions with one input channel in each group."""
    shapes: dict[str, list[int]] = {}
    names = []
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


def _describe(
    package: Package,
    model: keras.Model,
    labels: Sequence[str] | None,
    tensor: ImageConfig | None,
    about: About,
) -> None:
    """Writes the texts that Xcode shows into a package.

    Args:
        package: The package, which is changed.
        model: The exported model.
        labels: Names of the classes, or None.
        tensor: How a package that takes a multi-array takes images; None if it takes an image.
        about: Description, author, license and version.
    """
    package.author, package.license, package.version = about.author, about.license, about.version
    height, width, channels = model.input_shape[1:]
    package.short_description = about.text(model.name)
    package.input_description[INPUT] = (
        f"RGB image, {width}×{height} pixels; the package normalizes it"
        if tensor is None
        else ", ".join([f"(1, {height}, {width}, {channels}) float32", *tensor_values(tensor)])
    )
    if labels is None:
        package.output_description[SCORES] = f"(1, {model.output_shape[-1]}) outputs of the model"
        return
    package.output_description[LABEL] = "label of the most probable class"
    package.output_description[SCORES] = f"probability of each of the {len(labels)} labels"
    package.user_defined_metadata["com.apple.coreml.model.preview.type"] = "imageClassifier"


def tensor_values(config: ImageConfig) -> list[str]:
    """Describes the values of an input tensor in one phrase; empty if the images are not RGB."""
    if config.mean is None or config.std is None:
        return []
    if config.takes_pixels:
        return ["RGB 0 … 255"]
    mean, std = ([round(value, 4) for value in values] for values in (config.mean, config.std))
    return [f"RGB normalized: (x - {mean}) / {std}"]


def _operations(package: Package) -> Sequence[Any]:
    """Returns the operations of the ML Program in order."""
    block = package.get_spec().mlProgram.functions["main"]
    return block.block_specializations[block.opset].operations


def _operators(package: Package) -> dict[str, int]:
    """Counts how often each operator of the ML Program occurs, the most frequent first."""
    counts: dict[str, int] = {}
    for operation in _operations(package):
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
