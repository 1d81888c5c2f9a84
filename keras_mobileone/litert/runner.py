"""Runs TFLite files with ai-edge-litert, with real values for inputs and outputs of any type."""

import numpy as np

from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.litert.flatbuffer import TensorInfo, inputs_and_outputs

# Names of the input of exported files: one for normalized values, one for pixels.
NORMALIZED_INPUT = "image"
PIXEL_INPUT = "pixels"


class LiteRTRunner:
    """Runs the content of a TFLite file.

    Args:
        content: Content of a file with one input.
        threads: Number of CPU threads.

    Attributes:
        inputs, outputs: Name, shape, type and quantization of each input and output.

    Raises:
        ValueError: If LiteRT cannot run the file.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
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
        """Runs the file once.

        Args:
            batch: Real values with the shape of the input. They are quantized for an integer input.

        Returns:
            The outputs as float32 real values, by name.
        """
        self._interpreter.set_tensor(self._input_index, to_stored(batch, self.inputs[0]))
        self._interpreter.invoke()
        stored = (self._interpreter.get_tensor(index) for index in self._output_indices)
        return {
            info.name: to_real(values, info)
            for values, info in zip(stored, self.outputs, strict=True)
        }


def to_real(stored: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Dequantizes a tensor to float32. Floating-point values are only cast."""
    if info.scale is None or info.zero_point is None:
        return stored.astype(np.float32)
    return (stored.astype(np.float32) - info.zero_point) * np.float32(info.scale)


def to_stored(real: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Quantizes real values for a tensor: they are rounded and clipped to its type."""
    if info.scale is None or info.zero_point is None:
        return real.astype(info.dtype)
    limits = np.iinfo(info.dtype)
    return np.clip(np.rint(real / info.scale) + info.zero_point, limits.min, limits.max).astype(
        info.dtype
    )
