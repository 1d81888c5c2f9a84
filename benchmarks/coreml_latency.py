"""Measures the latency of Core ML packages on a Mac, for each set of compute units.

python benchmarks/coreml_latency.py MobileOneS0.mlpackage … --json coreml.json

The protocol is that of the authors' iOS app (apple/ml-mobileone, ModelBench): after one warm-up, 20
rounds of 50 predictions, of which the 10 fastest and the 10 slowest of each round are left out.
Packages and compute units are interleaved within a round. Only `predict` is timed, on one image of
noise. That includes the time in which coremltools passes the image on, which an app in Swift
avoids.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from keras_mobileone.deployment.report import markdown_table
from keras_mobileone.files import atomic_write, require_writable

UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
ROUNDS, RUNS, TRIMMED = 20, 50, 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+", type=Path, metavar="PACKAGE.mlpackage")
    parser.add_argument("--json", type=Path, help="where to store the result")
    arguments = parser.parse_args()
    try:
        if platform.system() != "Darwin":
            raise OSError(
                f"Core ML predicts on macOS only. Received: {platform.system()}. Run this on a Mac."
            )
        if arguments.json:
            require_writable(arguments.json)
        for package in arguments.packages:
            if not package.is_dir():
                raise FileNotFoundError(
                    f"Expected a package. Received: {package}, which is not a directory."
                )
        result = measure(arguments.packages)
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    header = ("package", "compute units", "median ms", "p90 ms")
    rows = [
        (row["package"], row["units"], f"{row['median']:.2f}", f"{row['p90']:.2f}")
        for row in result["rows"]
    ]
    print(markdown_table(header, rows))
    if arguments.json:
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(packages: list[Path]) -> dict:
    """Measures median and 90th percentile in milliseconds, with the conditions."""
    import coremltools as ct

    loaded = {
        (package.name, units): ct.models.MLModel(
            str(package), compute_units=getattr(ct.ComputeUnit, units)
        )
        for package in packages
        for units in UNITS
    }
    inputs = {key: noise(model.get_spec().description.input[0]) for key, model in loaded.items()}
    kept: dict = {key: [] for key in loaded}
    for key, model in loaded.items():
        model.predict(inputs[key])
    for _ in range(ROUNDS):
        for key, model in loaded.items():
            times = sorted(timed(model, inputs[key]) for _ in range(RUNS))
            kept[key] += times[TRIMMED:-TRIMMED]
    rows = [
        {
            "package": package,
            "units": units,
            "median": statistics.median(times),
            "p90": statistics.quantiles(times, n=10)[-1],
        }
        for (package, units), times in kept.items()
    ]
    conditions = {
        "machine": platform.machine(),
        "system": f"macOS {platform.mac_ver()[0]}",
        "coremltools": version("coremltools"),
        "rounds": ROUNDS,
        "runs": RUNS,
        "trimmed": f"{TRIMMED} fastest and {TRIMMED} slowest of a round",
    }
    return {"rows": rows, "conditions": conditions}


def timed(model: Any, inputs: Any) -> float:
    """Returns the milliseconds of one prediction."""
    start = time.perf_counter_ns()
    model.predict(inputs)
    return (time.perf_counter_ns() - start) / 1e6


def noise(description: Any) -> dict:
    """Returns an input of noise as the package describes it: an image or a tensor."""
    rng = np.random.default_rng(0)
    if description.type.WhichOneof("Type") == "imageType":
        from PIL import Image

        size = description.type.imageType
        pixels = rng.integers(0, 256, (size.height, size.width, 3), np.uint8)
        return {description.name: Image.fromarray(pixels)}
    shape = tuple(description.type.multiArrayType.shape)
    return {description.name: rng.standard_normal(shape).astype(np.float32)}


if __name__ == "__main__":
    sys.exit(main())
