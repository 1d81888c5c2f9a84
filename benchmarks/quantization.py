"""Measures the gain and the cost of each step of the int8 quantization.

    python benchmarks/quantization.py --images DIR --second DIR \\
        --output benchmarks/results/quantization.json

S0 has the authors' weights, loaded with `weights="imagenet"`. DIR contains class folders named by
WordNet id. 100 of its images are for calibration, and the others are measured, and so are images of
the second directory, such as Imagenette's. S1 … S4 have generated parameters (see `generated`),
smaller images and random input. Each configuration runs in a separate process, so that its peak
memory can be measured. All files of a variant are timed side by side. The output is written after
each variant, and keeps the rows of variants that are not measured. A comparison of S0's layers is
written to `quantization_layers.json` and `.png` next to it.
"""

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from peak_memory import peak_gibibytes

import keras_mobileone
from keras_mobileone.benchmarking import benchmark, processor_name
from keras_mobileone.data.images import image_labels, list_images, load_crops, spread
from keras_mobileone.evaluation.comparison import compare_outputs
from keras_mobileone.files import atomic_write
from keras_mobileone.litert.converter import convert
from keras_mobileone.litert.runner import LiteRTRunner
from keras_mobileone.quantization import equalization
from keras_mobileone.quantization.layerwise_correction import Steps
from keras_mobileone.quantization.scaling_groups import find_scaling_groups
from keras_mobileone.quantization.trace import trace

CALIBRATION_IMAGES, SECOND_IMAGES = 100, 500
GENERATED_SIZE, GENERATED_CALIBRATION, GENERATED_MEASURED = 128, 16, 32
CHANNEL_SPREAD = 1.5  # standard deviation of the log of the generated channel ranges
PLAIN, DEFAULT, ON_PIXELS = (
    "plain int8",
    "+ compensated rounding (default)",
    "default, takes pixels",
)
QUANTIZE_STEPS = {
    "equalized": Steps(outliers=False, rounding="nearest", biases=False),
    "+ biases corrected": Steps(outliers=False, rounding="nearest"),
    "+ outliers limited": Steps(rounding="nearest"),
    DEFAULT: Steps(),
    ON_PIXELS: Steps(),
}
CONFIGURATIONS = (PLAIN, *QUANTIZE_STEPS, "int16x8, equalized")
GENERATED_CONFIGURATIONS = (PLAIN, DEFAULT)


def real(directory: Path) -> Any:
    """Returns S0 with the authors' weights, calibration images, other images and their labels."""
    paths = list_images(directory)
    calibration = spread(paths, CALIBRATION_IMAGES)
    others = sorted(set(paths) - set(calibration))

    model = keras_mobileone.MobileOneS0(classifier_activation=None, deploy=True)
    return model, load(calibration), load(others), image_labels(others)


def load(paths: Sequence[Path]) -> np.ndarray:
    """Returns pixels in the size of S0."""
    crops = load_crops(paths, (224, 224), keras_mobileone.VARIANTS["s0"].crop_fraction)
    return np.stack(list(crops))


