"""Measures speed and memory of a training step: by branch, in one pass, and without branches.

    python benchmarks/train_step.py --output benchmarks/results/train_step.json \
        --pytorch ml-mobileone/mobileone.py --pytorch-python torch/bin/python

Each method runs in a separate process, because peak memory is measured by process. All processes
are ready before the first round. Methods are interleaved, and ratios are computed within a round.
The lower bound is the deploy topology with one batch normalization after each convolution: a
network without branches, as it would be trained. The authors' PyTorch code is measured too if the
path of its `mobileone.py` (https://github.com/apple/ml-mobileone) is given, in an environment with
PyTorch.
"""

import argparse
import atexit
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import turns

from keras_mobileone.benchmarking import processor_name
from keras_mobileone.files import atomic_write
from keras_mobileone.layers.batch_norm import FusedBatchNorm
from keras_mobileone.layers.block import MobileOneBlock
from keras_mobileone.models.network import build
from keras_mobileone.training.optimizer import make_optimizer
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.training.trainer import Trainer
from keras_mobileone.variants import get_variant

METHODS = ("branch by branch", "one pass", "plain network")
PYTORCH = "authors' PyTorch"


def main() -> None:
    """Measures rounds of steps and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, help="JSON file; rows of other variants in it are kept"
    )
    parser.add_argument("--variants", nargs="+", default=["s0"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each method in a round")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pytorch", type=Path, help="the authors' mobileone.py")
    parser.add_argument(
        "--pytorch-python", default=sys.executable, help="interpreter that has PyTorch"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        serve(*arguments.measure, arguments)
        return
    if arguments.pytorch and not arguments.pytorch.is_file():
        parser.error(f"Expected the authors' mobileone.py. Received: {arguments.pytorch}, no file.")
    if arguments.pytorch and arguments.dtype != "float32":
        parser.error(f"PyTorch is measured in float32. Received: --dtype {arguments.dtype}.")
    if arguments.pytorch and not has_pytorch(arguments.pytorch_python):
        parser.error(
            "Expected an interpreter that imports torch. "
            f"Received: --pytorch-python {arguments.pytorch_python}."
        )
    for variant in arguments.variants:
        rows = measure(variant, arguments)
        for row in rows:
            memory = "" if row["gibibytes"] is None else f"  {row['gibibytes']:.2f} GiB"
            print(
                f"{variant} {row['method']:17} {row['images_per_second']:6.1f} images/s "
                f"({row['ratio']:.2f}){memory}",
                flush=True,
            )
        if arguments.output:
            write(arguments.output, rows)


def measure(variant: str, arguments: argparse.Namespace) -> list[dict]:
    """Returns one row for each method."""
    workers = {method: start(variant, method) for method in METHODS}
    if arguments.pytorch:
        workers[PYTORCH] = start_pytorch(variant, arguments)
    before = {method: answer(worker) for method, worker in workers.items()}
    rounds = []
    for _ in range(arguments.rounds):
        seconds = {}
        for method, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            seconds[method] = answer(worker)["seconds"]
        rounds.append(seconds)
    rows = []
    for method, worker in workers.items():
        worker.stdin.close()
        rows.append(
            {
                "variant": variant,
                "method": method,
                "images_per_second": arguments.batch_size
                / statistics.median(seconds[method] for seconds in rounds),
                "ratio": statistics.median(s[METHODS[0]] / s[method] for s in rounds),
                "gibibytes": answer(worker)["gibibytes"],
                "gibibytes_before": before[method].pop("gibibytes"),
                "seconds_per_step": [seconds[method] for seconds in rounds],
                "conditions": conditions(arguments) | before[method],
            }
        )
    return rows


def start(variant: str, method: str) -> subprocess.Popen:
    """Starts a process that measures one method and waits for a line before each round."""
    return spawn([sys.executable, *sys.argv, "--measure", variant, method])


def start_pytorch(variant: str, arguments: argparse.Namespace) -> subprocess.Popen:
    """Starts a process that measures the authors' code and waits for a line before each round."""
    sizes = map(str, (arguments.batch_size, arguments.size, arguments.steps))
    script = Path(__file__).with_name("pytorch_step.py")
    return spawn([arguments.pytorch_python, script, arguments.pytorch, variant, *sizes])


def has_pytorch(python: str) -> bool:
    """Returns whether an interpreter exists and has PyTorch."""
    try:
        check = subprocess.run([python, "-c", "import torch"], capture_output=True)
    except OSError:
        return False
    return check.returncode == 0


def spawn(command: Sequence[str | Path]) -> subprocess.Popen:
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(worker.kill)  # even if another worker has failed
    return worker


def answer(worker: subprocess.Popen) -> dict:
    """Returns the next line of a worker that is JSON. Other lines are skipped."""
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"A worker stopped with exit code {worker.wait()}. Its output is above.")


def serve(variant: str, method: str, arguments: argparse.Namespace) -> None:
    """Runs a worker, which prints its memory and the seconds of a step in each round."""
    size, batch = arguments.size, arguments.batch_size
    recipe = Recipe(
        "step", get_variant(variant), 10, (Phase(0, size),), batch, dtype=arguments.dtype
    )
    trainer = Trainer(make_network(recipe, method), recipe)
    trainer.compile(make_optimizer(recipe, 100))
    # As in `train`; otherwise the step is traced twice.
    trainer.optimizer.build(trainer.trainable_variables)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = rng.integers(0, 1000, batch)
    turns.serve(lambda: trainer.train_on_batch(images, labels), arguments.steps)


def make_network(recipe: Any, method: str) -> keras.Model:
    """Returns a network that is trained by `method`."""
    image = keras.Input((None, None, 3))
    options = {"classes": 1000, "classifier_activation": None, "dtype": recipe.dtype}
    if method == "plain network":
        return plain_network(recipe)
    network = build(recipe.variant, image, **options)
    if method == "branch by branch":  # with Keras' own layers
        FusedBatchNorm.call = keras.layers.BatchNormalization.call
        for layer in network.layers:
            if isinstance(layer, MobileOneBlock):
                layer.one_pass = False
    return network


def plain_network(recipe: Any) -> keras.Model:
    """Returns the deploy topology with a batch normalization after each convolution."""
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


def conditions(arguments: argparse.Namespace) -> dict:
    """Returns the conditions that the results depend on."""
    backend = keras.backend.backend()
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "batch": arguments.batch_size,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "as TensorFlow chooses"),
        "backend": backend,
        "keras": keras.__version__,
        backend: version(backend),
    }


def write(path: Path, rows: list[dict]) -> None:
    """Adds the rows to those of other variants in a JSON file."""
    stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    stored = [row for row in stored if row["variant"] != rows[0]["variant"]]
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"rows": stored + rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
