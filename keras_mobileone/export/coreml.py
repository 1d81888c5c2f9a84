"""`export_coreml`: writes a Keras model as a Core ML package with descriptions for Xcode."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.choices import COMPRESSIONS, COMPUTE_PRECISIONS, DEPLOYMENT_TARGETS
from keras_mobileone.data.image_config import ImageConfig, image_config, image_shape
from keras_mobileone.data.imagenet import top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputTypeError, InputValueError
from keras_mobileone.export.checking import exportable
from keras_mobileone.export.coreml_forms import (
    INPUT,
    LABEL,
    ClassifierForm,
    DetectorForm,
    PackageForm,
    package_form,
)
from keras_mobileone.export.coreml_package import (
    Package,
    compressed,
    convert,
    operators,
    output_types,
    quiet,
    require_coremltools,
    with_outputs_named,
    with_suppression,
)
from keras_mobileone.export.network import require_tensorflow
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.tasks import require_detector, task_name
from keras_mobileone.files import staged_path
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.detection.config import DetectionConfig
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import ends_in_softmax, in_float32
from keras_mobileone.models.tasks import task_config


@dataclass(frozen=True, kw_only=True)
class CoreMLReport(ExportReport):
    """Result of `export_coreml`: an `ExportReport` with what only Core ML has.

    Core ML predicts on Apple's systems only, so that `error` and `sqnr` are None, and `expected` is
    computed with Keras.

    Attributes:
        compute_precision: Precision of weights and arithmetic, as `precision`.
        minimum_deployment_target: Oldest system that reads the package.
        compression: Compression of the weights, or None.
        shape: (height, width, channels) of the input.
        image: Whether the package takes an image. Otherwise it takes float32 values.
        image_config: How the exported model takes images.
        input: Description of the input in one line.
        output: Description of the output in one line.
    """

    compute_precision: str
    minimum_deployment_target: str
    compression: str | None
    shape: tuple[int, int, int]
    image: bool
    image_config: ImageConfig
    input: str
    output: str


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
    nms: bool = True,
) -> CoreMLReport:
    """Writes `model` as a Core ML package (an ML Program) with a fixed batch of 1.

    A segmentation model becomes a package with the int32 output `"semanticPredictions"` (height,
    width), the class of each pixel, as in Apple's DeepLabV3. A detector becomes a pipeline with the
    outputs `"confidence"` (boxes, classes) and `"coordinates"` (boxes, 4), center x, center y,
    width and height divided by the size of the image, as in Create ML's detectors, for which Vision
    returns objects with labels.

    Args:
        model: Functional or Sequential model with one image input of fixed size and one output, or
            a detector of this package. MobileOne blocks are fused first; `model` itself is not
            changed.
        path: Directory to create, ending in `.mlpackage`. If the export fails, it is not created.
        compute_precision: `"float16"` or `"float32"` weights and arithmetic.
        labels: Names of the classes in the order of the outputs. None: the labels attached to the
            model, or else ImageNet's for a model of 1,000 classes. A classifier needs labels that
            all differ; in ImageNet two pairs of classes share a name, and the default gives them
            different labels.
        classifier: True: the package is a classifier, which returns the best label and the
            probability of each label. False: it returns the output of the model, such as the logits
            of each pixel, as the multi-array `"scores"`. None: what suits the model; a classifier
            if it classifies whole images and there are labels.
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
        nms: For a detector, whether the package suppresses overlapping boxes itself. False: it
            returns the boxes of all anchors in the same form.

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
    functional = exportable(model)
    _check_model(functional, image, nms)
    config = image_config(functional, normalize)
    classes = _labels(functional, labels, classifier, config)
    deploy = in_float32(fuse(functional) if has_blocks(functional) else functional)
    _check_layers(deploy)
    ct = require_coremltools()
    form = package_form(functional, deploy, classes, classifier, nms)
    network = form.network(config if image else None)
    shape = (1, *network.input_shape[1:])
    tensor = (
        ct.ImageType(INPUT, shape, color_layout=ct.colorlayout.RGB)
        if image
        else ct.TensorType(INPUT, shape)
    )
    named = isinstance(form, ClassifierForm)
    with quiet():
        converted = convert(
            ct,
            network,
            inputs=[tensor],
            outputs=None if named else output_types(ct, form.names, form.dtype),
            classifier_config=ct.ClassifierConfig(classes, LABEL) if named else None,
            minimum_deployment_target=getattr(ct.target, minimum_deployment_target),
            compute_precision=getattr(ct.precision, compute_precision.upper()),
        )
        if compression:
            converted = compressed(converted, compression)
        converted = with_outputs_named(ct, converted, form.names)
        if isinstance(form, DetectorForm) and nms:
            converted = with_suppression(ct, converted, form.class_names)
    about = about or About()
    _describe(converted, model, form, config if not image else None, about)
    counts = operators(converted)
    with staged_path(path) as temporary, quiet():
        converted.save(str(temporary))
    return CoreMLReport(
        format="coreml",
        path=path,
        name=model.name,
        precision=compute_precision,
        inputs=[TensorInfo(INPUT, shape, "image" if image else "float32", None, None)],
        outputs=form.outputs(network),
        error=None,
        sqnr=None,
        compared="Core ML predicts on Apple's systems only",
        train=model_complexity(functional) if has_blocks(functional) else None,
        about=about,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        compute_precision=compute_precision,
        minimum_deployment_target=minimum_deployment_target,
        compression=compression,
        shape=tuple(network.input_shape[1:]),
        image=image,
        image_config=config,
        labels=None if classes is None else tuple(classes),
        input=converted.input_description[INPUT],
        output=", ".join(form.texts().values()),
        expected=_expected(functional, config, classes),
        operators=counts,
        deploy=model_complexity(deploy),
        task=task_name(functional),
    )


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
    require_tensorflow("Core ML")


