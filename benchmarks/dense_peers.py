"""Compares latency of segmentation and detection over MobileOne with that over other backbones.

python benchmarks/dense_peers.py --prepare    exports the files into build/peers/
python benchmarks/dense_peers.py              measures, and writes dense_peers.json and .png
"""

from pathlib import Path
from typing import Any

import study
from drawing import GREY, RED, bars, figure
from study import Study, conditions_text, milliseconds, ratio, scatter_text

from keras_mobileone.benchmarking.dense_baselines import (
    COCO_CLASSES,
    DENSE_PEERS,
    SEGMENTATION_SIZE,
    VOC_CLASSES,
)
from keras_mobileone.dense_applications import DETECTION_SIZE
from keras_mobileone.deployment.report import markdown_table

# int8 differs most from float32. float16 computes as float32 does on a CPU, see `peers`.
PRECISIONS = ("float32", "int8")
THREADS = (1, 2)
COLUMNS = [(precision, threads) for threads in THREADS for precision in PRECISIONS]
REFERENCE = "MobileOneS0"
HEADS = {"segment": "DeepLabV3", "detect": "SSDLite"}
TITLES = {
    "segment": f"DeepLabV3, {SEGMENTATION_SIZE} pixels, {VOC_CLASSES} classes",
    "detect": f"SSDLite, {DETECTION_SIZE} pixels, {COCO_CLASSES} classes",
}
METRICS = {"segment": "VOC mIoU, published", "detect": "COCO mAP, published"}


def prepare(files: Path) -> None:
    """Exports every network in every precision."""
    for network in DENSE_PEERS.values():
        study.export(network, files, PRECISIONS)


def measure(files: Path, rounds: int, runs: int) -> dict:
    """Measures every network in every precision, with one thread and with two."""
    rows, conditions = study.time_columns(
        list(DENSE_PEERS.values()), PRECISIONS, THREADS, files, rounds=rounds, runs=runs
    )
    for row in rows:
        network = DENSE_PEERS[row["name"]]
        row |= {"task": network.task, "accuracy": network.accuracy, "source": network.source}
    return {"conditions": conditions, "rows": rows}


def of_task(result: dict, task: str) -> dict[tuple[str, int], dict[str, dict]]:
    """Returns the rows of a task by (precision, threads) and then by the name of the network."""
    return study.by_column([row for row in result["rows"] if row["task"] == task])


def reference_of(task: str) -> str:
    """Returns the name of the network that the ratios of a task refer to."""
    return f"{HEADS[task]}-{REFERENCE}"


def short(name: str, task: str) -> str:
    """Returns the name of the backbone, or that of the network if its head is another one."""
    return name.removeprefix(f"{HEADS[task]}-")


def table(result: dict, task: str) -> str:
    """Returns a table of accuracy, size, and latency with its ratio to S0 in the same column."""
    columns = of_task(result, task)
    header = [TITLES[task], METRICS[task], "parameters", "MACs"]
    header += [f"{precision}, {threads}" for precision, threads in columns]
    rows = []
    for name, row in next(iter(columns.values())).items():
        accuracy = "–" if row["accuracy"] is None else f"{row['accuracy']:.1f}"
        cells = [short(name, task), accuracy]
        cells += [f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f} G"]
        for column in columns.values():
            one = column[name]
            quotient = ratio(one, column[reference_of(task)])
            cells.append(f"{milliseconds(one):.1f} ({quotient:.2f})")
        rows.append(cells)
    return markdown_table(header, rows)


def sentence(result: dict, task: str) -> str:
    """Returns a sentence on the latency beside MobileNetV2, with one thread."""
    parts = []
    for precision in PRECISIONS:
        rows = of_task(result, task)[precision, 1]
        peer = rows[f"{HEADS[task]}-MobileNetV2"]
        quotients = [
            f"{ratio(row, peer):.2f} (S{name[-1]})"
            for name, row in rows.items()
            if name.startswith(f"{HEADS[task]}-MobileOne")
        ]
        parts.append(f"{precision}: {', '.join(quotients)}")
    return (
        f"Latency of {HEADS[task]} over MobileOne relative to MobileNetV2, with one thread of "
        f"{result['conditions']['processor']}: {'; '.join(parts)}."
    )


def note(result: dict) -> str:
    """Returns what all tables have in common, and the conditions."""
    sources: dict[str, list[str]] = {}
    for row in result["rows"]:
        if row["accuracy"] is not None and row["name"] not in sources.setdefault(row["source"], []):
            sources[row["source"]].append(row["name"])
    named = "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items())
    pairs = []
    for task in HEADS:
        for rows in of_task(result, task).values():
            pairs += [(row, rows[reference_of(task)]) for row in rows.values()]
    return (
        "Median milliseconds, with the ratio to S0 in parentheses. Each column is for one "
        "precision and number of threads. All have the heads of this package, with a separable "
        "ASPP at output stride 16 and raw boxes, so that only the backbone differs; LiteRASPP has "
        "its own. Parameters without BN statistics. int8 has the ranges of `quantize`, for latency "
        f"only. Accuracy is published, not measured here ({named}). The published networks differ "
        "from these in their heads: see [the paper's tables]"
        "(../paper.md#segmentation-and-detection). "
        + scatter_text(pairs)
        + conditions_text(result["conditions"])
    )


def markdown(result: dict, picture: str) -> str:
    """Returns the study as Markdown."""
    parts = []
    for task in HEADS:
        parts += [table(result, task), sentence(result, task)]
    return "\n\n".join([*parts, note(result), f"![Latency by backbone]({picture})"])


def draw(result: dict) -> Any:
    """Draws latency with one thread as bars: a row for each task, a column for each precision."""
    page, axes = figure(11, 6.4, rows=len(HEADS), columns=len(PRECISIONS))
    for line, task in zip(axes, HEADS, strict=True):
        for axis, precision in zip(line, PRECISIONS, strict=True):
            rows = of_task(result, task)[precision, 1]
            names = [short(name, task) for name in rows]
            colors = [RED if name.startswith("MobileOne") else GREY for name in names]
            values = [milliseconds(row) for row in rows.values()]
            bars(axis, names, values, f"{TITLES[task]}, {precision}, ms", colors)
    page.suptitle(f"1 thread of {result['conditions']['processor']}", fontsize=11)
    return page


STUDIES = (Study("dense_peers", prepare, measure, draw),)

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
