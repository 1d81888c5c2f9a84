"""What coremltools does for `export_coreml`: conversion, compression, suppression of boxes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod
from typing import Any

import keras
import numpy as np

from keras_mobileone.compat import convertible_operations
from keras_mobileone.errors import explained_conversion
from keras_mobileone.export.composites import teach_coremltools
from keras_mobileone.export.formats import FORMATS, require_packages
from keras_mobileone.models.detection.decoding import IOU_THRESHOLD

CoreMLTools = Any  # the module coremltools, which is imported late
Package = Any  # `coremltools.models.MLModel`
UNKNOWN = r"Conversion for TF op '(\w+)' not implemented"  # what coremltools says
# Names of a detector's outputs, which are those of Create ML, and of the arrays from which they are
# made if the package suppresses boxes.
COORDINATES, CONFIDENCE = "coordinates", "confidence"
RAW = "raw_"
# Names of the thresholds that an app may pass, by the field of the specification, and their
# defaults. Create ML's default confidence is the same.
CONFIDENCE_THRESHOLD = 0.25
THRESHOLDS = {"iouThreshold": IOU_THRESHOLD, "confidenceThreshold": CONFIDENCE_THRESHOLD}
SUPPRESSION = "nonMaximumSuppression"


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
    with quiet():
        require_packages(FORMATS["coreml"])
        import coremltools
    return coremltools


def convert(ct: CoreMLTools, network: keras.Model, **settings: Any) -> Package:
    """Converts a model with coremltools, and names the operation that it does not know."""
    teach_coremltools()
    with convertible_operations(), explained_conversion("Core ML", UNKNOWN):
        return ct.convert(
            network,
            source="tensorflow",
            convert_to="mlprogram",
            skip_model_load=True,
            **settings,
        )


def output_types(ct: CoreMLTools, names: Sequence[str], dtype: str) -> list[Any]:
    """Returns the types of the arrays, which by default would be float16 for newer systems.

    Args:
        ct: The module coremltools.
        names: Names that the outputs will get.
        dtype: Their dtype.
    """
    # TensorFlow's names of the results of a function, in order.
    found = [f"Identity_{index}" if index else "Identity" for index in range(len(names))]
    return [ct.TensorType(name, dtype=np.dtype(dtype).type) for name in found]


def compressed(package: Package, compression: str) -> Package:
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


def with_outputs_named(ct: CoreMLTools, package: Package, names: Sequence[str]) -> Package:
    """Returns the package with its outputs named in order.

    Args:
        ct: The module coremltools.
        package: The package. The output of a classifier is its probabilities.
        names: The new names.
    """
    spec = package.get_spec()
    description = spec.description
    probabilities = description.predictedProbabilitiesName
    current = [probabilities] if probabilities else [output.name for output in description.output]
    for old, new in zip(current, names, strict=True):
        ct.utils.rename_feature(spec, old, new)
    return ct.models.MLModel(spec, weights_dir=package.weights_dir, skip_model_load=True)


def with_suppression(ct: CoreMLTools, package: Package, labels: Sequence[str]) -> Package:
    """Returns a pipeline of a detector and Core ML's suppression of overlapping boxes.

    This is the form of Create ML's detectors, which Vision and the preview of Xcode know. Apple's
    Turi Create writes it in `neural_net_models_exporter.cpp`. Vision passes the default thresholds,
    unless the app gives it others.

    Args:
        ct: The module coremltools.
        package: Package with the outputs `"raw_confidence"` (anchors, classes) and
            `"raw_coordinates"` (anchors, 4), which must be float32
            (`NonMaximumSuppressionValidator.cpp` of coremltools).
        labels: Names of the classes.
    """
    network = package.get_spec()
    suppression = _suppression(ct, network, labels)
    datatypes = ct.models.datatypes
    image = network.description.input[0]
    pipeline = ct.models.pipeline.Pipeline(
        [(image.name, datatypes.Array(1)), *((name, datatypes.Double()) for name in THRESHOLDS)],
        [(output.name, datatypes.Array(1)) for output in suppression.description.output],
    )
    pipeline.add_model(network)
    pipeline.add_model(suppression)
    spec = pipeline.spec
    spec.specificationVersion = network.specificationVersion
    described = spec.description
    described.input[0].CopyFrom(image)
    for output, source in zip(described.output, suppression.description.output, strict=True):
        output.CopyFrom(source)
    described.metadata.CopyFrom(network.description.metadata)
    result = ct.models.MLModel(spec, weights_dir=package.weights_dir, skip_model_load=True)
    for name, value in THRESHOLDS.items():
        result.input_description[name] = f"{value} if Vision calls the package"
    return result


def _suppression(ct: CoreMLTools, network: Any, labels: Sequence[str]) -> Any:
    """Returns the specification of the second model of the pipeline."""
    spec = ct.proto.Model_pb2.Model()
    spec.specificationVersion = network.specificationVersion
    for source in network.description.output:
        spec.description.input.add().CopyFrom(source)
        output = spec.description.output.add()
        output.CopyFrom(source)
        output.name = source.name.removeprefix(RAW)
        array = output.type.multiArrayType
        columns = array.shape[1]
        del array.shape[:]
        for lower, upper in ((0, -1), (columns, columns)):  # any number of boxes
            size = array.shapeRange.sizeRanges.add()
            size.lowerBound, size.upperBound = lower, upper
    for name in THRESHOLDS:
        threshold = spec.description.input.add()
        threshold.name = name
        threshold.type.doubleType.SetInParent()
    settings = spec.nonMaximumSuppression
    settings.confidenceInputFeatureName = RAW + CONFIDENCE
    settings.coordinatesInputFeatureName = RAW + COORDINATES
    settings.confidenceOutputFeatureName = CONFIDENCE
    settings.coordinatesOutputFeatureName = COORDINATES
    for name, value in THRESHOLDS.items():
        setattr(settings, name, value)
        setattr(settings, f"{name}InputFeatureName", name)
    settings.pickTop.perClass = True
    settings.stringClassLabels.vector.extend(labels)
    return spec


def operators(package: Package) -> dict[str, int]:
    """Counts how often each operator of the package occurs, the most frequent first."""
    counts: dict[str, int] = {}
    for operation in _operations(package):
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    counts |= {SUPPRESSION: 1} if len(package.get_spec().pipeline.models) > 1 else {}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _operations(package: Package) -> Sequence[Any]:
    """Returns the operations of the ML Program in order."""
    spec = package.get_spec()
    program = (spec.pipeline.models[0] if spec.pipeline.models else spec).mlProgram
    block = program.functions["main"]
    return block.block_specializations[block.opset].operations


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
