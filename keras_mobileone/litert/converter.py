"""Converts fused Keras models to TFLite files with TensorFlow's converter."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_mobileone.choices import INTEGER
from keras_mobileone.compat import convertible_operations
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.errors import InputValueError, explained_conversion
from keras_mobileone.litert.runner import NORMALIZED_INPUT, PIXEL_INPUT

# What the converter says of operations that TFLite has not, or not in 16 bits.
UNKNOWN = r"(?:'tf\.(?=\w+' op is neither)|16x8-bit not yet supported for op: ')(\w+)'"
Tensor = Any  # a tensor or variable of TensorFlow, which is imported late


def convert(
    model: keras.Model,
    precision: str = "float32",
    images: np.ndarray | None = None,
    normalize: ImageConfig | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    output_names: list[str] | None = None,
    input_name: str | None = None,
) -> bytes:
    """Converts a fused `model` to the content of a TFLite file.

    Args:
        model: Fused model with one image input of fixed size.
        precision, input_dtype, output_dtype: As in `export_tflite`.
        images: Calibration images for the integer precisions, in the units that the file takes.
        normalize: Configuration whose normalization the file performs before the model, or None.
        output_names: Names of the outputs of the file. None: those of the model.
        input_name: Name of the input of the file. None: the name for pixels if the file normalizes
            them, and otherwise the name for normalized images.

    Returns:
        The content of the file.
    """
    default = PIXEL_INPUT if normalize else NORMALIZED_INPUT

    def serve(image: Tensor) -> dict[str, Tensor]:
        outputs = keras.tree.flatten(
            model(normalized(image, normalize) if normalize else image, training=False)
        )
        return dict(zip(output_names or model.output_names, outputs, strict=True))

    return convert_function(
        serve,
        (input_name or default, model.input_shape[1:]),
        [variable.value for variable in model.variables],
        precision,
        images,
        input_dtype=input_dtype,
        output_dtype=output_dtype,
    )


def convert_function(
    serve: Callable[[Tensor], dict[str, Tensor]],
    source: tuple[str, Sequence[int]],
    variables: Sequence[Tensor],
    precision: str,
    images: np.ndarray | None = None,
    *,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
) -> bytes:
    """Converts a function of one image batch to the content of a TFLite file.

    Args:
        serve: Function that takes a float32 tensor (1, height, width, channels) and returns the
            outputs by name.
        source: Name of the input, and its shape without the batch.
        variables: The `tf.Variable`s that `serve` reads.
        precision, input_dtype, output_dtype: As in `export_tflite`.
        images: Calibration images for the integer precisions, in the units that the file takes, or
            None if `serve` contains the ranges as fake quantization.

    Returns:
        The content of the file.

    Raises:
        ValueError: If `serve` has operations that TFLite does not have.
    """
    import tensorflow as tf

    # The converter folds variables into the file only if they are attributes of the module as
    # tf.Variables. Keras 3 tracks them elsewhere, so they would remain resources that are read at
    # run time.
    module = tf.Module()
    module.variables_of_model = list(variables)
    input_name, shape = source
    module.serve = tf.function(lambda **inputs: serve(inputs[input_name]))
    spec = tf.TensorSpec((1, *shape), tf.float32, name=input_name)
    with convertible_operations():
        function = module.serve.get_concrete_function(**{input_name: spec})
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision in INTEGER:
        converter.inference_input_type = tf.dtypes.as_dtype(input_dtype)
        converter.inference_output_type = tf.dtypes.as_dtype(output_dtype)
        if images is not None:
            kinds = tf.lite.OpsSet
            converter.representative_dataset = lambda: ([image[None]] for image in images)
            converter.target_spec.supported_ops = [
                kinds.TFLITE_BUILTINS_INT8
                if precision == "int8"
                else kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
    with explained_conversion(f"TFLite in {precision}", UNKNOWN):
        return converter.convert()


def normalized(pixels: Tensor, config: ImageConfig) -> Tensor:
    """Applies the normalization of a configuration to a TensorFlow tensor as a 1×1 convolution.

    A convolution adds one operator to the file and one rounding to int8. A multiplication and an
    addition would add two of each.
    """
    if config.mean is None or config.std is None:
        raise InputValueError(
            "Expected a configuration of RGB images. Received: one without mean and standard "
            "deviation. Leave out the normalization."
        )
    import tensorflow as tf

    kernel = np.diag(1 / np.array(config.std))[None, None].astype(np.float32)
    offset = (-np.array(config.mean) / config.std).astype(np.float32)
    return tf.nn.bias_add(tf.nn.conv2d(pixels, kernel, 1, "VALID"), offset)
