"""Makes the Imagenette weights that come with the package from a finished training.

    keras-mobileone train --data imagenette/ --recipe imagenette --output run/
    python benchmarks/imagenette.py --run run/ --data imagenette/

It writes the weights as float16 into the package, and into benchmarks/results/imagenette/ the log,
its curve, and a report with the accuracy of the written weights as float32 and int8.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
from drawing import BLUE, GREY, clean, figure

import keras_mobileone
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.images import load_crops, spread
from keras_mobileone.files import atomic_write
from keras_mobileone.training.recipe import get_recipe
from keras_mobileone.weights.checkpoint import write_safetensors
from keras_mobileone.weights.loading import export_tensors, load_keras
from keras_mobileone.weights.pretrained import bundled_path

RESULTS = Path(__file__).parent / "results" / "imagenette"
REPORT = RESULTS / "report.json"
CALIBRATION_IMAGES = 100
VARIANT = keras_mobileone.VARIANTS["s0"]
CURVES = {
    "top1": ("training images, augmented", GREY),
    "val_top1": ("validation images, at the last size of the training", BLUE),
}


def main() -> None:
    """Writes the weights, then evaluates them in the form that a user loads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224, help="pixels of the evaluation")
    arguments = parser.parse_args()

    recipe = get_recipe("imagenette")
    if get_recipe(arguments.run / "recipe.json") != recipe:
        parser.error(f"Expected a run of the recipe {recipe.name!r}. Received: {arguments.run}.")
    ship(load_keras(arguments.run / "model.keras"))
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(arguments.run / "log.csv", RESULTS / "log.csv")
    report = json.loads((arguments.run / "report.json").read_text(encoding="utf-8"))
    del report["directory"]
    result = {
        "run": {**report, "recipe": dataclasses.asdict(recipe)},
        "bytes": {path.name: path.stat().st_size for path in map(bundled_path, (False, True))},
        "evaluation": evaluate(arguments.data, arguments.size),
    }
    with atomic_write(REPORT) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(report, RESULTS / "curve.png")


def ship(model: keras.Model) -> None:
    """Writes train-time weights in float16, and deploy weights fused from the rounded ones."""
    for deploy in (False, True):
        tensors = export_tensors(model, VARIANT)
        write_safetensors(
            bundled_path(deploy), {name: half(value) for name, value in tensors.items()}
        )
        if not deploy:
            model = keras_mobileone.MobileOneS0(weights="imagenette", classes=10).fuse()


def half(values: np.ndarray) -> np.ndarray:
    """Returns the values as float16, or raises ValueError if float16 cannot hold them."""
    found = np.asarray(values).astype(np.float16)
    if not np.isfinite(found).all():
        raise ValueError(f"Expected values that float16 holds. Received: {np.abs(values).max()}.")
    return found


def evaluate(data: Path, size: int) -> dict:
    """Counts correct answers on the validation images at train time, deployed and as int8."""
    options = {"weights": "imagenette", "classes": 10, "input_shape": (size, size, 3)}
    train_time = keras_mobileone.MobileOneS0(**options)
    deploy = keras_mobileone.MobileOneS0(**options, classifier_activation=None, deploy=True)
    paths = ClassFolders(data / "train").paths
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


def plot(run: dict, path: Path) -> None:
    """Draws accuracy over the epochs, with the image sizes."""
    page, axis = figure(8, 3.8)
    for key, (label, color) in CURVES.items():
        # Not every epoch is validated.
        rows = [row for row in run["history"] if row.get(key) is not None]
        epochs = [row["epoch"] for row in rows]
        axis.plot(epochs, [100 * row[key] for row in rows], color=color, label=label)
    for phase in run["recipe"]["phases"]:
        start, size = phase["start"], phase["image_size"]
        if start:
            axis.axvline(start + 0.5, color=GREY, lw=0.6, ls=":")
        axis.annotate(
            f"{size}" if start else f"{size} pixels",
            (start + 0.7, 1),
            xycoords=("data", "axes fraction"),
            va="bottom",
        )
    axis.set(xlabel="epoch", ylabel="top-1, %")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, loc="lower right")
    clean(axis)
    page.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
