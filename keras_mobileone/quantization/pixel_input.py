"""Lets an int8 file take pixels without rounding them.

If a file normalizes its pixels, the normalized values are a tensor with one int8 scale. Since the
means and standard deviations of the channels differ, most of these values lie between the steps of
that scale. Centered pixels, x − 128, are whole numbers from −128 to 127 in all channels, which int8
holds exactly, and the kernels of the first convolutions can absorb the standard deviations. They
can't absorb the means, since these are missing in the zeros that pad an image. The tensor therefore
gets a fourth channel, a constant inside the image and 0 in the padding, whose weights add the
means.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.models.graph import call_copy, replay
from keras_mobileone.quantization.trace import Call, Trace, trace

CENTER = 128  # the pixel that becomes 0
CONSTANT = 127  # value of the fourth channel inside the image
PASSING = (layers.ZeroPadding2D, layers.Identity, layers.Dropout)


def taking_pixels(model: keras.Model, config: ImageConfig) -> keras.Model | None:
    """Returns a copy of a model that takes pixels, and is exact up to its first convolutions.

    Args:
        model: Functional model without blocks that takes normalized RGB images.
        config: Mean and standard deviation of its images.

    Returns:
        A model with the same outputs for pixels from 0 to 255. None if the input reaches anything
        but convolutions and padding.
    """
    traced = trace(model)
    first = {id(call.layer) for call in _first_convolutions(traced)}
    if not first or config.mean is None or config.std is None:
        return None
    mean, std = np.array(config.mean), np.array(config.std)
    pixels = keras.Input(batch_shape=traced.model.inputs[0].shape)
    centered = layers.Conv2D(4, 1, name="centered_pixels")
    image = centered(pixels)
    centered.set_weights([np.eye(3, 4)[None, None], np.array([-CENTER] * 3 + [CONSTANT])])
    copies: dict[int, keras.Layer] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in first:
            return call_copy(copies, layer, args, kwargs)
        copy = type(layer).from_config(layer.get_config())
        output = copy(*args, **kwargs)
        kernel, *bias = layer.get_weights()
        means = ((CENTER - mean) / std) @ kernel / CONSTANT
        scaled = kernel / std[:, None]
        copy.set_weights([np.concatenate([scaled, means[:, :, None]], axis=2), *bias])
        return output

    return keras.Model(pixels, replay(traced.model, call, image), name=model.name)


def _first_convolutions(traced: Trace) -> list[Call]:
    """Returns the convolutions of the input, or nothing if something else takes it too."""
    found, tensors = [], [traced.model.inputs[0]]
    for tensor in tensors:
        if any(tensor is output for output in traced.model.outputs):
            return []
        for call in traced.consumers(tensor):
            if isinstance(call.layer, PASSING):
                tensors.append(call.output)
            elif (
                type(call.layer) is layers.Conv2D
                and call.layer.groups == 1
                and call.layer.data_format == "channels_last"
                and traced.times_called(call.layer) == 1
            ):
                found.append(call)
            else:
                return []
    return found
