"""Prepares a model of any kind for the formats that take whole Keras models, and compares the file.

Keras' own `model.export` leaves the batch open, keeps the branches, and neither normalizes pixels
nor checks what it wrote.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.about import About
from keras_mobileone.compat import convertible_operations, producer
from keras_mobileone.data.image_config import ImageConfig, config_of_file, image_config
from keras_mobileone.data.imagenet import top_labels
from keras_mobileone.data.images import example_image
from keras_mobileone.data.labels import default_labels
from keras_mobileone.errors import InputValueError, VerificationError, first_line
from keras_mobileone.export.checking import (
    COMPARED_IMAGES,
    Deviation,
    check_deviation,
    compared_images,
    deviation_of,
    exportable,
)
from keras_mobileone.export.formats import (
    Format,
    require_packages,
    require_path,
    require_precision,
)
from keras_mobileone.export.report import ExportReport
from keras_mobileone.export.tasks import task_name
from keras_mobileone.files import staged_path
from keras_mobileone.litert.flatbuffer import TensorInfo
from keras_mobileone.litert.runner import NORMALIZED_INPUT, PIXEL_INPUT
from keras_mobileone.models.complexity import model_complexity
from keras_mobileone.models.fusing import fuse, has_blocks
from keras_mobileone.models.graph import (
    in_float32,
    inputs_and_outputs,
    output_names,
    random_input,
)
from keras_mobileone.quantization.calibration import calibration_images

Tensor = Any  # a symbolic tensor of Keras
Arrays = dict[str, np.ndarray]
Runner = Callable[[Arrays], Arrays]  # runs a file on a batch of 1


@dataclass(frozen=True)
class Network:
    """A model that is ready to be written.

    Attributes:
        source: The exported model, which computes in float32.
        fused: The same model without branches.
        model: `fused` with a batch of 1, normalization in front if it is wanted, and named outputs.
        config, file: How `source` and the file take images; None without exactly one image input.
        labels: Names of the classes, or None.
        inputs, outputs: Description of the inputs and outputs of the file.
    """

    source: keras.Model
    fused: keras.Model
    model: keras.Model
    config: ImageConfig | None
    file: ImageConfig | None
    labels: tuple[str, ...] | None
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]

    def signature(self) -> list[Any]:
        """Returns the inputs for Keras' exports, which would leave the batch open otherwise."""
        import tensorflow as tf

        def spec(tensor: Tensor) -> Any:
            return tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name)

        return [keras.tree.map_structure(spec, self.model.input)]

    def metadata(self, about: About) -> dict[str, str]:
        """Returns what a file says of itself, by name: texts, labels and image configuration."""
        texts = {
            "name": self.source.name,
            "description": about.text(self.source.name),
            "author": about.author,
            "license": about.license,
            "version": about.version,
        }
        if self.labels is not None:
            texts["labels"] = json.dumps(self.labels, ensure_ascii=False)
        if self.file is not None:
            texts["image_config"] = json.dumps(replace(self.file, labels=None).to_dict())
        return {name: text for name, text in texts.items() if text}


@dataclass(frozen=True)
class Files:
    """How the files of a format are written and run.

    Attributes:
        write: Writes a network to a path, and returns how often each operator occurs.
        load: Returns a function that runs the file at a path.
    """

    write: Callable[[Network, Path, str, About], dict[str, int]]
    load: Callable[[Path], Runner]


