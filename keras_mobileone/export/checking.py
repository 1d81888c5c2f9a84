"""Which models can be exported, and how far the outputs of a file may differ from Keras."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import example_image
from keras_mobileone.errors import InputValueError, VerificationError
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.models.attachment import copy_attachment
from keras_mobileone.models.graph import as_functional, output_names

COMPARED_IMAGES = 8
# Limits of the largest difference from Keras, divided by the largest magnitude of an output. Beyond
# its limit an export has failed: an output is missing, or the images are normalized twice. Networks
# that are hardly trained, whose logits are small, come near 1 in int8, so the limit is above that.
ERROR_LIMITS = {
    "float32": 1e-3,
    "float16": 5e-2,
    "int8-dynamic": 1.25,
    "int8": 1.25,
    "int16x8": 1.25,
}
# Signal-to-quantization-noise ratio in dB below which an output carries hardly more information
# than zeros would, as when the step of a quantized tensor exceeds its values.
LOWEST_SQNR = 0.5
TINY = np.finfo(np.float32).tiny


class Deviation(NamedTuple):
    """How far the outputs of a file are from those of its source.

    Attributes:
        error: Largest difference of any output, divided by the largest magnitude of that output.
            For outputs of integers, such as class maps: the share of values that differ.
        sqnr: Lowest signal-to-quantization-noise ratio of an output, in dB. Integers are compared
            as one-hot vectors, since 3 is no better than 7 where the class is 2.
    """

    error: float
    sqnr: float


def exportable(model: keras.Model) -> keras.Model:
    """Returns a model of any kind as a Functional one, with what is attached to it.

    Raises:
        ValueError: If an output has no batch, such as a mean over all images.
        TypeError: If `model` is not a Keras model, or is subclassed and has no graph.
    """
    functional = copy_attachment(model, as_functional(model))
    open_batch = all(tensor.shape[0] is None for tensor in functional.inputs)
    for name, output in zip(output_names(functional), functional.outputs, strict=True):
        if not output.shape or (open_batch and output.shape[0] is not None):
            raise InputValueError(
                "Expected outputs whose first axis is the batch. Received: the output "
                f"{name!r} of shape {tuple(output.shape)}. Keep the batch, for example with "
                "`axis=(1, 2)` for a mean over the positions of an image."
            )
    return functional


def deviation_of(
    expected: dict[str, np.ndarray], found: Sequence[dict[str, np.ndarray]]
) -> Deviation:
    """Compares the outputs of a file with those of its source.

    Args:
        expected: Outputs of the source for a batch of inputs, by the names of the file's outputs.
        found: Outputs of the file for each input of the batch, as a batch of 1, by name.

    Raises:
        ArithmeticError: If an output of the file has another shape.
    """
    errors, ratios = [], []
    for name, reference in expected.items():
        values = np.concatenate([outputs[name] for outputs in found])
        if values.shape != reference.shape:
            raise VerificationError(
                f"Expected the output {name!r} of the file with the shape "
                f"{(1, *reference.shape[1:])}. Received: {(1, *values.shape[1:])}, by a mistake of "
                "the converter. Replace the layers in front of the output, or take another format."
            )
        if reference.dtype.kind in "biu":
            different = float((values != reference).mean())
            errors.append(different)
            ratios.append(-10 * np.log10(2 * different) if different else np.inf)
            continue
        largest = max(np.abs(reference).max(), TINY)
        errors.append(float(np.abs(values - reference).max() / largest))
        ratios.append(sqnr(reference, values))
    return Deviation(float(np.max(errors)), min(ratios))  # np.max keeps NaN


def check_deviation(deviation: Deviation, precision: str, name: str, compared: str) -> None:
    """Raises ArithmeticError if the error exceeds its limit or is NaN, or if noise prevails."""
    limit = ERROR_LIMITS[precision]
    remedy = f"on {compared}. No file was written. Pass verify=False to write it anyway."
    if not deviation.error <= limit:
        raise VerificationError(
            f"Expected outputs of the file within {limit:g} of those of {name!r}, relative to "
            f"their largest magnitude. Received: {deviation.error:.2g} {remedy}"
        )
    if deviation.sqnr < LOWEST_SQNR:
        raise VerificationError(
            f"Expected outputs of the file that follow those of {name!r}. Received: mostly noise, "
            f"a signal-to-noise ratio of {deviation.sqnr:.1f} dB, {remedy}"
        )


class ComparedImages(NamedTuple):
    """Images on which a file is compared with its source.

    Attributes:
        file: What the file takes, (count, height, width, channels).
        model: What the model takes for the same images.
        text: The kind of images.
    """

    file: np.ndarray
    model: np.ndarray
    text: str


def compared_images(
    model: Any, config: ImageConfig, file: ImageConfig, given: np.ndarray | None
) -> ComparedImages:
    """Prepares images separately for a model and for its file.

    They are prepared for the model according to its configuration, and for the file as a client
    would that knows only its metadata. A mistake in one of the two causes a large error.

    Args:
        model: The exported model.
        config: How the model takes images.
        file: How the file takes images, according to its metadata.
        given: Images in the units of the file. None: a photograph and noise.
    """
    if given is not None:
        wraps = file.takes_pixels and not config.takes_pixels
        return ComparedImages(
            given, config.normalize(given) if wraps else given, f"{len(given)} images"
        )
    if config.is_rgb:
        pixels = np.concatenate([example_image(config.image_size)[None], random_images(model)])
        return ComparedImages(
            file.normalize(pixels), config.normalize(pixels), "a photograph and noise"
        )
    noise = random_images(model).astype(np.float32)
    return ComparedImages(noise, noise, "noise")


def random_images(model: Any) -> np.ndarray:
    """Returns random pixels for a model of RGB images, otherwise standard normal values."""
    rng = np.random.default_rng(0)
    shape = (COMPARED_IMAGES - 1, *model.input_shape[1:])
    return rng.integers(0, 256, shape, np.uint8) if shape[3] == 3 else rng.standard_normal(shape)
