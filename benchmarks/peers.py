"""Compares published accuracy and measured latency of MobileOne and other networks.

python benchmarks/peers.py --prepare    exports the files into build/peers/
python benchmarks/peers.py              measures them, writes results/<machine>/peers.json, .png
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import study
from drawing import BLUE, GREY, RED, clean, figure, label_points, logarithmic
from mobile_former import peer as mobile_former
from study import Study, by_column, conditions_text, milliseconds, ratio, scatter_text

from keras_mobileone.benchmarking.baselines import PEERS
from keras_mobileone.choices import DEPLOY_PRECISIONS
from keras_mobileone.deployment.report import markdown_table

NETWORKS = {p.name: p for p in (*PEERS.values(), mobile_former("294M"), mobile_former("508M"))}
REFERENCE = "MobileOneS0"
THREADS = (1, 2)
COLUMNS = [(precision, threads) for threads in THREADS for precision in DEPLOY_PRECISIONS]


def prepare(files: Path) -> None:
    """Exports every network in every precision."""
    for network in NETWORKS.values():
        study.export(network, files, DEPLOY_PRECISIONS)


def measure(files: Path, rounds: int, runs: int) -> dict:
    """Measures every network in every precision, with one thread and with two."""
    rows, conditions = study.time_columns(
        list(NETWORKS.values()), DEPLOY_PRECISIONS, THREADS, files, rounds=rounds, runs=runs
    )
    for row in rows:
        row |= {"top1": NETWORKS[row["name"]].top1, "source": NETWORKS[row["name"]].source}
    return {"conditions": conditions, "rows": rows}


def table(result: dict) -> str:
    """Returns a table of accuracy, size, and latency with its ratio to S0 in the same column."""
    columns = by_column(result["rows"])
    header = ["", "top-1", "parameters", "MACs"]
    header += [f"{precision}, {threads}" for precision, threads in COLUMNS]
    rows = []
    for name, row in columns[COLUMNS[0]].items():
        cells = [name, f"{row['top1']:.1f}"]
        cells += [f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e6:,.0f} M"]
        for column in columns.values():
            one = column[name]
            cells.append(f"{milliseconds(one):.1f} ({ratio(one, column[REFERENCE]):.2f})")
        rows.append(cells)
    return markdown_table(header, rows)


def sources(result: dict) -> str:
    """Returns a sentence on the sources of the accuracy."""
    named = {}
    for row in result["rows"]:
        if row["name"] not in named.setdefault(row["source"], []):
            named[row["source"]].append(row["name"])
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in named.items())


def unbeaten(rows: Iterable[dict]) -> list[str]:
    """Returns the networks on the Pareto front of latency and accuracy, fastest first."""
    best, names = -1.0, []
    for row in sorted(rows, key=lambda row: (milliseconds(row), -row["top1"])):
        if row["top1"] > best:
            best = row["top1"]
            names.append(row["name"])
    return names


def frontier(result: dict) -> str:
    """Returns sentences on the networks of the Pareto front on this machine."""
    columns = by_column(result["rows"])
    lists = [
        f"{', '.join(unbeaten(columns[precision, 1].values()))} in {precision}"
        for precision in ("float32", "int8")
    ]
    return (
        "With one thread, no other network in this table is both as fast and as accurate as one of "
        f"these: {'; '.join(lists)}. The order may differ on another processor, especially on a "
        "phone."
    )


def markdown(result: dict, picture: str) -> str:
    """Returns the study as Markdown."""
    text = (
        "Median milliseconds, with the ratio to S0 in parentheses. Each column is for one "
        "precision and number of threads. Parameters without BN statistics, MACs with the "
        "classifier. int8 is the converter's own, calibrated on noise, for latency only. Top-1 in "
        "% is published, "
        f"not measured here ({sources(result)}). "
    )
    columns = by_column(result["rows"]).values()
    text += scatter_text([(row, rows[REFERENCE]) for rows in columns for row in rows.values()])
    parts = [table(result), frontier(result), text + conditions_text(result["conditions"])]
    return "\n\n".join([*parts, f"![Published top-1 against latency]({picture})"])


def _short(name: str) -> str:
    """Returns a name without the name of the family, which is shown by the color."""
    return name.removeprefix("MobileOne").removeprefix("MobileFormer")


def draw(result: dict) -> Any:
    """Draws accuracy against latency with one thread, for float32 and int8."""
    page, axes = figure(12, 5.2, columns=2)
    columns = by_column(result["rows"])
    for axis, precision in zip(axes, ("float32", "int8"), strict=True):
        rows = columns[precision, 1].values()
        logarithmic(axis)
        kinds = {
            "MobileOne": (RED, "o-"),
            "MobileFormer": (BLUE, "s"),
            "": (GREY, "o"),
        }
        points = {kind: [] for kind in kinds}
        for row in rows:
            kind = next(kind for kind in kinds if row["name"].startswith(kind))
            points[kind].append((milliseconds(row), row["top1"], row["name"]))
        for kind, (color, style) in kinds.items():
            x, y, _ = zip(*points[kind], strict=True)
            axis.plot(x, y, style, color=color, ms=6, lw=0.8, zorder=3, label=kind or "others")
        axis.margins(x=0.16, y=0.12)
        axis.legend(frameon=False, fontsize=10, loc="lower right")
        axis.set_title(f"{precision}, 1 thread", fontsize=12, loc="left")
        axis.set_xlabel("latency, ms", fontsize=11)
        axis.set_ylabel("published top-1, %", fontsize=11)
        axis.tick_params(labelsize=10)
        axis.grid(alpha=0.25)
        clean(axis)
    page.suptitle(result["conditions"]["processor"], fontsize=11)
    for axis, precision in zip(axes, ("float32", "int8"), strict=True):
        rows = columns[precision, 1].values()
        # The names are placed in the order of latency, so that crowded places are filled from the
        # left.
        points = sorted((milliseconds(row), row["top1"], _short(row["name"])) for row in rows)
        label_points(axis, points, size=10)
    return page


STUDIES = (Study("peers", prepare, measure, draw),)

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
