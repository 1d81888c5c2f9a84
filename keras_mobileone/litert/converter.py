"""TensorFlow's converter: from a fused Keras model to the content of a TFLite file."""

import keras
import numpy as np

from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.litert.runner import NORMALIZED_INPUT, PIXEL_INPUT

PRECISIONS = ("float32", "float16", "int8-dynamic", "int8", "int16x8")
INTEGER = ("int8", "int16x8")  # the precisions that need calibration images


def convert(
    model: keras.Model,
    precision: str,
    images: np.ndarray | None = None,
    normalize: ImageConfig | None = None,
    input_dtype: str = "float32",
    output_dtype: str = "float32",
    output_names: list[str] | None = None,
) -> bytes:
    """The content of the TFLite file that TensorFlow's converter makes of a fused `model`.

    Args:
        model, precision, input_dtype, output_dtype: As in `export_tflite`.
        normalize: The normalization that the file does before the model, or None.
        images: Calibration images for the integer precisions, in the file's units.
        output_names: Names of the file's outputs, the model's own by default.
    """
    import tensorflow as tf

    input_name = PIXEL_INPUT if normalize else NORMALIZED_INPUT

    def serve(**inputs):
        image = inputs[input_name]
        if normalize:
            image = normalized(image, normalize)
        outputs = keras.tree.flatten(model(image, training=False))
        return dict(zip(output_names or model.output_names, outputs, strict=True))

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
    if precision in INTEGER:
        kinds = tf.lite.OpsSet
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [
            kinds.TFLITE_BUILTINS_INT8
            if precision == "int8"
            else kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.inference_input_type = tf.dtypes.as_dtype(input_dtype)
        converter.inference_output_type = tf.dtypes.as_dtype(output_dtype)
    return converter.convert()


def normalized(pixels, config: ImageConfig):
    """The normalization of a configuration, of a TensorFlow tensor, as a 1×1 convolution.

    It costs a file one operator, and int8 one rounding; multiplying and adding would cost two.
    """
    import tensorflow as tf

    kernel = np.diag(1 / np.array(config.std))[None, None].astype(np.float32)
    offset = (-np.array(config.mean) / config.std).astype(np.float32)
    return tf.nn.bias_add(tf.nn.conv2d(pixels, kernel, 1, "VALID"), offset)
