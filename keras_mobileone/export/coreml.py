"""`export_coreml`: from a Keras model to a Core ML package, described as Xcode shows it."""

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import COMPRESSIONS, COMPUTE_PRECISIONS, DEPLOYMENT_TARGETS
from keras_mobileone.data.imagenet import MEAN, STD, preprocess_input, top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import check_labels
from keras_mobileone.errors import InputTypeError, InputValueError, MissingPackageError
from keras_mobileone.models.complexity import Complexity, model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import ends_in_softmax, in_float32, require_graph
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
        image: Whether it takes a picture; else normalized float32.
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
    image: bool = True,
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
        labels: Names of the classes in the order of the outputs: the package is then a classifier,
            giving the best label and the probability of each. None: the model's own outputs, as
            the multi-array `"scores"`.
        image: Take an RGB image 0 … 255, normalized in the graph. Else a multi-array (1, height,
            width, 3) of normalized float32.
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
    _check_model(model, image, labels)
    ct = require_coremltools()
    deploy = in_float32(fuse(model) if has_blocks(model) else model)
    network = _with_ends(deploy, image, softmax=labels is not None)
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
    _describe(converted, model, labels, image, about or About())
    operators = _operators(converted)
    with _staged(path) as temporary, quiet():
        converted.save(str(temporary))
    return CoreMLReport(
        path=path,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        compute_precision=compute_precision,
        minimum_deployment_target=minimum_deployment_target,
        compression=compression,
        shape=tuple(network.input_shape[1:]),
        image=image,
        labels=labels and tuple(labels),
        input=converted.input_description[INPUT],
        output=", ".join(
            converted.output_description[name] for name in converted.output_description
        ),
        expected=_expected(network, image, labels),
        operators=operators,
        deploy=model_complexity(deploy),
    )


@contextmanager
def quiet():
    """Without coremltools' progress bars and its notes about versions and macOS."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def require_coremltools():
    """The package coremltools, imported without its noise.

    Raises:
        ImportError: Where it is missing; names the extra to install.
    """
    with quiet():
        try:
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


def _check_model(model, image, labels):
    require_graph(model)
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
    if not isinstance(outputs, tuple) or (labels is not None and len(outputs) != 2):
        raise InputValueError(
            "Expected a model with one output, of shape (batch, classes) for a classifier. "
            f"Received: {model.name!r} with output shape {outputs}."
        )
    check_labels(labels, outputs[1], model.name)
    if labels is not None and len(set(labels)) != len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        raise InputValueError(
            "Core ML tells classes by their labels, so that all must differ. "
            f"Received: {twice!r} more than once."
        )
    for layer in fuse(model).layers if has_blocks(model) else model.layers:
        if not type(layer).__module__.startswith("keras."):
            raise InputTypeError(
                "Expected layers of Keras itself and MobileOne blocks, which are fused. Received: "
                f"{layer.name!r} of type {type(layer).__name__}. Replace it before exporting."
            )


def _with_ends(model, image, softmax) -> keras.Model:
    """The model from pixels if `image`, to probabilities if `softmax`."""
    inputs = x = keras.Input(batch_shape=(1, *model.input_shape[1:]), name=INPUT)
    if image:
        scale, offset = 1 / (255 * np.array(STD)), -np.array(MEAN) / STD
        x = keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="normalization")(x)
    x = model(x)
    if softmax and not ends_in_softmax(model):
        x = keras.layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, x)


def _expected(network, image, labels) -> tuple[tuple[str, float], ...] | None:
    """The best classes of the example image by the Keras model that was converted."""
    _, *size, channels = network.input_shape
    if channels != 3 or len(network.output_shape) != 2:
        return None
    pixels = example_image(tuple(size))
    batch = (pixels.astype(np.float32) if image else preprocess_input(pixels))[None]
    return top_labels(network.predict_on_batch(batch)[0], labels)


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


def _describe(package, model, labels, image, about):
    package.author, package.license, package.version = about.author, about.license, about.version
    height, width, channels = model.input_shape[1:]
    package.short_description = about.text(model.name)
    package.input_description[INPUT] = (
        f"RGB image, {width}×{height} pixels; the package normalizes it"
        if image
        else f"(1, {height}, {width}, {channels}) float32, RGB normalized: (x / 255 - "
        f"{list(MEAN)}) / {list(STD)}"
    )
    if labels is None:
        package.output_description[SCORES] = f"(1, {model.output_shape[-1]}) outputs of the model"
        return
    package.output_description[LABEL] = "label of the most probable class"
    package.output_description[SCORES] = f"probability of each of the {len(labels)} labels"
    package.user_defined_metadata["com.apple.coreml.model.preview.type"] = "imageClassifier"


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


@contextmanager
def _staged(path: Path):
    """A place beside `path` that moves there if the block succeeds."""
    directory = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    try:
        yield directory / path.name
        os.replace(directory / path.name, path)
    finally:
        shutil.rmtree(directory)
