"""Running a TFLite file with ai-edge-litert in real numbers, whatever its types."""

import numpy as np

from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.litert.flatbuffer import TensorInfo, inputs_and_outputs

# Exported files tell by the name of their input what it takes: normalized values, or pixels.
NORMALIZED_INPUT = "image"
PIXEL_INPUT = "pixels"


class LiteRTRunner:
    """A TFLite file's content, ready to run.

    Args:
        content: Of a file with one input.
        threads: Of the CPU.

    Attributes:
        inputs, outputs: Name, shape, type and quantization of each.

    Raises:
        ValueError: If the runtime can't prepare the file.
    """

    def __init__(self, content: bytes, threads: int = 1):
        from ai_edge_litert.interpreter import Interpreter

        self.inputs, self.outputs = inputs_and_outputs(content)
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputValueError(f"LiteRT can't run the file: {first_line(error)}") from error
        self._input_index = self._interpreter.get_input_details()[0]["index"]
        self._output_indices = [d["index"] for d in self._interpreter.get_output_details()]

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs for one input of the file's shape, as float32 values under their names.

        Args:
            batch: Real values; they are quantized as the file's input says.
        """
        self._interpreter.set_tensor(self._input_index, to_stored(batch, self.inputs[0]))
        self._interpreter.invoke()
        stored = (self._interpreter.get_tensor(index) for index in self._output_indices)
        return {
            info.name: to_real(values, info)
            for values, info in zip(stored, self.outputs, strict=True)
        }


def to_real(stored: np.ndarray, info: TensorInfo) -> np.ndarray:
    """float32 values that a quantized tensor stands for; floating point is passed through."""
    if info.scale is None:
        return stored.astype(np.float32)
    return (stored.astype(np.float32) - info.zero_point) * np.float32(info.scale)


def to_stored(real: np.ndarray, info: TensorInfo) -> np.ndarray:
    """The inverse of `to_real`, rounded and clipped to the tensor's type."""
    if info.scale is None:
        return real.astype(info.dtype)
    limits = np.iinfo(info.dtype)
    return np.clip(np.rint(real / info.scale) + info.zero_point, limits.min, limits.max).astype(
        info.dtype
    )