def _labels(
    model: keras.Model,
    labels: Sequence[str] | None,
    classifier: bool | None,
    config: ImageConfig,
) -> list[str] | None:
    """Returns the labels of the package, or None if it has none."""
    task = task_config(model)
    if task is not None and classifier:
        raise InputValueError(
            "A Core ML classifier needs a model that classifies whole images. Received: "
            f"{model.name!r}, which does not. Leave out classifier=True."
        )
    if classifier is False:
        if labels is not None:
            raise InputValueError(
                "Labels need a classifier. Received: labels with classifier=False. Leave out one "
                "of them."
            )
        return None
    found = default_labels(model, config.labels if labels is None else labels)
    if task is None and found is not None and len(set(found)) != len(found):
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


def _check_model(model: keras.Model, image: bool, nms: bool) -> None:
    """Raises ValueError unless a model has one image input of fixed size and fitting outputs."""
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
    detector = isinstance(task_config(model), DetectionConfig)
    if not isinstance(outputs, tuple) and not detector:
        raise InputValueError(
            "Expected a model with one output, or a detector of this package. "
            f"Received: {model.name!r} with output shape {outputs}. Make a model of one of them: "
            "keras.Model(model.input, model.outputs[0])."
        )
    if not nms:
        require_detector(model)


def _check_layers(deploy: keras.Model) -> None:
    """Raises TypeError if a model has layers that coremltools may not know."""
    for layer in deploy.layers:
        if not type(layer).__module__.startswith("keras."):
            raise InputTypeError(
                "Expected Keras' own layers and MobileOne blocks, which are fused. Received: "
                f"{layer.name!r} of type {type(layer).__name__}. Replace it before exporting."
            )


def _expected(
    model: keras.Model, config: ImageConfig, labels: Sequence[str] | None
) -> tuple[tuple[str, float], ...] | None:
    """Classifies the example image with the exported model; None if it cannot."""
    if not config.is_rgb or task_config(model) is not None or len(model.output_shape) != 2:
        return None
    batch = config.normalize(example_image(config.image_size))[None]
    scores = keras.ops.convert_to_numpy(model.predict_on_batch(batch))[0]
    if labels is not None and not ends_in_softmax(model):
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return top_labels(scores, labels)


def _describe(
    package: Package,
    model: keras.Model,
    form: PackageForm,
    tensor: ImageConfig | None,
    about: About,
) -> None:
    """Writes the texts that Xcode shows into a package.

    Args:
        package: The package, which is changed.
        model: The exported model.
        form: Its form.
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
    for name, text in form.texts().items():
        package.output_description[name] = text
    for key, value in form.preview().items():
        package.user_defined_metadata[key] = value


def tensor_values(config: ImageConfig) -> list[str]:
    """Describes the values of an input tensor in one phrase; empty if the images are not RGB."""
    if config.mean is None or config.std is None:
        return []
    if config.takes_pixels:
        return ["RGB 0 … 255"]
    mean, std = ([round(value, 4) for value in values] for values in (config.mean, config.std))
    return [f"RGB normalized: (x - {mean}) / {std}"]
