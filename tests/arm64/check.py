"""Checks that S0's TFLite files give the same results on arm64 as on x86.

    PYTHONPATH=tests python -m arm64.check --images photographs/ --output arm64.json

Exports float32, float16 and int8, runs each on photographs with LiteRT on this machine and, of the
same version, on arm64 under qemu. Exits with 1 if the logits differ by more than the tolerance, and
with 2 if they can't be compared. Timings under qemu are meaningless, so none are measured.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from arm64.emulator import CORE, arm64_python, qemu_version

import keras_mobileone
from keras_mobileone.benchmarking import processor_name
from keras_mobileone.data.images import list_images, load_crops, spread
from keras_mobileone.deployment import pipeline
from keras_mobileone.deployment.report import markdown_table
from keras_mobileone.evaluation.comparison import compare_outputs
from keras_mobileone.files import atomic_write, require_writable
from keras_mobileone.weights.pretrained import find_imagenet_weights

PROJECT = Path(__file__).parents[2]
CACHE = PROJECT / ".arm64"
SCRIPT = Path(__file__).with_name("run_litert.py")
VARIANT = keras_mobileone.VARIANTS["s0"]
# Under qemu, floating point takes seconds for an image, and integers take half a second.
IMAGES = {"float32": 10, "float16": 10, "int8": 200}
TOLERANCE = 1e-4  # of floating-point logits, relative to the largest logit
MACHINES = {"x86": "x86_64", "arm64": "aarch64"}


def compare(precision: str, x86: np.ndarray, arm64: np.ndarray) -> dict:
    """Compares the logits of a file on both machines, each of shape (images, classes).

    Returns:
        `error`, the largest difference divided by the largest logit; `equal_answers`, the number of
        images with the same best class; `equal_logits`, the number of exactly equal `logits`; and
        `passed`, which depends on `TOLERANCE` for floating point and on the best classes for int8.

    Raises:
        ValueError: If the shapes differ.
    """
    comparison = compare_outputs(x86, arm64)
    answers_equal = comparison.agreement == comparison.images and math.isfinite(comparison.error)
    return {
        "precision": precision,
        "images": comparison.images,
        "error": comparison.error,
        "largest_difference": float(np.abs(x86 - arm64).max()),
        "equal_answers": comparison.agreement,
        "logits": x86.size,
        "equal_logits": int((x86 == arm64).sum()),
        "passed": answers_equal if precision == "int8" else comparison.error <= TOLERANCE,
    }


def run_litert(
    python: list[str], model: Path, inputs: Path, machine: str
) -> tuple[np.ndarray, dict]:
    """Returns the logits of `run_litert.py`, and the machine that it reports.

    Args:
        python: Command of the interpreter.
        model, inputs: See `run_litert.py`.
        machine: Key of `MACHINES`, which the interpreter must be for.

    Raises:
        RuntimeError: If the script fails, or runs on another machine.
    """
    outputs = model.with_name(f"{model.stem}_{machine}.npy")
    process = subprocess.run(
        [*python, str(SCRIPT), str(model), str(inputs), str(outputs)],
        capture_output=True,
        text=True,
        env={},  # variables for x86 libraries and packages would mislead programs for arm64
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        raise RuntimeError(
            f"Expected LiteRT to run {model.name} on {machine}. "
            f"Received: exit code {process.returncode}, {lines[-1] if lines else 'no output'}"
        )
    conditions = json.loads(process.stdout.splitlines()[-1])
    if conditions["machine"] != MACHINES[machine]:
        raise RuntimeError(f"Expected to run on {machine}. Received: {conditions['machine']}.")
    return np.load(outputs), conditions


def check(images: Path | None, weights: str, directory: Path) -> dict:
    """Exports the files into `directory`, runs them on both machines and compares the results."""
    print("arm64: setting up qemu and Python, or finding them", flush=True)
    pythons = {
        "x86": [sys.executable],
        "arm64": arm64_python(CACHE, version("ai-edge-litert")),
    }
    paths = pipeline._photographs() if images is None else list_images(images)
    calibration, others = pipeline._split(paths)
    model = keras_mobileone.MobileOne(
        VARIANT, weights=weights, classifier_activation=None, deploy=True
    )
    files, conditions = [], {}
    for precision, count in IMAGES.items():
        path = directory / f"{VARIANT.name}_{precision}.tflite"
        export = keras_mobileone.export_tflite(
            model, path, precision, _pixels(calibration) if precision == "int8" else None
        )
        inputs = directory / f"{precision}.npy"
        np.save(inputs, _pixels(spread(others, count)))
        print(f"{precision}: running on x86 and on emulated arm64", flush=True)
        logits = {}
        for machine, python in pythons.items():
            logits[machine], conditions[machine] = run_litert(python, path, inputs, machine)
        result = compare(precision, **logits)
        files.append({"file": path.name, "bytes": export.bytes} | result)
    source = find_imagenet_weights(VARIANT, True) if weights == "imagenet" else Path(weights)
    photographs = "scikit-image" if images is None else "/".join(images.resolve().parts[-2:])
    return {
        "variant": VARIANT.name,
        "weights": source.name,
        "photographs": photographs,
        "calibration_images": len(calibration),
        "tolerance": TOLERANCE,
        "files": files,
        "conditions": _conditions() | conditions,
    }


def table(files: list[dict]) -> str:
    """Returns a line with the comparison of each file."""
    header = ("", "images", "error", "equal answers", "equal logits", "")
    rows = [
        (
            file["precision"],
            str(file["images"]),
            f"{file['error']:.0e}" if file["error"] else "0",
            str(file["equal_answers"]),
            f"{file['equal_logits']:,} of {file['logits']:,}",
            "passed" if file["passed"] else "FAILED",
        )
        for file in files
    ]
    return markdown_table(header, rows)


def _pixels(paths) -> np.ndarray:
    crops = load_crops(paths, (224, 224), VARIANT.crop_fraction)
    return np.stack(list(crops)).astype(np.float32)


def _conditions() -> dict:
    return {
        "debian": Path("/etc/debian_version").read_text(encoding="utf-8").strip(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "qemu": qemu_version(),
        "emulated_core": CORE,
        "threads": 1,
        "tensorflow": version("tensorflow"),
        "keras": keras.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    """Prints the table, and writes the JSON if every file has passed."""
    parser = argparse.ArgumentParser(prog="arm64.check", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="directory; else scikit-image's photographs")
    parser.add_argument("--weights", default="imagenet", help="imagenet, or a file of S0's")
    parser.add_argument("--output", type=Path, help="JSON to write if every file passes")
    options = parser.parse_args(arguments)
    try:
        if options.output:
            require_writable(options.output)
        with tempfile.TemporaryDirectory() as directory:
            result = check(options.images, options.weights, Path(directory))
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(table(result["files"]))
    failed = [file["precision"] for file in result["files"] if not file["passed"]]
    if failed:
        print(
            f"Expected the logits of x86 on arm64, floating point within {TOLERANCE:g} and int8 "
            f"with equal answers. Received: others for {', '.join(failed)}.",
            file=sys.stderr,
        )
        return 1
    if options.output:
        with atomic_write(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"Stored in {options.output}; `make results` brings README.md up to date with it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
