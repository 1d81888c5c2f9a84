"""Compares published accuracy and measured latency of MobileOne and other networks.

python benchmarks/peers.py --prepare    exports the files into build/peers/
python benchmarks/peers.py              measures them, writes results/<machine>/peers.json, .png
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastvit
import mobile_former
import mobilenet_v4
import repvit
import study
from drawing import BLUE, GREEN, GREY, RED, clean, figure, label_points, logarithmic
from study import Study, by_column, conditions_text, milliseconds, ratio, scatter_text

from keras_mobileone.applications import DEFAULT_SIZE
from keras_mobileone.benchmarking.baselines import PEERS
from keras_mobileone.choices import DEPLOY_PRECISIONS
from keras_mobileone.deployment.report import markdown_table

BUILT_HERE = (
    mobile_former.peer("294M"),
    mobile_former.peer("508M"),
    *map(mobilenet_v4.peer, mobilenet_v4.VARIANTS),
    *map(repvit.peer, repvit.VARIANTS),
    fastvit.peer(),
)
NETWORKS = {network.name: network for network in (*PEERS.values(), *BUILT_HERE)}
REFERENCE, FAMILY = "MobileOneS0", "MobileOne"
COMPARED = ("float32", "int8")  # the precisions of the figure and of the conclusions
# Families, color and style of each kind of network in the figure.
KINDS = {
    "MobileOne": ((FAMILY,), RED, "o-"),
    "MobileFormer": (("MobileFormer",), BLUE, "s"),
    "2023 and later": (("MobileNetV4", "RepViT", "FastViT"), GREEN, "D"),
    "others": ((), GREY, "o"),
}
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
        network = NETWORKS[row["name"]]
        row |= {"top1": network.top1, "source": network.source, "pixels": network.pixels}
    return {"conditions": conditions, "rows": rows}


def table(result: dict) -> str:
    """Returns a table of accuracy, size, and latency with its ratio to S0 in the same column."""
    columns = by_column(result["rows"])
    header = ["", "top-1", "parameters", "MACs"]
    header += [f"{precision}, {threads}" for precision, threads in COLUMNS]
    rows = []
    for name, row in columns[COLUMNS[0]].items():
        cells = [_with_size(row), f"{row['top1']:.1f}"]
        cells += [f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e6:,.0f} M"]
        for column in columns.values():
            one = column[name]
            cells.append(f"{milliseconds(one):.1f} ({ratio(one, column[REFERENCE]):.2f})")
        rows.append(cells)
    return markdown_table(header, rows)


def _with_size(row: dict) -> str:
    """Returns the name of a network, with the size of its images if it is not the usual one."""
    pixels = row.get("pixels", DEFAULT_SIZE)  # results before other sizes do not tell it
    return row["name"] if pixels == DEFAULT_SIZE else f"{row['name']}, {pixels} px"


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
        for precision in COMPARED
    ]
    return (
        "With one thread, no other network in this table is both as fast and as accurate as one of "
        f"these: {'; '.join(lists)}. The order may differ on another processor, especially on a "
        "phone."
    )


def overtaken(rows: Iterable[dict]) -> dict[str, list[str]]:
    """Returns each MobileOne with the other networks that are faster and more accurate.

    The others come in the order of their latency; a MobileOne without any is left out.
    """
    ordered = sorted(rows, key=milliseconds)
    found = {}
    for own in (row for row in ordered if row["name"].startswith(FAMILY)):
        better = [
            row["name"]
            for row in ordered
            if not row["name"].startswith(FAMILY)
            and milliseconds(row) < milliseconds(own)
            and row["top1"] > own["top1"]
        ]
        if better:
            found[own["name"]] = better
    return found


def better_choices(result: dict) -> str:
    """Returns sentences on where MobileOne is not the best choice on this machine."""
    columns = by_column(result["rows"])
    sentences = []
    for precision in COMPARED:
        found = overtaken(columns[precision, 1].values())
        pairs = "; ".join(f"{own} by {', '.join(names)}" for own, names in found.items())
        none = f"In {precision}, no MobileOne is beaten in both latency and accuracy."
        beaten = f"In {precision}, MobileOne is beaten in both latency and accuracy: {pairs}."
        sentences.append(beaten if found else none)
    return " ".join(sentences)


def better_than_both(result: dict) -> str:
    """Returns a sentence on the networks that beat an S0 … S4 in float32 and in int8."""
    columns = by_column(result["rows"])
    floats, integers = (overtaken(columns[precision, 1].values()) for precision in COMPARED)
    pairs, unbeaten = [], []
    for own in (f"{FAMILY}S{i}" for i in range(5)):
        names = [name for name in floats.get(own, ()) if name in integers.get(own, ())]
        if names:
            pairs.append(f"{names[0]} than {own.removeprefix(FAMILY)}")
        else:
            unbeaten.append(own.removeprefix(FAMILY))
    if not pairs:
        return "No other network there is both faster and more accurate than one of S0 … S4."
    text = "Some networks are both faster and more accurate there, in float32 and in int8: "
    none = f". There is none for {', '.join(unbeaten)}" if unbeaten else ""
    return f"{text}{', '.join(pairs)}{none}."


def markdown(result: dict, picture: str) -> str:
    """Returns the study as Markdown."""
    text = (
        "Median milliseconds, with the ratio to S0 in parentheses. Each column is for one "
        "precision and number of threads. Images have 224 pixels unless the name says otherwise. "
        "Parameters without BN statistics, MACs with the "
        "classifier. int8 is the converter's own, calibrated on noise, for latency only. Top-1 in "
        "% is published, "
        f"not measured here ({sources(result)}). "
    )
    columns = by_column(result["rows"]).values()
    text += scatter_text([(row, rows[REFERENCE]) for rows in columns for row in rows.values()])
    conclusions = [frontier(result), better_choices(result)]
    parts = [table(result), *conclusions, text + conditions_text(result["conditions"])]
    return "\n\n".join([*parts, f"![Published top-1 against latency]({picture})"])


def _is_of(row: dict, names: tuple[str, ...]) -> bool:
    """Returns whether a network belongs to families; without names, whether to no other kind."""
    if names:
        return row["name"].startswith(names)
    return not any(row["name"].startswith(others) for others, *_ in KINDS.values() if others)


def _short(name: str) -> str:
    """Returns a name without the name of the family, which is shown by the color."""
    return name.removeprefix(FAMILY).removeprefix("MobileFormer")


def draw(result: dict) -> Any:
    """Draws accuracy against latency with one thread, for float32 and int8."""
    page, axes = figure(13, 6.5, columns=2)
    columns = by_column(result["rows"])
    for axis, precision in zip(axes, COMPARED, strict=True):
        rows = columns[precision, 1].values()
        logarithmic(axis)
        for kind, (names, color, style) in KINDS.items():
            points = [(milliseconds(row), row["top1"]) for row in rows if _is_of(row, names)]
            if points:
                x, y = zip(*sorted(points), strict=True)
                axis.plot(x, y, style, color=color, ms=6, lw=0.8, zorder=3, label=kind)
        axis.margins(x=0.16, y=0.12)
        axis.legend(frameon=False, fontsize=10, loc="lower right")
        axis.set_title(f"{precision}, 1 thread", fontsize=12, loc="left")
        axis.set_xlabel("latency, ms", fontsize=11)
        axis.set_ylabel("published top-1, %", fontsize=11)
        axis.tick_params(labelsize=10)
        axis.grid(alpha=0.25)
        clean(axis)
    page.suptitle(result["conditions"]["processor"], fontsize=11)
    for axis, precision in zip(axes, COMPARED, strict=True):
        rows = columns[precision, 1].values()
        # The names are placed in the order of latency, so that crowded places are filled from the
        # left.
        points = sorted((milliseconds(row), row["top1"], _short(row["name"])) for row in rows)
        label_points(axis, points, size=9)
    return page


STUDIES = (Study("peers", prepare, measure, draw),)

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