def export_network(
    model: keras.Model,
    path: Path,
    form: Format,
    files: Files,
    *,
    precision: str,
    normalize: bool | None,
    labels: Sequence[str] | None,
    about: About | None,
    images: Any,
    verify: bool,
) -> ExportReport:
    """Writes a model in a format, runs the file, and compares it with Keras.

    Args:
        model, path: As in `keras_mobileone.export`.
        form: The format.
        files: How its files are written and run.
        precision, normalize, labels, about, images, verify: As in `keras_mobileone.export`.
    """
    require_tensorflow(form.title)
    require_path(path, form)
    require_precision(precision, form)
    require_packages(form)
    network = prepare(model, normalize, labels)
    about = about or About()
    with staged_path(path) as temporary:
        with convertible_operations():
            operators = files.write(network, temporary, precision, about)
        size = sum(f.stat().st_size for f in temporary.parent.rglob("*") if f.is_file())
        compared, deviation, expected = _check(network, form, files, temporary, images)
        if deviation is not None and verify:
            check_deviation(deviation, precision, model.name, compared)
    return ExportReport(
        format=form.name,
        path=path,
        name=model.name,
        precision=precision,
        bytes=size,
        inputs=network.inputs,
        outputs=network.outputs,
        operators=operators,
        image_config=network.file,
        labels=network.labels,
        expected=expected,
        error=None if deviation is None else deviation.error,
        sqnr=None if deviation is None else deviation.sqnr,
        compared=compared,
        train=model_complexity(network.source) if has_blocks(network.source) else None,
        deploy=model_complexity(network.fused),
        about=about,
        task=task_name(model),
    )


def require_tensorflow(title: str) -> None:
    """Raises ValueError unless Keras uses TensorFlow, which the exports convert from."""
    if keras.backend.backend() != "tensorflow":
        raise InputValueError(
            f"{title} export needs Keras' TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )


def prepare(
    model: keras.Model, normalize: bool | None = None, labels: Sequence[str] | None = None
) -> Network:
    """Fuses a model, and gives it a batch of 1, a normalization if it is wanted, and names.

    Args:
        model: Functional, Sequential, nested, or subclassed model with inputs of fixed size.
        normalize, labels: As in `keras_mobileone.export`.

    Raises:
        ValueError: If a size is open, the model is not built, or labels or normalization do not
            fit it.
        TypeError: If `model` is not a Keras model, or is subclassed and has no graph.
    """
    source = exportable(model)
    for tensor in source.inputs:
        if None in tensor.shape[1:]:
            raise InputValueError(
                "Expected inputs of fixed size, for which runtimes plan memory. Received: "
                f"{model.name!r} with the input {tensor.name!r} of shape {tuple(tensor.shape)}. "
                "Build it with input_shape=(height, width, channels)."
            )
    config, file, wrapped = _image_configs(source, normalize)
    classes = default_labels(source, (config.labels if config and labels is None else labels))
    fused = in_float32(fuse(source) if has_blocks(source) else source)
    names = output_names(source)
    batch_of_1 = _batch_of_1(fused, config is not None, wrapped, names)
    return Network(
        source=in_float32(source),
        fused=fused,
        model=batch_of_1,
        config=config,
        file=file,
        labels=None if classes is None else tuple(classes),
        inputs=[_info(tensor.name, tensor) for tensor in batch_of_1.inputs],
        outputs=[_info(name, batch_of_1.output[name]) for name in names],
    )


def normalized(pixels: Tensor, config: ImageConfig) -> Tensor:
    """Applies the normalization of a configuration to pixels with a layer of Keras."""
    if config.mean is None or config.std is None or config.takes_pixels:
        return pixels
    scale, offset = 1 / np.array(config.std), -np.array(config.mean) / config.std
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="normalization")(pixels)


def _image_configs(
    model: keras.Model, normalize: bool | None
) -> tuple[ImageConfig | None, ImageConfig | None, ImageConfig | None]:
    """Returns how the model and its file take images, and the normalization for the file."""
    shape = model.inputs[0].shape
    if len(model.inputs) == 1 and len(shape) == 4:
        config = image_config(model, normalize)
        return config, *config_of_file(config, normalize)
    if normalize:
        raise InputValueError(
            "normalize=True needs a model with one image input. Received: "
            f"{model.name!r} with inputs of shape {[tuple(t.shape) for t in model.inputs]}. Pass "
            "normalize=False."
        )
    return None, None, None


