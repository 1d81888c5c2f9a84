"""`export_tflite`: from a Keras model to a TFLite file that has been compared with it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_mobileone import flatbuffer
from keras_mobileone.complexity import Complexity, complexity
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.fusing import fuse, has_blocks, in_float32
from keras_mobileone.graph import require_graph
from keras_mobileone.imagenet import MEAN, STD, preprocess_input
from keras_mobileone.images import list_images, load_crops, spread
from keras_mobileone.litert import NORMALIZED_INPUT, PIXEL_INPUT, LiteRTRunner

PRECISIONS = ("float32", "float16", "int8-dynamic", "int8")
INTEGER_TYPES = ("float32", "int8", "uint8")
COMPARED_IMAGES = 8
CALIBRATION_IMAGES = 200  # of a directory, spread evenly over it


@dataclass(frozen=True)
class ExportReport:
    """What `export_tflite` wrote, and how close it is to its source.

    Attributes:
        path: The file.
        precision: One of `PRECISIONS`.
        bytes: Its size.
        inputs, outputs: Shape, type and quantization of each.
        operators: How often each TFLite operator occurs.
        error: Largest difference from Keras' output over the largest magnitude of that output, on
            `compared` images; the worst of all outputs.
        compared: "calibration images" or "random input": what `error` was measured on.
        train: Parameters and multiply-accumulates of the model given, if it had to be fused.
        deploy: Those of the fused model, which is what the file holds.
    """

    path: Path
    precision: str
    bytes: int
    inputs: list[flatbuffer.TensorInfo]
    outputs: list[flatbuffer.TensorInfo]
    operators: dict[str, int]
    error: float
    compared: str
    train: Complexity | None
    deploy: Complexity


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration=None,
    *,
    normalize: bool = False,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
) -> ExportReport:
    """Writes `model` as a TFLite file with a fixed batch of 1.

    Args:
        model: Functional or Sequential model with one image input of fixed size. MobileOne blocks
            are fused first; `model` itself stays untouched.
        path: File to write, ending in `.tflite`. It appears whole or not at all.
        precision: `"float32"`; `"float16"` weights; `"int8-dynamic"`, int8 weights with activations
            quantized on the fly; `"int8"`, integers throughout.
        calibration: For `"int8"`, images that set the ranges of the activations: a directory,
            an array (count, height, width, 3), or an iterable of such batches. Arrays are in the
            units that the file will take: normalized, or 0 … 255 with `normalize`.
        normalize: Put ImageNet's normalization into the graph: the file takes RGB pixels 0 … 255,
            under the input name `"pixels"` instead of `"image"`.
        input_dtype: For `"int8"`: `"float32"`, `"int8"` or `"uint8"` at the file's input.
        output_dtype: The same at its output.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: For arguments out of range or contradicting each other, a missing calibration,
            an image size left open.
        TypeError: If `model` is not Functional or Sequential.
        OSError: If `path` can't be written.

    Example:

    >>> model = keras_mobileone.MobileOneS0(weights=None)
    >>> keras_mobileone.export_tflite(model, "mobileone_s0.tflite").bytes < 8.4e6
    True
    """
    path = Path(path)
    _check_arguments(path, precision, calibration, input_dtype, output_dtype)
    _check_input(model)
    unfused = has_blocks(model)
    deploy = in_float32(fuse(model) if unfused else model)
    size = deploy.input_shape[1:3]
    if calibration is None:
        batches, images, compared = None, _random_images(size, normalize), "random input"
    else:
        batches = list(calibration_batches(calibration, size, normalize))
        images, compared = np.concatenate(batches)[:COMPARED_IMAGES], "calibration images"
    content = convert(deploy, precision, batches, normalize, input_dtype, output_dtype)
    inputs, outputs = flatbuffer.inputs_and_outputs(content)
    report = ExportReport(
        path=path,
        precision=precision,
        bytes=len(content),
        inputs=inputs,
        outputs=outputs,
        operators=flatbuffer.operator_counts(content),
        error=_error(deploy, content, images, normalize),
        compared=compared,
        train=complexity(model) if unfused else None,
        deploy=complexity(deploy),
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return report


def _check_arguments(path, precision, calibration, input_dtype, output_dtype):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "TFLite export needs Keras' TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {precision!r}."
        )
    if precision == "int8" and calibration is None:
        raise ValueError(
            "`calibration` is required for precision 'int8'. Received: calibration=None. "
            "Pass a directory of images, an array or an iterable of batches."
        )
    for argument, value in (("input_dtype", input_dtype), ("output_dtype", output_dtype)):
        if value not in INTEGER_TYPES:
            raise ValueError(
                f"`{argument}` must be one of {', '.join(INTEGER_TYPES)}. Received: {value!r}."
            )
        if value != "float32" and precision != "int8":
            raise ValueError(
                f"`{argument}` can be an integer only with precision 'int8'. "
                f"Received: {argument}={value!r} with precision={precision!r}."
            )
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: {path}.")
    require_writable(path)


def _check_input(model):
    require_graph(model)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Expected a model with one image input of fixed size, since phones' accelerators "
            f"refuse open ones. Received: {model.name!r} with input shape {shape}. "
            "Build it with input_shape=(height, width, channels)."
        )


def calibration_batches(source, size: tuple[int, int], normalize: bool) -> Iterator[np.ndarray]:
    """float32 batches of calibration images, in the units of the file's input.

    Args:
        source: As `export_tflite`'s `calibration`.
        size: (height, width) of the model's input.
        normalize: Whether the file takes pixels 0 … 255 instead of normalized values.

    Raises:
        ValueError: If there is no image, or one of another shape.
    """
    if isinstance(source, (str, os.PathLike)):
        paths = spread(list_images(source), CALIBRATION_IMAGES)
        for crop in load_crops(paths, size, crop_fraction=0.875):
            yield (crop.astype(np.float32) if normalize else preprocess_input(crop))[None]
        return
    batches = [source] if hasattr(source, "shape") else source
    if not isinstance(batches, Iterable):
        raise ValueError(
            "`calibration` must be a directory, an array or an iterable of batches. "
            f"Received: {type(source).__name__}."
        )
    empty = True
    for batch in batches:
        batch = np.asarray(batch, np.float32)
        if batch.ndim != 4 or batch.shape[1:3] != tuple(size):
            raise ValueError(
                f"Calibration batches must have shape (count, {size[0]}, {size[1]}, channels). "
                f"Received: {batch.shape}."
            )
        if len(batch):
            empty = False
            yield batch
    if empty:
        raise ValueError("`calibration` must hold at least one image. Received: none.")


def convert(
    model: keras.Model,
    precision: str,
    batches: list[np.ndarray] | None,
    normalize: bool,
    input_dtype: str,
    output_dtype: str,
) -> bytes:
    """The content of the TFLite file that TensorFlow's converter makes of a fused `model`.

    The arguments are `export_tflite`'s, with the calibration as a list of batches.
    """
    import tensorflow as tf

    scale, offset = 1 / (255 * np.array(STD)), -np.array(MEAN) / STD

    input_name = PIXEL_INPUT if normalize else NORMALIZED_INPUT

    def serve(**inputs):
        image = inputs[input_name]
        if normalize:
            image = image * scale.astype(np.float32) + offset.astype(np.float32)
        outputs = keras.tree.flatten(model(image, training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    # The converter folds variables into the file if it finds them as tf.Variables on the object
    # it is given. Keras 3's own tracking hides them: they would stay resources, read at run time.
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    module.serve = tf.function(serve)
    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name=input_name)
    function = module.serve.get_concrete_function(**{input_name: spec})
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: (
            [image[None]] for batch in batches for image in batch
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.dtypes.as_dtype(input_dtype)
        converter.inference_output_type = tf.dtypes.as_dtype(output_dtype)
    return converter.convert()


def _random_images(size, normalize) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (COMPARED_IMAGES, *size, 3), np.uint8)
    return pixels.astype(np.float32) if normalize else preprocess_input(pixels)


def _error(model, content, images, normalize) -> float:
    """Largest difference between the file's outputs and Keras', relative to their magnitude."""
    run = LiteRTRunner(content)
    outputs = [run(image[None]) for image in images]
    reference = model.predict_on_batch(preprocess_input(images) if normalize else images)
    worst = 0.0
    for name, expected in zip(model.output_names, keras.tree.flatten(reference), strict=True):
        found = np.concatenate([output[name] for output in outputs])
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst
