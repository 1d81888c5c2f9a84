"""Lets an int8 file take pixels without rounding them, and at little cost.

If a file normalizes its pixels, the normalized values are a tensor with one int8 scale. Since the
means and standard deviations of the channels differ, most of these values lie between the steps of
that scale. Centered pixels, x − 128, are whole numbers from −128 to 127 in all channels, which int8
holds exactly, and the kernels of the first convolutions can absorb the standard deviations. They
can't absorb the means, since these are missing in the zeros that pad an image. The tensor therefore
gets one more channel, a constant inside the image and 0 in the padding, whose weights add the
means.

An operator on a whole image of three channels is slow: runtimes compute channels in groups of 8 to
64. If all first convolutions have stride 2, the tensor therefore holds blocks of 2×2 pixels as 13
channels, with a quarter of the positions, and the convolutions have stride 1 on it.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.models.graph import call_copy, replay
from keras_mobileone.quantization.trace import Call, Trace, trace

CENTERED_PIXELS = "centered_pixels"  # name of the layer that makes the tensor
CENTERED_RANGE = (-128.0, 127.0)
CENTER = 128  # the pixel that becomes 0
CONSTANT = 127  # value of the last channel inside the image


@dataclass(frozen=True)
class _Axis:
    """How a convolution of stride 2 and the padding before it move along one axis of the image.

    Attributes:
        kernel: Size of the kernel in pixels.
        before: Padding before the first pixel.
        blocks: Number of blocks in the image.
        positions: Number of positions in the output.
    """

    kernel: int
    before: int
    blocks: int
    positions: int

    @property
    def first(self) -> int:
        """Index of the first block under the kernel in the first position, at most 0."""
        return -self.before // 2

    @property
    def offset(self) -> int:
        """Pixels between the beginning of the first block and the kernel."""
        return -self.before - 2 * self.first

    @property
    def size(self) -> int:
        """Size of the kernel in blocks."""
        return -(-(self.offset + self.kernel) // 2)

    @property
    def after(self) -> int:
        """Padding behind the last block."""
        return self.positions - 1 + self.size + self.first - self.blocks


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
    first = _first_convolutions(traced)
    if not first or config.mean is None or config.std is None:
        return None
    mean, std = np.array(config.mean), np.array(config.std)
    pixels = keras.Input(batch_shape=traced.model.inputs[0].shape)
    axes = {id(call.layer): _axes(call, path, pixels.shape) for call, path in first}
    passed = {id(c.layer): traced.times_called(c.layer) for _, path in first for c in path}
    step = 2 if all(axes.values()) and max(passed.values(), default=1) == 1 else 1
    image = _centered_pixels(step)(pixels)
    copies: dict[int, keras.Layer] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if step > 1 and id(layer) in passed:  # convolutions on blocks have their own padding
            return args[0]
        if id(layer) not in axes:
            return call_copy(copies, layer, args, kwargs)
        kernel, *bias = layer.get_weights()
        means = ((CENTER - mean) / std) @ kernel / CONSTANT
        kernel, inputs = kernel / std[:, None], args[0]
        changes: dict[str, Any] = {}
        both = axes[id(layer)]
        if step > 1 and both is not None:
            kernel, means = _blocks(kernel, both), _blocks(means[:, :, None], both)
            means = means.reshape(*means.shape[:2], step**2, -1).sum(2)
            changes = {"kernel_size": kernel.shape[:2], "strides": 1, "padding": "valid"}
            padding = [(-axis.first, axis.after) for axis in both]
            inputs = layers.ZeroPadding2D(padding, name=f"{layer.name}_padding")(inputs)
        copy = type(layer).from_config(layer.get_config() | changes)
        output = copy(inputs)
        copy.set_weights([np.concatenate([kernel, means[:, :, None]], axis=2), *bias])
        return output

    return keras.Model(pixels, replay(traced.model, call, image), name=model.name)


def _centered_pixels(step: int) -> keras.Layer:
    """Returns a convolution of pixels to centered blocks of step × step pixels and a constant."""
    values = 3 * step**2
    weights = np.eye(values, values + 1).reshape(step, step, 3, values + 1)
    layer = layers.Conv2D(values + 1, step, step, name=CENTERED_PIXELS)
    layer.build((None, None, None, 3))
    layer.set_weights([weights, np.array([-CENTER] * values + [CONSTANT])])
    return layer


def _blocks(kernel: np.ndarray, both: tuple[_Axis, _Axis]) -> np.ndarray:
    """Returns a kernel (height, width, in, out) as one over blocks of 2×2 pixels (…, 4·in, out)."""
    padding = [(a.offset, 2 * a.size - a.offset - a.kernel) for a in both]
    padded = np.pad(kernel, [*padding, (0, 0), (0, 0)])
    rows, columns = (a.size for a in both)
    blocks = padded.reshape(rows, 2, columns, 2, *kernel.shape[2:]).swapaxes(1, 2)
    return blocks.reshape(rows, columns, -1, kernel.shape[-1])


def _axes(
    call: Call, path: list[Call], shape: tuple[int | None, ...]
) -> tuple[_Axis, _Axis] | None:
    """Returns both axes of a convolution of an image, or None if it can't take blocks of pixels."""
    layer, found = call.layer, []
    if tuple(layer.strides) != (2, 2) or tuple(layer.dilation_rate) != (1, 1):
        return None
    for axis in (0, 1):
        pixels, positions = shape[axis + 1], call.output.shape[axis + 1]
        if pixels is None or pixels % 2:
            return None
        paddings = [
            c.layer.padding[axis] for c in path if isinstance(c.layer, layers.ZeroPadding2D)
        ]
        before, padded = sum(p[0] for p in paddings), pixels + sum(map(sum, paddings))
        if layer.padding == "same":
            before += max(0, 2 * (positions - 1) + layer.kernel_size[axis] - padded) // 2
        found.append(_Axis(layer.kernel_size[axis], before, pixels // 2, positions))
        if found[-1].after < 0:
            return None
    return found[0], found[1]


def _first_convolutions(traced: Trace) -> list[tuple[Call, list[Call]]]:
    """Returns the convolutions of the input, each with the calls that pass the input to it.

    The list is empty if something else takes the input, too.
    """
    found: list[tuple[Call, list[Call]]] = []
    reached: list[tuple[Any, list[Call]]] = [(traced.model.inputs[0], [])]
    for tensor, path in reached:
        if any(tensor is output for output in traced.model.outputs):
            return []
        for call in traced.consumers(tensor):
            if isinstance(call.layer, (layers.ZeroPadding2D, layers.Identity, layers.Dropout)):
                reached.append((call.output, [*path, call]))
            elif (
                type(call.layer) is layers.Conv2D
                and call.layer.groups == 1
                and call.layer.data_format == "channels_last"
                and traced.times_called(call.layer) == 1
            ):
                found.append((call, path))
            else:
                return []
    return found
