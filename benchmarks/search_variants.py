"""Finds widths and depths for a budget of parameters, multiply-accumulates or latency.

    python benchmarks/search_variants.py --parameters 1.3 --macs 214
    python benchmarks/search_variants.py --prepare files/
    keras-mobileone benchmark files/*.tflite --json phone.json      (here, or with --android)
    python benchmarks/search_variants.py --latency 2.5 --device phone.json

Nothing is trained. The variants within all budgets are ranked by the multiply-accumulates that they
use, since accuracy rises with them in the published family. Latency is predicted by a model that is
fitted to the files of --prepare as they were measured on the device; its error on files that were
left out of the fit is printed.
"""

import argparse
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

import keras_mobileone
from keras_mobileone import Variant
from keras_mobileone.benchmarking import load_benchmark
from keras_mobileone.models.variant_complexity import Complexity, variant_complexity
from keras_mobileone.variants import ALL_VARIANTS

WIDTHS = (
    (0.25, 0.5, 0.75, 1.0, 1.5),
    (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    (0.5, 0.75, 1.0, 1.5, 2.0),
)
DEPTHS = ((1, 2), (2, 4, 6, 8), (4, 6, 7, 8, 10), (1,))
FEATURES = ("fixed", "per million MACs of 1×1 and dense", "per million MACs of depthwise")


def main() -> None:
    """Prints the best variants, or exports the files to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, help="At most as many millions.")
    parser.add_argument("--macs", type=float, help="At most as many millions, at 224 pixels.")
    parser.add_argument("--latency", type=float, help="At most as many ms; needs --device.")
    parser.add_argument("--device", type=Path, help="JSON of the benchmark of --prepare's files.")
    parser.add_argument("--prepare", type=Path, help="Directory for the files to measure.")
    parser.add_argument("--top", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.prepare)
        return
    if (arguments.latency is None) != (arguments.device is None):
        parser.error("--latency and --device belong together")
    if arguments.parameters is arguments.macs is arguments.latency is None:
        parser.error("give a budget: --parameters, --macs or --latency")
    coefficients = None
    if arguments.device:
        coefficients, error = fit_latency(measured(arguments.device))
        terms = zip(FEATURES, coefficients, strict=True)
        print("Latency in ms: " + ", ".join(f"{value:.4f} {name}" for name, value in terms))
        print(f"Error on files left out of the fit: {100 * error:.1f} % at most.")
    found = search(arguments.parameters, arguments.macs, arguments.latency, coefficients)
    for variant, counts, latency in found[: arguments.top]:
        text = f"{counts.trainable / 1e6:.2f} M, {counts.macs / 1e6:.1f} M MACs"
        predicted = "" if latency is None else f", {latency:.2f} ms"
        print(f"widths={variant.widths}, depths={variant.depths}: {text}{predicted}")
    print(f"{len(found)} variants are within the budget.")


def prepare(directory: Path) -> None:
    """Exports every known variant with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    for variant in ALL_VARIANTS.values():
        model = keras_mobileone.MobileOne(variant, weights=None, deploy=True)
        keras_mobileone.export_tflite(model, directory / f"{variant.name}.tflite")


def candidates() -> Iterator[Variant]:
    """Yields the variants of the search, whose stages do not become narrower."""
    for widths, depths in product(product(*WIDTHS), product(*DEPTHS)):
        variant = Variant("candidate", widths, num_conv_branches=4, depths=depths)
        if list(variant.stage_filters) == sorted(variant.stage_filters):
            yield variant


def search(
    parameters: float | None,
    macs: float | None,
    latency: float | None = None,
    coefficients: np.ndarray | None = None,
) -> list[tuple[Variant, Complexity, float | None]]:
    """Returns the variants within all budgets, those with the most multiply-accumulates first.

    Args:
        parameters: Budget of the fused network in millions, or None.
        macs: Budget in millions at 224 pixels, or None.
        latency: Budget in ms, or None.
        coefficients: What `fit_latency` returned, for a budget of latency.
    """
    found = []
    for variant in candidates():
        counts = variant_complexity(variant, deploy=True)
        time = None if coefficients is None else float(features(variant) @ coefficients)
        budgets = (
            (counts.trainable / 1e6, parameters),
            (counts.macs / 1e6, macs),
            (time, latency),
        )
        if all(budget is None or (cost or 0) <= budget for cost, budget in budgets):
            found.append((variant, counts, time))
    return sorted(found, key=lambda one: (-one[1].macs, -one[1].trainable, one[0].widths))


def features(variant: Variant) -> np.ndarray:
    """Returns what the latency of a variant is predicted from, see `FEATURES`."""
    side, depthwise = 224, 0
    for block in variant.blocks():
        side = -(-side // block.strides)
        if block.depthwise:
            depthwise += block.kernel_size**2 * block.filters * side**2
    other = variant_complexity(variant, deploy=True).macs - depthwise
    return np.array([1, other / 1e6, depthwise / 1e6])


def measured(device: Path) -> list[tuple[Variant, float]]:
    """Returns the known variants in a stored benchmark with their medians in ms."""
    names = {variant.name: variant for variant in ALL_VARIANTS.values()}
    found = []
    for one in load_benchmark(device).latencies:
        match = re.match(r"(mobileone_\w+?(?:_unofficial)?)\.tflite", Path(one.path).name)
        if match and match[1] in names:
            found.append((names[match[1]], one.median))
    if len(found) < len(FEATURES) + 1:
        raise SystemExit(
            f"Expected the times of at least {len(FEATURES) + 1} files of --prepare. Received: "
            f"{device} with {len(found)}."
        )
    return found


def fit_latency(times: list[tuple[Variant, float]]) -> tuple[np.ndarray, float]:
    """Fits the coefficients, none of which is negative, to measured times.

    Returns:
        The coefficients, and the largest relative error of a file that was left out of a fit.
    """
    inputs = np.stack([features(variant) for variant, _ in times])
    medians = np.array([median for _, median in times])
    errors = []
    for index in range(len(times)):
        rest = np.arange(len(times)) != index
        predicted = inputs[index] @ _non_negative(inputs[rest], medians[rest])
        errors.append(abs(predicted / medians[index] - 1))
    return _non_negative(inputs, medians), max(errors)


def _non_negative(inputs: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """Minimizes the squared relative errors over coefficients of at least 0."""
    coefficients, _ = nnls(inputs / medians[:, None], np.ones(len(medians)))
    return coefficients


if __name__ == "__main__":
    main()
