"""Makes the Imagenette weights that come with the package from finished trainings.

    keras-mobileone train --data imagenette/ --recipe imagenette --output run/
    keras-mobileone finetune --data imagenette/ --recipe imagenette224 \
        --weights run/model.keras --output run224/
    keras-mobileone finetune --data imagenette/ --recipe imagenette-longer \
        --weights run224/model.keras --output run-longer/
    python benchmarks/imagenette.py --runs run/ run224/ run-longer/ --data imagenette/

It writes the weights of the last run as float16 into the package, and into
benchmarks/results/imagenette/ the logs, one curve, and a report with the accuracy of the written
weights as float32 and int8. Runs of other recipes in the stored report are kept before these.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
from drawing import BLUE, GREEN, GREY, clean, figure

import keras_mobileone
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.images import load_crops, spread
from keras_mobileone.files import atomic_write
from keras_mobileone.weights.checkpoint import write_safetensors
from keras_mobileone.weights.loading import export_tensors, load_keras
from keras_mobileone.weights.pretrained import bundled_path

RESULTS = Path(__file__).parent / "results" / "imagenette"
REPORT = RESULTS / "report.json"
CALIBRATION_IMAGES = 100
LABEL_EPOCHS = 3  # width of a label of the curve
VARIANT = keras_mobileone.VARIANTS["s0"]
CURVES = {
    "top1": ("training images, augmented", GREY),
    "val_top1": ("validation images, at the last size of the training", BLUE),
    "val_average_top1": ("validation images, with averaged weights", GREEN),
}


def main() -> None:
    """Writes the weights, then evaluates them in the form that a user loads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="in their order")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224, help="pixels of the evaluation")
    arguments = parser.parse_args()

    ship(load_keras(arguments.runs[-1] / "model.keras"))
    RESULTS.mkdir(exist_ok=True)
    runs = stored_runs()
    for run in arguments.runs:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        del report["directory"]
        name = report["recipe"]["name"]
        shutil.copyfile(run / "log.csv", RESULTS / f"{name}.csv")
        runs.pop(name, None)
        runs[name] = report
    reports = list(runs.values())
    result = {
        "runs": reports,
        "bytes": {path.name: path.stat().st_size for path in map(bundled_path, (False, True))},
        "evaluation": evaluate(arguments.data, arguments.size),
    }
    with atomic_write(REPORT) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(reports, RESULTS / "curve.png")


def stored_runs() -> dict[str, dict]:
    """Returns the runs of the stored report by the names of their recipes."""
    if not REPORT.is_file():
        return {}
    return {
        run["recipe"]["name"]: run for run in json.loads(REPORT.read_text(encoding="utf-8"))["runs"]
    }


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


def plot(runs: Iterable[dict], path: Path) -> None:
    """Draws accuracy over the epochs of all runs, with the image sizes."""
    page, axis = figure(8, 3.8)
    done, labeled = 0, -LABEL_EPOCHS
    for run in runs:
        epochs = [done + row["epoch"] for row in run["history"]]
        for key, (label, color) in CURVES.items():
            # Not every recipe averages the weights.
            values = [100 * row.get(key, np.nan) for row in run["history"]]
            axis.plot(epochs, values, color=color, label=None if done else label)
        for phase in run["recipe"]["phases"]:
            start, size = done + phase["start"], phase["image_size"]
            if start:
                axis.axvline(start + 0.5, color=GREY, lw=0.6, ls=":")
            crowded = start - labeled < LABEL_EPOCHS
            labeled = -LABEL_EPOCHS if crowded else start
            axis.annotate(
                f"{size}" if start else f"{size} pixels",
                (start + 0.7, 1.05 if crowded else 1),
                xycoords=("data", "axes fraction"),
                va="bottom",
            )
        done = epochs[-1]
    axis.set(xlabel="epoch", ylabel="top-1, %")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, loc="lower right")
    clean(axis)
    page.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
