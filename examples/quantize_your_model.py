"""Quantizes a model that is not MobileOne to int8, and compares it with the converter's own int8.

    python examples/quantize_your_model.py --model mine.keras --data photos/
    python examples/quantize_your_model.py --application MobileNetV2

--model takes a Functional classifier of RGB images of a fixed size, trained on what
`preprocess_input` returns; the files normalize pixels themselves. --application builds a network
of Keras Applications with random weights. Without either, the example builds a small network.
Without --data it calibrates and compares on drawn stripes, which shows how the files are made. With
random weights, neither the classes nor the SQNR say anything about a trained network.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_mobileone
from keras_mobileone.data.images import list_images

IMAGES = 32  # with stripes
CALIBRATION_SHARE = 2  # every second photograph calibrates, the others are compared on


def small_network() -> keras.Model:
    """A classifier of ten classes with an ordinary convolution and a separable one."""
    image = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(32, 1)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="small_network")


def load_images(directory: Path | None, size: int) -> np.ndarray:
    """Pixels of shape (count, size, size, 3), uint8."""
    if directory is None:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        stripes = [np.sin(rng.uniform(2, 30) * x + rng.uniform(2, 30) * y) for _ in range(IMAGES)]
        pixels = (0.5 + 0.5 * np.stack(stripes)[..., None]) * rng.uniform(
            50, 255, (IMAGES, 1, 1, 3)
        )
        return pixels.astype(np.uint8)
    photographs = [keras_mobileone.load_image(path) for path in list_images(directory)]
    crops = [keras_mobileone.evaluation_crop(photo, size, 0.875) for photo in photographs]
    return np.stack(crops).astype(np.uint8)


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, help="A .keras file.")
    source.add_argument("--application", help="Name in keras.applications.")
    parser.add_argument("--data", type=Path, help="Directory of photographs.")
    parser.add_argument("--output", type=Path, help="Directory for the files.")
    options = parser.parse_args()
    if options.model:
        model = keras.models.load_model(options.model)
    elif options.application:
        build = getattr(keras.applications, options.application)
        model = build(weights=None, classifier_activation=None)
    else:
        model = small_network()
    output = options.output or Path(tempfile.mkdtemp())
    output.mkdir(parents=True, exist_ok=True)

    images = load_images(options.data, model.input_shape[1])
    calibration, compared = images[::CALIBRATION_SHARE], images[1::CALIBRATION_SHARE]
    for name, plain in (("converter", True), ("quantize", False)):
        path = output / f"{model.name}_{name}.tflite"
        keras_mobileone.export_tflite(model, path, "int8", calibration=calibration, plain=plain)
        result = keras_mobileone.compare(model, path, compared)
        print(f"{path}: SQNR {result.sqnr:.1f} dB, same class on {result.agreement} images")


if __name__ == "__main__":
    main()
