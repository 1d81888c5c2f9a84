"""Published properties of a network that is built here, and their comparison with its counts."""

from dataclasses import dataclass

import keras

from keras_mobileone import model_complexity


@dataclass(frozen=True)
class Published:
    """What the authors of a network publish.

    Attributes:
        pixels: Height and width of the images of the accuracy and of the multiply-accumulates.
        parameters, macs: In millions.
        top1: Top-1 accuracy on ImageNet, in percent.
    """

    pixels: int
    parameters: float
    macs: float
    top1: float


def compare(name: str, model: keras.Model, published: Published) -> str:
    """Returns a line with the counted and the published parameters and multiply-accumulates."""
    found = model_complexity(model, strict=True)
    return (
        f"{name}, {model.input_shape[1]} pixels: {found.macs / 1e6:.1f} M MACs, published "
        f"{published.macs:g} at {published.pixels}; {found.trainable / 1e6:.3f} M parameters, "
        f"published {published.parameters:g}"
    )
