"""Measures what int8 costs segmentation and detection with random heads.

    python benchmarks/dense_quantization.py --segment DIR --labels FILE --detect DIR

S0 has the authors' weights, and the outputs of int8 files are compared with those of the float
file. Calibration takes images of the split "train"; those of "val" are measured. `dense_training`
measures what int8 costs a trained model.
"""

import argparse
import json
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

import keras_mobileone
from keras_mobileone.data.dense.formats import open_dense
from keras_mobileone.data.image_config import config_of_file, image_config
from keras_mobileone.data.images import spread
from keras_mobileone.deployment.report import markdown_table
from keras_mobileone.evaluation.metrics import sqnr
from keras_mobileone.files import atomic_write
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.models.graph import output_names
from keras_mobileone.quantization.calibration import calibration_images
from keras_mobileone.quantization.ptq import quantize_images

RESULT = Path(__file__).parent / "results" / "dense_quantization.json"
SIZE = 256  # of the segmentation models, in pixels
_SEGMENT = partial(keras_mobileone.MobileOneDeepLabV3, "s0", 11, (SIZE, SIZE, 3), deploy=True)
# Task and function of each network with a random head.
NETWORKS = {
    "DeepLabV3, separable ASPP": ("segment", _SEGMENT),
    "DeepLabV3, dense ASPP": ("segment", partial(_SEGMENT, separable=False)),
    "SSDLite": ("detect", partial(keras_mobileone.MobileOneSSDLite, "s0", 3, deploy=True)),
}
PLAIN, OURS = "converter's int8", "quantize"


def paths_of(
    data: Path, task: str, split: str, count: int, labels: Path | None = None
) -> list[Path]:
    """Returns the files of some images of a split, spread evenly. Bad annotations are left out."""
    opened = open_dense(data, task, split, labels=labels, skip_bad=True)
    if opened is None:
        raise SystemExit(f"Expected a split {split!r} in {data}. Received: a data set without it.")
    return spread([image.path for image in opened.images], count)


def outputs(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a file for all images, by name."""
    runner = LiteRTRunner(content)
    rows = [runner(image[None]) for image in images]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def compare(model: keras.Model, calibration: list[Path], measured: list[Path]) -> dict:
    """Returns the SQNR in dB of each output, for the converter's int8 and for `quantize`."""
    config, _ = config_of_file(image_config(model, normalize=False), False)
    ranges, images = (calibration_images(paths, config) for paths in (calibration, measured))
    names = output_names(model)
    floats = outputs(convert(model, output_names=names), images)
    files = {
        PLAIN: convert(model, "int8", ranges, output_names=names),
        OURS: quantize_images(model, ranges, None).content,
    }
    found = {label: outputs(content, images) for label, content in files.items()}
    return {
        name: {label: round(sqnr(value, found[label][name]), 1) for label in files}
        for name, value in floats.items()
    }


def untrained(data: dict[str, Path], counts: tuple[int, int], labels: Path | None) -> list[dict]:
    """Returns the SQNR of the outputs of all networks with random heads."""
    rows = []
    for name, (task, build) in NETWORKS.items():
        if data[task] is None:
            continue
        keras.utils.set_random_seed(0)
        model = build(weights="imagenet")
        splits = zip(("train", "val"), counts, strict=True)
        file = labels if task == "segment" else None
        calibration, measured = (paths_of(data[task], task, *split, file) for split in splits)
        rows.append({"network": name, "sqnr": compare(model, calibration, measured)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def markdown(result: dict) -> str:
    """Returns the comparison with random heads as Markdown."""
    rows = [
        (f"{row['network']}: `{name}`", f"{values[PLAIN]:.1f}", f"{values[OURS]:.1f}")
        for row in result["rows"]
        for name, values in row["sqnr"].items()
    ]
    c = result["conditions"]
    text = (
        "S0 with the authors' weights, random heads, "
        f"{SIZE} pixels in segmentation and 320 in detection; calibrated on "
        f"{c['calibration_images']} images, measured on {c['measured_images']} others. "
        f"ai-edge-litert {c['ai-edge-litert']}, TensorFlow {c['tensorflow']}."
    )
    return "\n\n".join([markdown_table(("SQNR of the outputs, dB", PLAIN, OURS), rows), text])


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segment", type=Path, help="data set with masks, such as CamVid")
    parser.add_argument("--labels", type=Path, help="file of the class names of the masks")
    parser.add_argument("--detect", type=Path, help="data set with boxes, such as BCCD")
    parser.add_argument("--calibration", type=int, default=32, help="images to calibrate on")
    parser.add_argument("--limit", type=int, default=16, help="images to measure")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    data = {"segment": arguments.segment, "detect": arguments.detect}
    if not any(data.values()):
        parser.error("Expected --segment, --detect or both.")
    conditions: dict = {name: version(name) for name in ("ai-edge-litert", "tensorflow", "keras")}
    conditions["calibration_images"] = arguments.calibration
    conditions["measured_images"] = arguments.limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `quantize` warns about noisy layers of random heads
        rows = untrained(data, (arguments.calibration, arguments.limit), arguments.labels)
    with atomic_write(arguments.output) as temporary:
        result = {"conditions": conditions, "rows": rows}
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
