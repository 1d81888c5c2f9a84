"""Stores what a finished training of a segmentation model or detector reached, and what int8 costs.

    keras-mobileone finetune --data camvid/ --labels labels.txt --recipe segment --output run/ …
    python benchmarks/dense_training.py camvid --run run/ --data camvid/ --labels labels.txt

It exports the int8 file, evaluates it and the Keras model on the validation images, and writes into
benchmarks/results/NAME/ the recipe, the log, results.json, the curve of the training, and pictures
of labels beside predictions. The recipe repeats the run: `finetune --recipe NAME/recipe.json`.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dense_quantization import PLAIN
from drawing import BLUE, GREEN, GREY, clean, figure
from PIL import Image

import keras_mobileone as km
from keras_mobileone.data.dense.description import DETECT, SEGMENT, DenseData
from keras_mobileone.data.dense.drawing import draw_boxes, draw_mask
from keras_mobileone.data.dense.formats import open_dense
from keras_mobileone.data.images import load_image, spread
from keras_mobileone.deployment.report import markdown_table
from keras_mobileone.evaluation.dense_pictures import shown
from keras_mobileone.files import atomic_write
from keras_mobileone.models.tasks import task_config
from keras_mobileone.weights.loading import load_keras

RESULTS = Path(__file__).parent / "results"
CALIBRATION_IMAGES = 100
PICTURES = 3
PICTURE_WIDTH = 1200  # of label and prediction side by side
METRICS = {SEGMENT: "miou", DETECT: "map50"}
# Names of the stored trainings and titles of their data, by task.
STORED: dict[str, dict[str, str]] = {SEGMENT: {"camvid": "CamVid"}, DETECT: {"bccd": "BCCD"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the data set, and of the directory of the results")
    parser.add_argument("--run", type=Path, required=True, help="directory of the training")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="file of class names, as for the training")
    parser.add_argument("--note", default="", help="what else the page says of the training")
    arguments = parser.parse_args()

    results = RESULTS / arguments.name
    results.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.json", "log.csv"):
        shutil.copyfile(arguments.run / name, results / name)
    model = load_keras(arguments.run / "deploy.keras")
    task = task_config(model).task
    train, val = (
        open_dense(arguments.data, task, split, labels=arguments.labels, skip_bad=True)
        for split in ("train", "val")
    )
    with tempfile.TemporaryDirectory() as directory:
        file, plain = (Path(directory) / f"{name}.tflite" for name in ("int8", "plain"))
        images = [image.path for image in spread(train.images, CALIBRATION_IMAGES)]
        exported = km.export_tflite(model, file, "int8", images, labels=val.classes)
        km.export_tflite(model, plain, "int8", images, labels=val.classes, plain=True)
        evaluate = km.evaluate_segmentation if task == SEGMENT else km.evaluate_detection
        sources = {"float32": model, "int8": file, PLAIN: plain}
        found = {name: evaluate(source, val) for name, source in sources.items()}
        pictures = compared(file, val)
    for number, picture in enumerate(pictures):
        picture.save(results / f"picture{number}.jpg", quality=88)
    run = json.loads((arguments.run / "report.json").read_text(encoding="utf-8"))
    del run["directory"]
    run["skipped"] = [line.replace(f"{arguments.data}/", "") for line in run["skipped"]]
    result = {
        "run": run,
        "note": arguments.note,
        "int8": {"bytes": exported.bytes, "calibration_images": len(images)},
        "evaluation": {name: scores(value) for name, value in found.items()},
    }
    with atomic_write(results / "results.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(run, METRICS[task], results / "curve.png")


def scores(evaluation: Any) -> dict:
    """Returns what a report says of the accuracy."""
    found = evaluation.to_dict()
    kept = ("images", "miou", "pixel_accuracy", "iou_by_class", "objects", "scores")
    return {name: found[name] for name in kept if name in found}


def compared(file: Path, data: DenseData) -> list[Image.Image]:
    """Draws labels and the answers of a file side by side, for images spread over the data."""
    pictures = []
    for image in spread(data.images, PICTURES):
        photograph = load_image(image.path)
        picture = shown(photograph)
        if data.task == SEGMENT:
            mask = data.code.read(image.mask)
            size = picture.shape[1::-1]
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
            pair = [draw_mask(picture, mask, data.classes), km.segment(file, photograph)]
        else:
            scale = picture.shape[1] / photograph.width
            labels = draw_boxes(picture, image.boxes * scale, image.labels, data.classes)
            pair = [labels, km.detect(file, photograph)]
        pictures.append(side_by_side([pair[0], pair[1].draw(photograph)]))
    return pictures


def side_by_side(parts: Sequence[np.ndarray]) -> Image.Image:
    """Returns pictures of one width beside each other."""
    height = max(part.shape[0] for part in parts)
    padded = [np.pad(part, ((0, height - len(part)), (0, 0), (0, 0))) for part in parts]
    both = Image.fromarray(np.concatenate(padded, axis=1))
    return both.resize((PICTURE_WIDTH, round(both.height * PICTURE_WIDTH / both.width)))


def plot(run: dict, metric: str, path: Path) -> None:
    """Draws the metric of the validation images over the epochs."""
    page, axis = figure(8, 3.4)
    curves = {
        metric: ("training images, augmented", GREY),
        f"val_{metric}": ("validation images", BLUE),
        f"val_average_{metric}": ("validation images, with averaged weights", GREEN),
    }
    for key, (label, color) in curves.items():
        points = [(row["epoch"], 100 * row[key]) for row in run["history"] if key in row]
        if points:
            axis.plot(*zip(*points, strict=True), color=color, label=label, marker=".")
    title = {"miou": "mean IoU, %", "map50": "mAP at an IoU of 0.5, %"}[metric]
    axis.set(xlabel="epoch", ylabel=title)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, loc="lower right")
    clean(axis)
    page.savefig(path, dpi=120)


def markdown(name: str, results: str) -> str:
    """Returns the accuracy of a stored training, its conditions, curve and pictures.

    Args:
        name: Directory of the results.
        results: Address of that directory in links of the page.
    """
    r = json.loads((RESULTS / name / "results.json").read_text(encoding="utf-8"))
    run, found = r["run"], r["evaluation"]
    recipe = run["recipe"]
    rows = segment_rows(found) if recipe["task"] == SEGMENT else detect_rows(found)
    height, width = recipe["evaluation_size"] or [recipe["phases"][-1]["image_size"]] * 2
    text = (
        f"{found['float32']['images']} validation images, {width}×{height} pixels; trained on "
        f"{run['training_images']} images from the authors' ImageNet weights of S0, "
        f"{recipe['epochs']} epochs in {run['seconds'] / 3600:.1f} h on "
        f"{run['conditions']['cores']} cores shared with other work. int8: calibrated on "
        f"{r['int8']['calibration_images']} training images, {r['int8']['bytes'] / 1e6:.2f} MB. "
        f"[Recipe]({results}/recipe.json), [log]({results}/log.csv)."
    )
    if r["note"]:
        text += f" {r['note']}"
    pictures = [f"![Labels on the left, int8 on the right]({results}/picture{i}.jpg)" for i in "01"]
    curve = f"![{METRICS[recipe['task']]} over the epochs]({results}/curve.png)"
    header = ["", *found]
    return "\n\n".join([markdown_table(header, rows), text, *pictures, curve])


def short() -> str:
    """Returns a table of the stored trainings: the metric of the Keras model and of int8."""
    rows = []
    for name, data in (pair for titles in STORED.values() for pair in titles.items()):
        r = json.loads((RESULTS / name / "results.json").read_text(encoding="utf-8"))
        found = [r["evaluation"][precision] for precision in ("float32", "int8")]
        if r["run"]["recipe"]["task"] == SEGMENT:
            title, values = "segmentation, mean IoU", [one["miou"] for one in found]
        else:
            title, values = "detection, mAP at IoU 0.5", [one["scores"]["map50"] for one in found]
        hours = f"{r['run']['seconds'] / 3600:.1f} h"
        rows.append([title, data, *map(percent, values), hours])
    return markdown_table(["MobileOne-S0", "data", "float32", "int8", "training"], rows)


def segment_rows(found: dict) -> list[list[str]]:
    """Returns the rows of mean IoU, pixel accuracy and the IoU of each class."""
    rows = [("mean IoU", "miou"), ("pixel accuracy", "pixel_accuracy")]
    table = [[title, *(percent(one[key]) for one in found.values())] for title, key in rows]
    table[0] = [f"**{cell}**" for cell in table[0]]
    for label in next(iter(found.values()))["iou_by_class"]:
        table.append([label, *(percent(one["iou_by_class"][label]) for one in found.values())])
    return table


def detect_rows(found: dict) -> list[list[str]]:
    """Returns the rows of the average precisions, also those of each class."""
    titles = {
        "map50": "mAP, IoU 0.5",
        "map": "mAP, IoU 0.5 … 0.95 as in COCO",
        "map_small": "… of small objects",
        "map_medium": "… of medium objects",
        "map_large": "… of large objects",
    }
    table = [
        [title, *(percent(one["scores"][key]) for one in found.values())]
        for key, title in titles.items()
    ]
    table[0] = [f"**{cell}**" for cell in table[0]]
    for label in next(iter(found.values()))["scores"]["by_class50"]:
        values = [percent(one["scores"]["by_class50"][label]) for one in found.values()]
        table.append([f"{label}, IoU 0.5", *values])
    return table


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