def generated(name: str) -> Any:
    """Returns a variant with random parameters and the channel ranges of a trained network."""
    shape = (GENERATED_SIZE, GENERATED_SIZE, 3)
    model = keras_mobileone.MobileOne(
        name, weights=None, input_shape=shape, classifier_activation=None, deploy=True
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        shape = tuple(variable.shape)
        depthwise = len(shape) == 4 and shape[3] == 1
        fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
        deviation = 0.1 if len(shape) == 1 else (1.8 / fan_in) ** 0.5
        variable.assign(rng.normal(0, deviation, shape))
    traced = trace(model)
    for group in find_scaling_groups(traced)[0]:
        channels = group.producer.output.shape[-1]
        equalization.apply_factors(group, np.exp(rng.normal(0, CHANNEL_SPREAD, channels)))
    count = GENERATED_CALIBRATION + GENERATED_MEASURED
    cells = GENERATED_SIZE // 16
    coarse = rng.uniform(0, 255, (count, cells, cells, 3)).repeat(16, axis=1).repeat(16, axis=2)
    pixels = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
    return traced.model, pixels[:GENERATED_CALIBRATION], pixels[GENERATED_CALIBRATION:], None


def measure(job: tuple) -> dict:
    """Writes the file of one configuration and returns its row of the table."""
    name, configuration, directory, second, target = job
    model, calibration, others, labels = real(directory) if directory else generated(name)
    takes_pixels = configuration == ON_PIXELS
    calibration = taken(calibration, takes_pixels)
    start, change = time.perf_counter(), None
    if configuration == PLAIN:
        content = convert(model, "int8", calibration)
    elif configuration in QUANTIZE_STEPS:
        steps = QUANTIZE_STEPS[configuration]
        report = keras_mobileone.quantize(model, calibration, normalize=takes_pixels, steps=steps)
        content, change = report.content, report.change
    else:
        equalized = keras_mobileone.equalize(model, calibration)
        change = equalized.change
        content = convert(equalized.model, "int16x8", calibration)
    seconds = time.perf_counter() - start
    target.write_bytes(content)
    memory = peak_gibibytes()
    row = {
        "variant": name,
        "configuration": configuration,
        "calibration_images": len(calibration),
        "float_change": change,
        "seconds": round(seconds, 1),
        "peak_gib": memory and round(memory, 2),
        **compared(model, content, others, labels, takes_pixels),
    }
    if second:
        paths = spread(list_images(second), SECOND_IMAGES)
        row["second"] = compared(model, content, load(paths), image_labels(paths), takes_pixels)
    return row


def taken(pixels: np.ndarray, takes_pixels: bool) -> np.ndarray:
    """Returns images as a file takes them."""
    if takes_pixels:
        return pixels.astype(np.float32)
    return keras_mobileone.preprocess_input(pixels)


def compared(
    model: keras.Model, content: bytes, pixels: np.ndarray, labels: Any, takes_pixels: bool
) -> dict:
    """Returns how well the outputs of a file agree with those of the model."""
    runner, images = LiteRTRunner(content), taken(pixels, takes_pixels)
    outputs = np.concatenate([next(iter(runner(image[None]).values())) for image in images])
    reference = model.predict(taken(pixels, False), verbose=0)
    return compare_outputs(reference, outputs, labels).to_dict()


def layers(directory: Path, target: Path) -> None:
    """Writes a report on each layer of S0, for the converter's int8 and for `quantize`."""
    model, calibration, _, _ = real(directory)
    normalized = taken(calibration, False)
    report = keras_mobileone.quantize(model, normalized, normalize=False, before=True)
    report.save(target)
    report.plot(target.with_suffix(".png"))


def main() -> None:
    """Runs the configurations, times the files and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--second", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=list(keras_mobileone.VARIANTS))
    arguments = parser.parse_args()
    result = {"conditions": {}, "rows": []}
    if arguments.output.exists():
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    for name in arguments.variants:
        rows, conditions = of_variant(name, arguments.images, arguments.second)
        result["rows"] = [row for row in result["rows"] if row["variant"] != name] + rows
        result["rows"].sort(key=lambda row: row["variant"])
        if name == "s0":
            result["conditions"] = conditions
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if "s0" in arguments.variants:
        layers(arguments.images, arguments.output.with_name("quantization_layers.json"))


def of_variant(name: str, images: Path, second: Path) -> tuple[list[dict], dict]:
    """Measures all configurations of a variant.

    Returns:
        The rows of the table, and the conditions of the timing.
    """
    configurations = CONFIGURATIONS if name == "s0" else GENERATED_CONFIGURATIONS
    sources = (images, second) if name == "s0" else (None, None)
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{name}_{i}.tflite" for i in range(len(configurations))]
        for configuration, file in zip(configurations, files, strict=True):
            with spawn.Pool(1) as pool:
                rows += pool.map(measure, [(name, configuration, *sources, file)])
            print(json.dumps(rows[-1]), flush=True)
        timing = benchmark(files, runs=50 if name == "s0" else 20)
    for row, latency in zip(rows, timing.latencies, strict=True):
        row |= {"bytes": latency.bytes, "median_ms": latency.median, "p95_ms": latency.p95}
    conditions = timing.conditions | {
        "keras": keras.__version__,
        "tensorflow": version("tensorflow"),
        "processor": processor_name(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return rows, conditions


if __name__ == "__main__":
    main()