def _batch_of_1(
    model: keras.Model, image: bool, wrapped: ImageConfig | None, names: Sequence[str]
) -> keras.Model:
    """Returns a model of stock layers around `model` with a batch of 1 and outputs by name."""

    sources, structure = model.inputs, inputs_and_outputs(model)[0]
    inputs = {}
    for tensor in sources:
        name = PIXEL_INPUT if wrapped else NORMALIZED_INPUT if image else producer(tensor).name
        inputs[name] = keras.Input((*tensor.shape[1:],), 1, dtype=tensor.dtype, name=name)
    values = list(inputs.values())
    packed = keras.tree.pack_sequence_as(structure, values)
    outputs = model(normalized(packed, wrapped) if wrapped else packed)
    named = dict(zip(names, keras.tree.flatten(outputs), strict=True))
    return keras.Model(values[0] if len(values) == 1 else inputs, named, name=model.name)


def _info(name: str, tensor: Tensor) -> TensorInfo:
    return TensorInfo(name, tuple(tensor.shape), str(tensor.dtype), None, None)


def _check(
    network: Network, form: Format, files: Files, path: Path, images: Any
) -> tuple[str, Deviation | None, tuple[tuple[str, float], ...] | None]:
    """Runs a file, compares it with Keras, and classifies the example image.

    Returns:
        What was compared or why nothing was, the deviation, and the best classes.
    """
    inputs, reference, text = _compared(network, images)
    expected = keras.tree.flatten(network.source.predict_on_batch(reference))
    by_name = dict(zip((info.name for info in network.outputs), expected, strict=True))
    run = _runner(form, files, path)
    classes = _classify(network, run)
    if run is None:
        return f"{form.runtime} is not installed", None, classes
    count = len(next(iter(inputs.values())))
    found = [run({name: v[i : i + 1] for name, v in inputs.items()}) for i in range(count)]
    for name in by_name:
        if name not in found[0]:
            raise VerificationError(
                f"Expected a file with the outputs of {network.source.name!r}. Received: one "
                f"without {name!r}. Give each output a separate layer, such as Identity."
            )
    return text, deviation_of(by_name, found), classes


@contextmanager
def _explained(form: Format) -> Iterator[None]:
    """Raises VerificationError if the runtime of a format refuses a file or fails on it."""
    try:
        yield
    except Exception as error:  # each runtime has its own classes
        raise VerificationError(
            f"Expected a file that {form.runtime} runs. Received its error, by a mistake of the "
            f"converter: {first_line(error).rstrip('.')}. Replace the layers that it names, or "
            "take another format."
        ) from error


def _runner(form: Format, files: Files, path: Path) -> Runner | None:
    """Returns the function that runs a file, or None if the runtime is not installed."""
    if form.runtime is None or importlib.util.find_spec(form.runtime) is None:
        return None
    explained = _explained(form)
    return explained(explained(files.load)(path))


def _compared(network: Network, images: Any) -> tuple[Arrays, Any, str]:
    """Returns the inputs of the file by name, those of the source, and what they are."""
    names = [info.name for info in network.inputs]
    if network.config is not None and network.file is not None:
        given = None if images is None else calibration_images(images, network.file)
        compared = compared_images(network.source, network.config, network.file, given)
        values = compared.file.astype(network.inputs[0].dtype)
        return {names[0]: values}, compared.model, compared.text
    if images is not None:
        raise InputValueError(
            "`images` need a model with one image input. Received: "
            f"{network.source.name!r} with {len(names)} inputs. Leave the images out."
        )
    noise = random_input(network.source, COMPARED_IMAGES)
    return dict(zip(names, keras.tree.flatten(noise), strict=True)), noise, "noise"


def _classify(network: Network, run: Runner | None) -> tuple[tuple[str, float], ...] | None:
    """Classifies the example image with the file, or with Keras if no runtime is installed.

    Returns:
        (label, score) of the best classes; None if the model does not classify RGB images.
    """
    file, config = network.file, network.config
    classifier = len(network.outputs) == 1 and len(network.outputs[0].shape) == 2
    if file is None or config is None or not (file.is_rgb and classifier):
        return None
    image = example_image(file.image_size)
    if run is None:
        outputs = network.source.predict_on_batch(config.normalize(image)[None])
        (scores,) = keras.tree.flatten(outputs)
    else:
        (source,), (target,) = network.inputs, network.outputs
        scores = run({source.name: file.normalize(image)[None].astype(source.dtype)})[target.name]
    return top_labels(np.asarray(scores)[0], network.labels)
