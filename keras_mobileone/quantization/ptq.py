"""`quantize`: makes an accurate int8 file from a fused Keras model."""

import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mobileone.data.image_config import (
    PIXELS,
    ImageConfig,
    config_of_file,
    image_config,
)
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import PIXEL_INPUT
from keras_mobileone.models.fusing import has_blocks
from keras_mobileone.models.graph import in_float32, output_names
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.int8_graph import Int8Graph, stored_kernel
from keras_mobileone.quantization.layerwise_correction import Steps, TensorReport, calibrate
from keras_mobileone.quantization.pixel_input import taking_pixels
from keras_mobileone.quantization.ranges import unknown_operators
from keras_mobileone.quantization.scaling_groups import Blocked
from keras_mobileone.quantization.simulation import SimulationError
from keras_mobileone.reports import Report

# The converter needs some images to make the graph. All ranges are set afterwards.
CONVERTER_IMAGES = 8
SHOWN_LAYERS = 5
POOR_SQNR = 3.0  # dB; the output of a layer with less is mostly noise
ALL_STEPS = Steps()
PLAIN = Steps(ranges=False, rounding="nearest", biases=False)


@dataclass(frozen=True)
class QuantizationReport(Report):
    """Result of `quantize`: the file, and how accurate each of its tensors is.

    Attributes:
        content: Content of the `.tflite` file, for `Path.write_bytes`. It is left out of `to_dict`
            and of `repr`.
        tensors: Range and SQNR of each tensor on the calibration images, in order.
        before: Range and SQNR of each tensor of the converter's plain int8; empty unless `quantize`
            was called with `before=True`.
        rescaled: Names of the convolutions whose channels were equalized.
        blocked: The convolutions that were not equalized, and the reasons.
        limited: Names of the convolutions in whose outputs rare large values are out of range. The
            float values in `tensors` are limited in the same way.
        left_to_converter: Operators of the file for which `quantize` has no rules. They, and the
            tensors next to them, keep the ranges that TensorFlow's converter chose. The list is
            usually empty. If a file cannot be corrected, it has all operators, and `tensors` is
            empty.
        change: Largest change of the float outputs by equalization, relative to their largest
            magnitude.
        images: Number of calibration images.
        seconds: Duration of each step, by its name.
    """

    content: bytes = field(repr=False)
    tensors: list[TensorReport]
    before: list[TensorReport]
    rescaled: list[str]
    blocked: list[Blocked]
    limited: list[str]
    left_to_converter: list[str]
    change: float
    images: int
    seconds: dict[str, float]

    def worst(self, count: int = SHOWN_LAYERS) -> list[TensorReport]:
        """Returns the `count` tensors with the lowest SQNR, lowest first.

        Args:
            count: Number of tensors.
        """
        return sorted(self.tensors, key=lambda tensor: tensor.sqnr)[:count]

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the SQNR of each layer as a PNG file.

        Args:
            path: File to write. Its suffix is replaced by `.png`.

        Raises:
            ImportError: If matplotlib (extra `plot`) is not installed.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        lines = (self.before, "converter's plain int8"), (self.tensors, "corrected")
        for tensors, label in lines:
            if tensors:
                axes.plot([t.sqnr for t in tensors], marker=".", label=label)
        axes.set_xlabel("layer, in order")
        axes.set_ylabel("SQNR against float, dB")
        axes.set_title(f"Each layer's output on {self.images} calibration images", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend()
        with atomic_write(Path(path).with_suffix(".png")) as temporary:
            figure.savefig(temporary, dpi=160)


def quantize(
    model: keras.Model,
    calibration: Any,
    *,
    normalize: bool | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    equalization: bool = True,
    steps: Steps = ALL_STEPS,
    before: bool = False,
) -> QuantizationReport:
    """Quantizes a fused model to full-integer int8 after training.

    The function equalizes the channels of the float model, lets TensorFlow's converter make the
    int8 graph, and corrects its ranges, weights and biases layer by layer against the float model.
    The file has the same operators as one from the converter alone, and is as fast.

    A warning names the layers whose output is mostly noise (below 3 dB), and the operators that are
    left to the converter.

    Args:
        model: Fused Functional model with one image input of fixed size. It is not changed.
        calibration: Directory, array or iterable of batches, see `export_tflite`.
        normalize: Whether the file takes pixels and normalizes them, see `export_tflite`.
        input_dtype: Type of the file's input: `"float32"`, `"int8"` or `"uint8"`.
        output_dtype: Type of the file's output: `"float32"`, `"int8"` or `"uint8"`.
        equalization: Whether to equalize the channels.
        steps: The steps to take after equalization.
        before: Whether to also report the layers of the converter's plain int8, which doubles the
            time.

    Returns:
        A `QuantizationReport`, whose `content` is the content of the `.tflite` file. The same
        arguments give the same bytes.

    Raises:
        ValueError: If the model is not fused or the calibration images look wrong.
        ArithmeticError: If equalization changes the float outputs.

    Examples:
        ```python
        model = keras_mobileone.MobileOneS0(deploy=True, classifier_activation=None)
        report = keras_mobileone.quantize(model, "photos/")
        Path("mobileone_s0_int8.tflite").write_bytes(report.content)
        print(report.worst(3))
        ```
    """
    if has_blocks(model):
        raise InputValueError(
            f"Expected a fused model. Received: {model.name!r}, which has MobileOne blocks. "
            "Fold them first: keras_mobileone.fuse(model)."
        )
    model = in_float32(model)
    file, wrapped = config_of_file(image_config(model, normalize), normalize)
    return quantize_images(
        model,
        calibration_images(calibration, file),
        wrapped,
        input_dtype=input_dtype,
        output_dtype=output_dtype,
        equalization=equalization,
        steps=steps,
        before=before,
    )


def quantize_images(
    model: keras.Model,
    images: np.ndarray,
    wrapped: ImageConfig | None,
    *,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    equalization: bool = True,
    steps: Steps = ALL_STEPS,
    before: bool = False,
) -> QuantizationReport:
    """Quantizes a model as `quantize` does, with calibration images that are already loaded.

    Args:
        model: Fused Functional model that computes in float32.
        images: Result of `calibration_images`, in the units that the file takes.
        wrapped: Configuration whose normalization the file performs before the model, or None.
        input_dtype, output_dtype, equalization, steps, before: As in `quantize`.

    Returns:
        A `QuantizationReport`.
    """
    ends: dict[str, Any] = {"normalize": wrapped, "output_names": output_names(model)}
    types: dict[str, Any] = {"input_dtype": input_dtype, "output_dtype": output_dtype}
    input_range = PIXELS if wrapped else None
    clock = Clock()
    earlier: list[TensorReport] = []
    if before:
        plain = convert(model, "int8", images, **types, **ends)
        earlier = calibrate(plain, convert(model, **ends), images, PLAIN, input_range)[1]
    clock.lap("reporting on the plain int8")
    equalized, rescaled, blocked, change, ceilings = model, [], [], 0.0, {}
    if equalization:
        result = equalize(
            model,
            wrapped.normalize(images) if wrapped else images,
            limit_outliers=steps.ranges and steps.outliers,
        )
        equalized, blocked, change = result.model, result.blocked, result.change
        rescaled, ceilings = list(result.factors), result.limits
    clock.lap("equalizing")
    on_pixels = taking_pixels(equalized, wrapped) if wrapped and steps.ranges else None
    if on_pixels is not None:
        equalized = on_pixels
        ends |= {"normalize": None, "input_name": PIXEL_INPUT}
    limits = {
        stored_kernel(equalized.get_layer(name)).tobytes(): limit
        for name, limit in ceilings.items()
    }
    floats = convert(equalized, **ends)
    content = convert(equalized, "int8", images[:CONVERTER_IMAGES], **types, **ends)
    left = unknown_operators(Int8Graph(content))
    if left:  # the converter's ranges remain, so they must fit all images
        content = convert(equalized, "int8", images, **types, **ends)
    try:
        content, tensors = calibrate(content, floats, images, steps, input_range, limits)
    except SimulationError:  # without correction, the converter should see all images
        content, tensors = convert(equalized, "int8", images, **types, **ends), []
        left = sorted({kind for kind, _ in Int8Graph(content).operators})
    clock.lap("converting and correcting")
    report = QuantizationReport(
        content=content,
        tensors=tensors,
        before=earlier,
        rescaled=rescaled,
        blocked=blocked,
        limited=list(ceilings) if tensors else [],
        left_to_converter=left,
        change=change,
        images=len(images),
        seconds=clock.seconds,
    )
    _warn(report)
    return report


class Clock:
    """Measures the steps of a task.

    Attributes:
        seconds: Duration of each step in seconds, by its name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, step: str) -> None:
        """Ends the step named `step` and begins the next one."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._start, 1)
        self._start = now


def _warn(report: QuantizationReport) -> None:
    """Warns about operators that are left to the converter, and layers that are mostly noise."""
    if report.left_to_converter:
        warnings.warn(
            "The int8 file keeps the converter's ranges for the operators "
            f"{', '.join(report.left_to_converter)}. Everything else was equalized"
            f"{' and corrected' if report.tensors else ''}.",
            stacklevel=4,
        )
    poor = [tensor for tensor in report.worst() if tensor.sqnr < POOR_SQNR]
    if poor:
        names = ", ".join(f"{tensor.name} ({tensor.sqnr:.1f} dB)" for tensor in poor)
        warnings.warn(f"In int8 these layers are mostly noise: {names}.", stacklevel=4)
