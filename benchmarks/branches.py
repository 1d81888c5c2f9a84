"""Compares one branch with four: S0 trained with k = 1 and k = 4, with equal recipes and seeds.

    python benchmarks/branches.py --data imagenette/ --runs runs/ \
        --output benchmarks/results/branches.json

The runs are kept in --runs. Finished runs are not repeated, and an interrupted run is resumed. The
accuracy is that of the weights after the last epoch, not of their moving average, which hardly
changes within a few epochs.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from keras_mobileone.files import atomic_write
from keras_mobileone.training.callbacks import CHECKPOINT
from keras_mobileone.training.recipe import Phase, Recipe
from keras_mobileone.variants import S0

BRANCHES = (1, 4)
REPORT = "report.json"
RECIPE = Recipe(
    "branches",
    S0,
    epochs=32,
    phases=(Phase(0, 64),),
    batch_size=64,
    learning_rate=0.4,
    warmup_epochs=3,
    weight_decay=2e-4,
    final_weight_decay=2e-5,
    ema_decay=0.998,
    crop_area=(0.25, 1.0),
)


def main() -> None:
    """Runs the missing trainings and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    arguments.runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in arguments.seeds:
        for branches in BRANCHES:
            report = run(arguments, branches, seed)
            rows.append(
                {
                    "branches": branches,
                    "seed": seed,
                    "top1": report["history"][-1]["val_top1"],
                    "training_loss": report["history"][-1]["loss"],
                    "seconds": report["seconds"],
                }
            )
            print(rows[-1], flush=True)
    result = {
        "rows": rows,
        "epochs": arguments.epochs,
        "size": arguments.size,
        "training_images": report["training_images"],
        "validation_images": report["validation_images"],
        "recipe": report["recipe"],
        "conditions": report["conditions"],
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def run(arguments: argparse.Namespace, branches: int, seed: int) -> dict:
    """Returns the report of a training, which is run first if necessary."""
    directory = arguments.runs / f"k{branches}-seed{seed}"
    if not (directory / REPORT).is_file():
        variant = dataclasses.replace(S0, name=f"{S0.name}_k{branches}", num_conv_branches=branches)
        recipe = dataclasses.replace(
            RECIPE.with_epochs(arguments.epochs),
            variant=variant,
            phases=(Phase(0, arguments.size),),
            seed=seed,
        )
        path = directory.with_suffix(".recipe.json")
        recipe.save(path)
        command = [sys.executable, "-m", "keras_mobileone", "train", "--data", arguments.data]
        command += ["--recipe", path, "--output", directory]
        resume = ["--resume"] if (directory / CHECKPOINT).is_file() else []
        subprocess.run([*command, *resume], check=True)
    return json.loads((directory / REPORT).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
