"""From a finished run of the recipe `imagenette` to the weights that the package ships.

    keras-mobileone train --data imagenette/ --recipe imagenette --output run/
    python benchmarks/imagenette.py --run run/ --data imagenette/

Writes the weights as float16 into the package, and report, log and curve of the run with the
accuracy of what was written, float32 and int8, into benchmarks/results/imagenette/.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_mobileone
from keras_mobileone.images import list_labelled_images, load_crops, spread
from keras_mobileone.weights.checkpoint import write_safetensors
from keras_mobileone.weights.loading import export_tensors, load_keras
from keras_mobileone.weights.pretrained import bundled_path

RESULTS = Path(__file__).parent / "results" / "imagenette"
CALIBRATION_IMAGES = 100
VARIANT = keras_mobileone.VARIANTS["s0"]


def main():
    """Ships the weights, then evaluates them as a user would load them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224, help="pixels of the evaluation")
    arguments = parser.parse_args()

    ship(load_keras(arguments.run / "model.keras"))
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(arguments.run / "log.csv", RESULTS / "log.csv")
    report = json.loads((arguments.run / "report.json").read_text())
    report["bytes"] = {path.name: path.stat().st_size for path in map(bundled_path, (False, True))}
    report["evaluation"] = evaluate(arguments.data, arguments.size)
    del report["directory"]
    (RESULTS / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    plot(report["history"], RESULTS / "curve.png")


def ship(model) -> None:
    """Writes train-time and deploy weights; the latter are folded from the rounded former."""
    for deploy in (False, True):
        tensors = export_tensors(model, VARIANT)
        write_safetensors(
            bundled_path(deploy), {name: half(value) for name, value in tensors.items()}
        )
        if not deploy:
            model = keras_mobileone.MobileOneS0(weights="imagenette", classes=10).fuse()


def half(values) -> np.ndarray:
    """As float16, or an error where it can't hold them."""
    found = np.asarray(values).astype(np.float16)
    if not np.isfinite(found).all():
        raise ValueError(f"Expected values that float16 holds. Received: {np.abs(values).max()}.")
    return found


def evaluate(data, size) -> dict:
    """Right answers on the validation images: train-time, deploy, int8."""
    options = {"weights": "imagenette", "classes": 10, "input_shape": (size, size, 3)}
    train_time = keras_mobileone.MobileOneS0(**options)
    deploy = keras_mobileone.MobileOneS0(**options, classifier_activation=None, deploy=True)
    paths = [path for path, _ in list_labelled_images(data / "train")]
    crops = load_crops(spread(paths, CALIBRATION_IMAGES), (size, size), VARIANT.crop_fraction)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "int8.tflite"
        keras_mobileone.export_tflite(deploy, path, "int8", np.stack(list(crops)))
        found = {
            name: keras_mobileone.evaluate(
                model, data / "val", crop_fraction=VARIANT.crop_fraction, reference=deploy
            )
            for name, model in (("train time", train_time), ("deploy", deploy), ("int8", path))
        }
    return {
        "size": size,
        "images": found["deploy"].images,
        "top1": {name: result.top1 for name, result in found.items()},
        "agreement": {name: result.agreement for name, result in found.items()},
        "keras": keras.__version__,
    }


def plot(history, path) -> None:
    """Accuracy over the epochs."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    for key, label in (
        ("top1", "training images, augmented"),
        ("val_top1", "validation images"),
        ("val_average_top1", "validation images, averaged weights"),
    ):
        axes.plot(epochs, [100 * row[key] for row in history], label=label)
    axes.set(xlabel="epoch", ylabel="top-1, %", title="MobileOne-S0 on Imagenette, from scratch")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
