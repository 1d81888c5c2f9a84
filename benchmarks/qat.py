"""Compares quantization-aware training of S0 on Imagenette with float and post-training int8.

    python benchmarks/qat.py --data DIR --output benchmarks/results/qat.json

DIR contains train/ and val/ with class folders named by WordNet id. The authors' weights, loaded
with `weights="imagenet"`, keep their 1,000 outputs; only the classes in DIR are compared. The
equalized model is trained with the code of `keras-mobileone qat` for one epoch of --steps steps.
"""

import argparse
import hashlib
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

import keras_mobileone
from keras_mobileone.benchmarking import processor_name
from keras_mobileone.data.images import spread
from keras_mobileone.evaluation.accuracy import predict_images
from keras_mobileone.evaluation.predictor import load_predictor
from keras_mobileone.training.qat_classifier import Settings, compile_student, fit, read_data

CALIBRATION_IMAGES = 100
LEARNING_RATE = 1e-5
CROP_FRACTION = keras_mobileone.VARIANTS["s0"].crop_fraction


def main() -> None:
    """Trains, exports and evaluates the models and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()

    model = keras_mobileone.MobileOneS0(classifier_activation=None, deploy=True)
    train, val = read_data(arguments.data, model)
    crops = train.crops(spread(train.paths, CALIBRATION_IMAGES))
    images = train.config.normalize(np.stack(list(crops)))
    seconds = {}
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        start = time.perf_counter()
        for name, plain in (("plain", True), ("post_training", False)):
            path = directory / f"{name}.tflite"
            keras_mobileone.export_tflite(model, path, "int8", images, normalize=False, plain=plain)
        seconds["post-training"] = round(time.perf_counter() - start)

        start = time.perf_counter()
        equalized = keras_mobileone.equalize(model, images).model
        student = keras_mobileone.quantize_aware(equalized, images)
        compile_student(student, model, LEARNING_RATE)
        limit = arguments.steps * arguments.batch_size
        settings = Settings(LEARNING_RATE, arguments.batch_size, limit)
        fit(student, train, None, range(1), None, settings)
        seconds["training"] = round(time.perf_counter() - start)
        files = [directory / f"{name}.tflite" for name in ("trained", "again")]
        for file in files:
            keras_mobileone.export_qat(student, file, normalize=False)
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

        sources = {"float32, Keras": model, "plain int8": directory / "plain.tflite"}
        sources |= {"post-training int8": directory / "post_training.tflite"}
        sources |= {"quantization-aware int8": files[0]}
        predictors = [load_predictor(source, threads=2) for source in sources.values()]
        outputs = predict_images(predictors, val.paths, CROP_FRACTION)
    classes = np.unique(val.labels)
    result = {
        "images": len(val.paths),
        "classes": len(classes),
        "correct": {
            name: int((classes[output[:, classes].argmax(1)] == val.labels).sum())
            for name, output in zip(sources, outputs, strict=True)
        },
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "learning_rate": LEARNING_RATE,
        "seconds": seconds,
        "exported_twice_the_same": digests[0] == digests[1],
        "conditions": {
            "processor": processor_name(),
            "tensorflow": version("tensorflow"),
            "tensorflow-model-optimization": version("tensorflow-model-optimization"),
            "ai-edge-litert": version("ai-edge-litert"),
        },
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
