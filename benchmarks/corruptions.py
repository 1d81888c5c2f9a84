"""What quantization costs under the corruptions of ImageNet-C: S0 in every precision.

    python benchmarks/corruptions.py --sample DIR --imagenette DIR --work DIR

DIR of --sample holds class folders of ImageNet photographs, named by WordNet id; a third of them
calibrates int8, the others and images of Imagenette are corrupted. --work keeps the exported files
and the finished passes, so that the study can be stopped and started again.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, GREEN, GREY, RED, clean, figure

import keras_mobileone
from keras_mobileone.benchmarking import processor_name
from keras_mobileone.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    corrupt_image,
    image_seed,
)
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.images import load_crops, spread
from keras_mobileone.deployment.report import markdown_table
from keras_mobileone.files import atomic_write

OUTPUT = Path(__file__).parent / "results" / "corruptions"
CALIBRATION_IMAGES = 100
IMAGENETTE_IMAGES = 200
PLAIN, OURS, SLIGHT = "int8, converter", "int8", "int8, calibrated on slight corruptions"
COLORS = {"float32": BLUE, "float16": GREY, PLAIN: RED, OURS: GREEN, SLIGHT: "#dd8452"}


def main() -> None:
    """Exports the files, measures both sets, and writes results.json and curve.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=Path, required=True)
    parser.add_argument("--imagenette", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rest = split_sample(arguments.sample, arguments.work)
    files = export_files(arguments.sample, arguments.work)
    sets = {
        "ImageNet": measure(files, rest, arguments.work / "imagenet.json", None),
        "Imagenette": measure(
            files, arguments.imagenette, arguments.work / "imagenette.json", IMAGENETTE_IMAGES
        ),
    }
    result = {
        "processor": processor_name(),
        "calibration_images": CALIBRATION_IMAGES,
        "sets": sets,
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with atomic_write(OUTPUT / "results.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result, OUTPUT / "curve.png")


def calibration_paths(sample: Path) -> list[Path]:
    """Returns the photographs that calibrate int8."""
    return spread(ClassFolders(sample).paths, CALIBRATION_IMAGES)


def split_sample(sample: Path, work: Path) -> Path:
    """Makes class folders of links to the photographs that do not calibrate."""
    target = work / "sample"
    chosen = set(calibration_paths(sample))
    for path in ClassFolders(sample).paths:
        link = target / path.parent.name / path.name
        if path not in chosen and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return target


def export_files(sample: Path, work: Path) -> dict[str, Path]:
    """Exports S0 in all precisions; files that exist are kept."""
    model = keras_mobileone.MobileOneS0(classifier_activation=None, deploy=True)
    crop_fraction = keras_mobileone.image_config(model).crop_fraction
    images = np.stack(list(load_crops(calibration_paths(sample), (224, 224), crop_fraction)))
    # Every image with another corruption, at the lowest severity.
    slight = np.stack(
        [
            corrupt_image(image, name, 1, image_seed(1, name, 1, index))
            for index, image in enumerate(images)
            for name in [CORRUPTIONS[index % len(CORRUPTIONS)]]
        ]
    )
    settings: dict[str, tuple[str, Any, bool]] = {
        "float32": ("float32", None, False),
        "float16": ("float16", None, False),
        PLAIN: ("int8", images, True),
        OURS: ("int8", images, False),
        SLIGHT: ("int8", slight, False),
    }
    files = {}
    for index, (name, (precision, calibration, plain)) in enumerate(settings.items()):
        files[name] = work / f"{index}_{precision}.tflite"
        if not files[name].exists():
            pixels = None if calibration is None else calibration.astype(np.float32)
            keras_mobileone.export_tflite(model, files[name], precision, pixels, plain=plain)
    return files


def measure(files: dict[str, Path], directory: Path, state: Path, limit: int | None) -> dict:
    """Returns the number of right answers of each file in every pass."""
    found = keras_mobileone.evaluate_corruptions(
        list(files.values()), directory, corrupt=True, limit=limit, state=state
    )
    return {
        "images": found[0].images,
        "seed": found[0].seed,
        "files": {
            name: {"clean": one.clean, "right": one.right, "mce": one.mce}
            for name, one in zip(files, found, strict=True)
        },
    }


def accuracy(one: dict, images: int) -> list[float]:
    """Returns the top-1 accuracy in percent without corruption, then averaged by severity."""
    right = np.array(list(one["right"].values()))
    return [100 * one["clean"] / images, *(100 * right.mean(0) / images)]


def sentences(result: dict) -> str:
    """Returns what the passes say about int8."""

    def lost(name: str) -> str:
        """Returns top-1, averaged over severities 1 … 5, minus that of float32 on each set."""
        texts = []
        for title, data in result["sets"].items():
            one, reference = (
                statistics.fmean(accuracy(data["files"][file], data["images"])[1:])
                for file in (name, "float32")
            )
            texts.append(f"{one - reference:+.1f} points on {title}")
        return " and ".join(texts)

    return (
        f"Top-1 under corruptions, this package's int8 less float32: {lost(OURS)}; the converter's "
        f"own int8 less float32: {lost(PLAIN)}. Calibrated on slightly corrupted photographs "
        f"instead of clean ones, the difference is {lost(SLIGHT)}."
    )


def markdown(result: dict, picture: str) -> str:
    """Returns the sentences, the table of each set, the conditions and the picture."""
    parts = [sentences(result)]
    for title, data in result["sets"].items():
        rows = []
        for name, one in data["files"].items():
            values = accuracy(one, data["images"])
            cells = (f"{value:.1f}" for value in (*values, statistics.fmean(values[1:])))
            rows.append((name, *cells, f"{one['mce']:.1f}"))
        header = (f"{title}, top-1 in %", "none", "1", "2", "3", "4", "5", "mean of 1 … 5", "mCE")
        parts.append(markdown_table(header, rows))
    sets = result["sets"]
    parts.append(
        "MobileOne-S0 with the authors' ImageNet weights; the columns are severities, averaged "
        f"over the 15 corruptions. {sets['ImageNet']['images']} training photographs of "
        f"ImageNet and {sets['Imagenette']['images']} validation photographs of "
        "Imagenette, scored over 1,000 classes, corrupted with seed 0; int8 is calibrated on "
        f"{result['calibration_images']} other photographs. The mCE of so few photographs, which "
        "the network was trained on or which show ten classes, is no figure of ImageNet-C: only "
        "the rows of one table can be compared."
    )
    alt = "Accuracy of S0 in five precisions over the severity of the corruptions"
    return "\n\n".join((*parts, f"![{alt}]({picture})"))


def draw(result: dict, path: Path) -> None:
    """Draws the accuracy over the severities, one panel for each set."""
    page, axes = figure(9.5, 4.2, columns=len(result["sets"]))
    for axis, (title, data) in zip(axes, result["sets"].items(), strict=True):
        for name, one in data["files"].items():
            values = accuracy(one, data["images"])
            dashed = "--" if name == SLIGHT else "-"
            axis.plot(range(6), values, dashed, color=COLORS[name], label=name, marker="o", ms=3)
        axis.set_xticks(range(6), ["none", *map(str, SEVERITIES)])
        axis.set_xlabel("severity of the corruption")
        axis.set_title(f"{title}, {data['images']} photographs", fontsize=11, loc="left")
        axis.set_ylim(0, 100)
        clean(axis)
    axes[0].set_ylabel("top-1, mean of 15 corruptions, %")
    axes[0].legend(frameon=False, fontsize=9)
    page.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
