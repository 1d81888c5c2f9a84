"""`quantize`: from a fused Keras model to the content of an accurate int8 file."""

import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import keras

from keras_mobileone.data.imagenet import PIXEL_RANGE, preprocess_input
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write
from keras_mobileone.litert.converter import convert
from keras_mobileone.models.fusing import has_blocks
from keras_mobileone.models.graph import in_float32
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.equalization import equalize
from keras_mobileone.quantization.layerwise_correction import Steps, TensorReport, calibrate
from keras_mobileone.quantization.scaling_groups import Blocked
from keras_mobileone.reports import Report

# The converter needs some images to make the graph; the ranges are set anew afterwards.
CONVERTER_IMAGES = 8
SHOWN_LAYERS = 5
POOR_SQNR = 3.0  # dB: below it a layer's output is mostly noise
ALL_STEPS = Steps()
PLAIN = Steps(ranges=False, rounding="nearest", biases=False)


@dataclass(frozen=True)
class QuantizationReport(Report):
    """What `quantize` made, and what it did layer by layer.

    Attributes:
        content: Content of the `.tflite` file, for `Path.write_bytes`. Left out of `to_dict` and
            of `repr`.
        tensors: Range and SQNR of each tensor on the calibration images, in order.
        before: The same for the converter's plain int8; empty unless asked for.
        rescaled: The convolutions whose channels were equalized.
        blocked: The convolutions that were not equalized, and why.
        change: How far equalization moved the float outputs, relative to their largest magnitude.
        images: Number of calibration images.
        seconds: Time of each step.
    """

    content: bytes = field(repr=False)
    tensors: list[TensorReport]
    before: list[TensorReport]
    rescaled: list[str]
    blocked: list[Blocked]
    change: float
    images: int
    seconds: dict[str, float]

    def worst(self, count: int = SHOWN_LAYERS) -> list[TensorReport]:
        """The `count` tensors that follow the float model worst."""
        return sorted(self.tensors, key=lambda tensor: tensor.sqnr)[:count]

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the SQNR of each layer as a PNG. Needs matplotlib (extra `plot`)."""
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
    calibration,
    *,
    normalize: bool = False,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    equalization: bool = True,
    steps: Steps = ALL_STEPS,
    before: bool = False,
) -> QuantizationReport:
    """Post-training quantization to full-integer int8 at no cost when the file runs.

    Equalizes the channels of the float model, lets TensorFlow's converter make the int8 graph, and
    sets its ranges, weights and biases layer by layer beside the float model.

    Args:
        model: Fused Functional model with one image input of fixed size. It stays untouched.
        calibration: Directory, array or iterable of batches, see `export_tflite`.
        normalize, input_dtype, output_dtype: As in `export_tflite`.
        equalization: Whether to equalize.
        steps: Which of the later steps to take.
        before: Report the layers of the converter's plain int8 too (takes as long again).

    Returns:
        A `QuantizationReport`, whose `content` is the content of the `.tflite` file. The same
        arguments give the same bytes.

    Raises:
        ValueError: If the model is not fused, the calibration images look wrong, or an operator
            is not known.
        ArithmeticError: If equalization moves the float outputs.

    A layer whose output is mostly noise (below 3 dB) is named in a warning.
    """
    if has_blocks(model):
        raise InputValueError(
            f"Expected a fused model. Received: {model.name!r}, which has MobileOne blocks. "
            "Call keras_mobileone.fuse(model) first."
        )
    model = in_float32(model)
    images = calibration_images(calibration, model, normalize)
    ends = {"normalize": normalize, "output_names": model.output_names}
    types = {"input_dtype": input_dtype, "output_dtype": output_dtype}
    seconds, start = {}, time.perf_counter()

    def lap(step):
        nonlocal start
        now = time.perf_counter()
        seconds[step], start = round(now - start, 1), now

    def corrected(source, steps, converter_images):
        plain = convert(source, "int8", converter_images, **types, **ends)
        floats = convert(source, "float32", **ends)
        return calibrate(plain, floats, images, steps, PIXEL_RANGE if normalize else None)

    earlier = corrected(model, PLAIN, images)[1] if before else []
    lap("reporting on the plain int8")
    equalized, rescaled, blocked, change = model, [], [], 0.0
    if equalization:
        result = equalize(model, preprocess_input(images) if normalize else images)
        equalized, blocked, change = result.model, result.blocked, result.change
        rescaled = list(result.factors)
    lap("equalizing")
    content, tensors = corrected(equalized, steps, images[:CONVERTER_IMAGES])
    lap("converting and correcting")
    report = QuantizationReport(
        content, tensors, earlier, rescaled, blocked, change, len(images), seconds
    )
    poor = [tensor for tensor in report.worst() if tensor.sqnr < POOR_SQNR]
    if poor:
        names = ", ".join(f"{tensor.name} ({tensor.sqnr:.1f} dB)" for tensor in poor)
        warnings.warn(f"In int8 these layers are mostly noise: {names}.", stacklevel=2)
    return report
