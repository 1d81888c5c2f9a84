"""Images per second and memory of a training step: branch by branch, in one pass, deploy topology.

    python benchmarks/train_step.py --output benchmarks/results/train_step.json

Each method runs in a process of its own, since peak memory is a process'; the methods of a variant
take turns, round by round, and ratios are of the same round. The floor is the deploy topology with
one batch normalization after each convolution: a network without branches, as it would be trained.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from keras_mobileone.benchmarking import processor_name
from keras_mobileone.files import atomic_write
from keras_mobileone.layers import MobileOneBlock
from keras_mobileone.network import build
from keras_mobileone.training.optimizer import make_optimizer
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.training.trainer import Trainer
from keras_mobileone.variants import get_variant

METHODS = ("branch by branch", "one pass", "plain network")
WARM_UP = 2  # steps, the first of which traces


def main():
    """Measures in rounds of processes and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--variants", nargs="+", default=["s0"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        variant, method = arguments.measure
        print(json.dumps(measure(variant, method, arguments)))
        return
    rows = []
    for variant in arguments.variants:
        rounds = {method: [] for method in METHODS}
        for number in range(arguments.rounds):
            for method in METHODS:
                rounds[method].append(in_a_process(variant, method))
            print(f"{variant}: round {number + 1} of {arguments.rounds}", flush=True)
        rows += [summary(variant, method, rounds) for method in METHODS]
        for row in rows[-len(METHODS) :]:
            print(row["method"], f"{row['images_per_second']:.1f}/s", f"{row['gigabytes']:.2f} GB")
    if arguments.output:
        write(arguments, rows)


def in_a_process(variant, method) -> dict:
    """What `measure` returns, measured in a fresh process."""
    command = [sys.executable, *sys.argv, "--measure", variant, method]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def measure(variant, method, arguments) -> dict:
    """Images per second (median step) and peak gigabytes of one method."""
    size, batch = arguments.size, arguments.batch_size
    recipe = Recipe(
        "step", get_variant(variant), 10, (Phase(0, size),), batch, dtype=arguments.dtype
    )
    network = make_network(recipe, method)
    trainer = Trainer(network, recipe)
    trainer.compile(make_optimizer(recipe, 100))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = rng.integers(0, 1000, batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(WARM_UP + arguments.steps):
        start = time.perf_counter()
        trainer.train_on_batch(images, labels)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images_per_second": batch / statistics.median(seconds[WARM_UP:]),
        "gigabytes": peak / 2**20,
        "gigabytes_before": before / 2**20,
    }


def make_network(recipe, method) -> keras.Model:
    """A network that trains by `method`."""
    image = keras.Input((None, None, 3))
    options = {"classes": 1000, "classifier_activation": None, "dtype": recipe.dtype}
    if method == "plain network":
        return plain_network(recipe)
    network = build(recipe.variant, image, **options)
    for layer in network.layers:
        if isinstance(layer, MobileOneBlock):
            layer.one_pass = method == "one pass"
    return network


def plain_network(recipe) -> keras.Model:
    """The deploy topology with a batch normalization after each convolution."""
    dtype = recipe.dtype
    x = image = keras.Input((None, None, 3))
    for spec in recipe.variant.blocks():
        if spec.kernel_size > 1:
            x = keras.layers.ZeroPadding2D(1, dtype=dtype)(x)
        if spec.depthwise:
            conv = keras.layers.DepthwiseConv2D(
                spec.kernel_size, spec.strides, use_bias=False, dtype=dtype
            )
        else:
            conv = keras.layers.Conv2D(
                spec.filters, spec.kernel_size, spec.strides, use_bias=False, dtype=dtype
            )
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype)(conv(x))
        x = keras.layers.ReLU(dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(image, keras.layers.Dense(1000, dtype=dtype)(x))


def summary(variant, method, rounds) -> dict:
    """Medians over the rounds; ratio to branch by branch of the same round."""
    reference, found = rounds[METHODS[0]], rounds[method]
    ratios = [
        a["images_per_second"] / b["images_per_second"]
        for a, b in zip(found, reference, strict=True)
    ]
    return {
        "variant": variant,
        "method": method,
        "images_per_second": statistics.median(r["images_per_second"] for r in found),
        "ratio": statistics.median(ratios),
        "gigabytes": statistics.median(r["gigabytes"] for r in found),
        "gigabytes_before": statistics.median(r["gigabytes_before"] for r in found),
        "rounds": found,
    }


def write(arguments, rows) -> None:
    """The rows and their conditions as JSON."""
    backend = keras.backend.backend()
    conditions = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "batch": arguments.batch_size,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "backend": backend,
        "keras": keras.__version__,
        backend: version(backend),
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps({"rows": rows, "conditions": conditions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
