"""Measures what `fuse` saves: MobileOne at train time and fused, as float32 TFLite files.

python benchmarks/fused.py    writes results/<machine>/fused.json, .png
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import study
from drawing import BLUE, GREEN, figure
from study import Network, Study, conditions_text, milliseconds, ratio, scatter_text

from keras_mobileone import VARIANTS, MobileOne
from keras_mobileone.benchmarking.baselines import PEERS, export_network
from keras_mobileone.deployment.report import markdown_table

PEAK_MEMORY = Path(__file__).with_name("peak_memory.py")
MEMORY_RUNS = 3


def _unfused(key: str) -> Network:
    build = partial(MobileOne, key, weights=None, classifier_activation=None)
    return Network(f"MobileOne{key.upper()}-unfused", build)


# The unfused and the fused network of each variant.
FORMS = {key.upper(): (_unfused(key), PEERS[f"MobileOne{key.upper()}"]) for key in VARIANTS}
NETWORKS = [network for forms in FORMS.values() for network in forms]


def prepare(files: Path) -> None:
    """Exports both forms of every variant. The converter folds batch normalization in both."""
    for network in NETWORKS:
        study.export(network, files)


def measure(files: Path, rounds: int, runs: int) -> dict:
    """Measures latency, size and memory of both forms."""
    rows, conditions = study.time_files(
        [(network, "float32") for network in NETWORKS], files, rounds=rounds, runs=runs
    )
    for network, row in zip(NETWORKS, rows, strict=True):
        row["memory"] = memory(export_network(network.name, network.build, files))
    return {"conditions": conditions, "rows": rows}


def memory(path: Path) -> dict[str, float | None]:
    """Returns `loaded` and `peak` of a process that runs the file, in MiB."""
    command = [sys.executable, "-P", PEAK_MEMORY, path, MEMORY_RUNS]
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    )
    return json.loads(process.stdout)


def pairs(result: dict) -> dict[str, tuple[dict, dict]]:
    """Returns the unfused and the fused row of each variant."""
    rows = result["rows"]
    return dict(zip(FORMS, zip(rows[::2], rows[1::2], strict=True), strict=True))


def above_runtime(row: dict) -> float | None:
    """Returns peak memory in MiB without the memory of the runtime itself."""
    found = row["memory"]
    return None if found["peak"] is None else found["peak"] - found["loaded"]


def table(result: dict) -> str:
    """Returns a table with unfused → fused for every variant."""

    def arrow(function: Callable, form: str, unfused: dict, fused: dict) -> str:
        values = [function(row) for row in (unfused, fused)]
        return "–" if None in values else " → ".join(form.format(value) for value in values)

    rows = [
        (
            name,
            arrow(milliseconds, "{:.1f}", *pair),
            f"{ratio(*pair):.2f}",
            arrow(lambda row: row["latency"]["bytes"] / 1e6, "{:.1f}", *pair),
            arrow(above_runtime, "{:.0f}", *pair),
        )
        for name, pair in pairs(result).items()
    ]
    return markdown_table(("unfused → fused", "ms", "times faster", "MB", "peak MiB"), rows)


def sentence(result: dict) -> str:
    """Returns sentences on what fusing saves."""
    found = {name: ratio(*pair) for name, pair in pairs(result).items()}
    least, most = min(found, key=found.get), max(found, key=found.get)
    return (
        f"Fused, MobileOne takes between {100 / found[most]:.0f} % ({most}) and "
        f"{100 / found[least]:.0f} % ({least}) of the time it takes with its branches."
    )


def markdown(result: dict, picture: str) -> str:
    """Returns the study as Markdown."""
    loaded = [row["memory"]["loaded"] for row in result["rows"]]
    note = "float32, 1 thread. " + scatter_text(list(pairs(result).values()))
    if None not in loaded:
        note += (
            "Peak MiB: resident memory of a process that runs the file, above the "
            f"{max(loaded):.0f} of Python with LiteRT alone. "
        )
    return "\n\n".join(
        [
            sentence(result),
            table(result),
            note + conditions_text(result["conditions"]),
            f"![Latency, size and memory, unfused and fused]({picture})",
        ]
    )


def draw(result: dict) -> Any:
    """Draws latency, size and memory of each variant, unfused and fused."""
    page, axes = figure(11, 3.4, columns=3)
    found = pairs(result)
    panels = {
        "latency, ms": milliseconds,
        "file, MB": lambda row: row["latency"]["bytes"] / 1e6,
        "peak memory, MiB": above_runtime,
    }
    for axis, (title, function) in zip(axes, panels.items(), strict=True):
        for side, (label, color) in enumerate((("unfused", BLUE), ("fused", GREEN))):
            values = [function(pair[side]) or 0 for pair in found.values()]
            places = [index + (side - 0.5) * 0.4 for index in range(len(values))]
            drawn = axis.bar(places, values, width=0.38, color=color, label=label)
            axis.bar_label(drawn, [f"{value:.0f}" for value in values], padding=2, fontsize=9)
        axis.set_xticks(range(len(found)), list(found), fontsize=10)
        axis.set_title(title, fontsize=11, loc="left")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.set_yticks([])
        axis.margins(y=0.12)
    axes[0].legend(frameon=False, fontsize=10, loc="upper left")
    page.suptitle(f"float32, 1 thread of {result['conditions']['processor']}", fontsize=10)
    return page


STUDIES = (Study("fused", prepare, measure, draw),)

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
