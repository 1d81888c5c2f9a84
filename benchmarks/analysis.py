"""Measures what latency depends on in this runtime, as in section 3.1 of the paper.

    python benchmarks/analysis.py                       all three studies
    python benchmarks/analysis.py --only activations    one of them

correlation  latency against multiply-accumulates and against parameters, over many networks
activations  thirty convolutions with different activations
blocks       thirty convolutions with skips, squeeze-and-excitation, branches
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import study
from drawing import BLUE, GREY, RED, bars, clean, figure, label_points, logarithmic
from keras import applications
from peers import NETWORKS as PEERS
from study import Network, Study, conditions_text, milliseconds, ratio, scatter_text
from thirty_layers import ACTIVATIONS, BLOCKS, CONVOLUTIONS, build

from keras_mobileone.deployment.report import markdown_table

PERMUTATIONS = 100_000
CHEAP, EXPENSIVE = 1.10, 1.50  # ratios to ReLU, or to plain blocks


def _application(name: str, label: str | None = None, **arguments: Any) -> Network:
    arguments |= {"weights": None, "classifier_activation": None, "input_shape": (224, 224, 3)}
    return Network(label or name, partial(getattr(applications, name), **arguments))


MORE = (
    _application("MobileNet", "MobileNet0.5", alpha=0.5),
    _application("MobileNetV2", "MobileNetV2-0.5", alpha=0.5),
    _application("MobileNetV2", "MobileNetV2-1.4", alpha=1.4),
    _application("EfficientNetB1"),
    _application("EfficientNetV2B1", include_preprocessing=False),
    _application("DenseNet121"),
    _application("ResNet50V2"),
    _application("InceptionV3"),
)
CORRELATED = (*PEERS.values(), *MORE)
METRICS = {"macs": "multiply-accumulates", "parameters": "parameters"}


def _file_name(label: str) -> str:
    return "thirty-" + study.machine(label)


ACTIVATION_NETWORKS = {
    label: Network(_file_name(label), partial(build, label)) for label in ACTIVATIONS
}
BLOCK_NETWORKS = {label: Network(_file_name(label), make) for label, make in BLOCKS.items()}


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns ranks that start at 1, in which equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns Spearman's rank correlation: Pearson's correlation of the ranks."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def p_value(
    first: Sequence[float], second: Sequence[float], permutations: int = PERMUTATIONS
) -> float:
    """Returns the two-sided p-value, the fraction of shuffled ranks that correlate as strongly."""
    a, b = (ranks(values) - ranks(values).mean() for values in (first, second))
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.broadcast_to(b, (permutations, len(b))), axis=1)
    # The small amount includes equal correlations whose sums were rounded differently.
    stronger = np.abs(shuffled @ a) >= abs(b @ a) * (1 - 1e-9)
    return float((stronger.sum() + 1) / (permutations + 1))


def prepare(networks: Iterable[Network], files: Path) -> None:
    """Exports networks in float32."""
    for network in networks:
        study.export(network, files)


def measure_correlation(files: Path, rounds: int, runs: int) -> dict:
    """Measures the latency of all networks and its correlation with their sizes."""
    rows, conditions = study.time_files(
        [(network, "float32") for network in CORRELATED], files, rounds=rounds, runs=runs
    )
    times = [milliseconds(row) for row in rows]
    correlation = {}
    for metric in METRICS:
        sizes = [row[metric] for row in rows]
        correlation[metric] = {"rho": spearman(sizes, times), "p": p_value(sizes, times)}
    return {"conditions": conditions, "correlation": correlation, "rows": rows}


def measure_thirty(networks: dict[str, Network], files: Path, rounds: int, runs: int) -> dict:
    """Measures the forms of a network. The rows are named by the labels."""
    rows, conditions = study.time_files(
        [(network, "float32") for network in networks.values()], files, rounds=rounds, runs=runs
    )
    for label, row in zip(networks, rows, strict=True):
        row["name"] = label
    return {"conditions": conditions, "rows": rows}


def draw_correlation(result: dict) -> Any:
    """Draws latency against each metric on logarithmic axes."""
    page, axes = figure(14, 8, columns=2)
    for axis, (metric, name) in zip(axes, METRICS.items(), strict=True):
        points = [(row[metric] / 1e6, milliseconds(row), row["name"]) for row in result["rows"]]
        for x, y, label in points:
            axis.plot(x, y, "o", color=RED if label.startswith("MobileOne") else GREY, ms=5)
        found = result["correlation"][metric]
        logarithmic(axis, "xy")
        axis.margins(x=0.14, y=0.08)
        axis.set_title(f"{name}: ρ = {found['rho']:.2f}", fontsize=12, loc="left")
        axis.set_xlabel(f"{name}, millions", fontsize=11)
        axis.set_ylabel("latency, ms", fontsize=11)
        axis.grid(alpha=0.25)
        clean(axis)
    processor = result["conditions"]["processor"]
    page.suptitle(f"float32, 1 thread of {processor}; red: MobileOne", fontsize=11)
    for axis, metric in zip(axes, METRICS, strict=True):
        found = ((row[metric] / 1e6, milliseconds(row), row["name"]) for row in result["rows"])
        points = [(x, y, name.removeprefix("MobileOne")) for x, y, name in sorted(found)]
        # The short names of the family come first, because they fit next to their points.
        label_points(axis, sorted(points, key=lambda point: len(point[2]) > 2), size=9)
    return page


def draw_thirty(title: str, result: dict) -> Any:
    """Draws a bar for each form of a network."""
    rows = result["rows"]
    page, axis = figure(9, 0.6 + 0.4 * len(rows))
    colors = [GREY, *[BLUE] * (len(rows) - 1)]
    bars(axis, [r["name"] for r in rows], [milliseconds(r) for r in rows], title, colors)
    return page


def correlation_markdown(result: dict, picture: str) -> str:
    """Returns the correlation, all networks, and the conclusion as Markdown."""
    found = result["correlation"]
    header = ("latency with", "Spearman's ρ", "p")
    rows = [
        (name, f"{found[metric]['rho']:.2f}", _p_text(found[metric]["p"]))
        for metric, name in METRICS.items()
    ]
    networks = sorted(result["rows"], key=_per_gigamac)
    sizes = markdown_table(
        ("", "ms", "MACs", "parameters", "ms for 10⁹ MACs"),
        [
            (
                row["name"],
                f"{milliseconds(row):.1f}",
                f"{row['macs'] / 1e6:,.0f} M",
                f"{row['parameters'] / 1e6:.1f} M",
                f"{_per_gigamac(row):.0f}",
            )
            for row in networks
        ],
    )
    note = (
        f"p: fraction of {PERMUTATIONS:,} random orders that correlate as strongly. float32, 1 "
        f"thread; {conditions_text(result['conditions'])}"
    )
    return "\n\n".join(
        [
            correlation_sentences(result),
            markdown_table(header, rows),
            note,
            f"![Latency against multiply-accumulates and parameters]({picture})",
            sizes,
        ]
    )


def correlation_sentences(result: dict) -> str:
    """Returns sentences on what the correlation means for the design of networks."""
    found = {name: result["correlation"][metric]["rho"] for metric, name in METRICS.items()}
    other, better = sorted(found, key=found.get)
    best, *_, worst = sorted(result["rows"], key=_per_gigamac)
    if found[better] - found[other] < 0.05:
        first = f"{better} and {other} rank networks by latency about equally well"
    else:
        first = f"{better} rank networks by latency better than {other} do"
    return (
        f"Over these {len(result['rows'])} networks {first} (ρ = {found[better]:.2f} and "
        f"{found[other]:.2f}). A rank does not predict a time: one multiply-accumulate takes "
        f"{_per_gigamac(worst) / _per_gigamac(best):.1f} times as long in {worst['name']} as in "
        f"{best['name']}, so measure a design before relying on it."
    )


def activations_sentences(result: dict) -> str:
    """Returns sentences on the cost of activations."""
    cheap, middle, expensive = _by_cost(result)
    worst, factor = max(_ratios(result).items(), key=lambda item: item[1])
    first = f"{_listed(cheap, 'No other one')} cost{'s' if len(cheap) < 2 else ''} at most "
    first += f"{100 * (CHEAP - 1):.0f} % more than ReLU in the whole network"
    if middle:
        first += f", {_listed(middle)} up to {100 * (EXPENSIVE - 1):.0f} % more"
    second = f"{worst} is the most expensive, {factor:.1f} times the whole network with ReLU"
    if others := [name for name in expensive if name != worst]:
        second += f"; {_listed(others)} also take{'s' * (len(others) < 2)} over {EXPENSIVE:g} times"
    return f"{first}. {second}."


def blocks_sentences(result: dict) -> str:
    """Returns sentences on the cost of blocks and on what fusing saves."""
    found = _ratios(result)
    skips, excite = found["skip connections"], found["squeeze-and-excitation"]
    one, four, fused = (
        found[name]
        for name in (
            "1 convolution branch, unfused",
            "4 convolution branches, unfused",
            "4 convolution branches, fused",
        )
    )
    return (
        f"With skip connections the network takes {_longer(skips)}, with squeeze-and-excitation "
        f"{_longer(excite)}. With its branches unfused it takes {one:.1f} times as long for one "
        f"convolution a block and {four:.1f} times for four; with the four fused, {fused:.2f} "
        "times."
    )


def thirty_markdown(sentences: Any, result: dict, picture: str) -> str:
    """Returns one of the two studies of thirty convolutions as Markdown."""
    reference = result["rows"][0]
    rows = [
        (
            row["name"],
            f"{milliseconds(row):.1f}",
            f"{ratio(row, reference):.2f}",
            f"{row['macs'] / 1e6:.0f} M",
            f"{row['latency']['bytes'] / 1e6:.2f}",
        )
        for row in result["rows"]
    ]
    return "\n\n".join(
        [
            sentences(result),
            markdown_table(("", "ms", "ratio", "MACs", "MB"), rows),
            f"{CONVOLUTIONS} convolutions at 224 pixels, float32, 1 thread. "
            + scatter_text([(row, reference) for row in result["rows"]])
            + conditions_text(result["conditions"]),
            f"![Latency of each form]({picture})",
        ]
    )


def _per_gigamac(row: dict) -> float:
    return milliseconds(row) / (row["macs"] / 1e9)


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _ratios(result: dict) -> dict[str, float]:
    """Returns the latency of every other form divided by that of the first form."""
    reference, *others = result["rows"]
    return {row["name"]: ratio(row, reference) for row in others}


def _by_cost(result: dict) -> tuple[list[str], list[str], list[str]]:
    found = _ratios(result)
    return (
        [name for name, value in found.items() if value <= CHEAP],
        [name for name, value in found.items() if CHEAP < value <= EXPENSIVE],
        [name for name, value in found.items() if value > EXPENSIVE],
    )


def _listed(names: Sequence[str], none: str = "") -> str:
    *most, last = names or [none]
    return f"{', '.join(most)} and {last}" if most else last


def _longer(value: float) -> str:
    """Returns a ratio in words."""
    if abs(value - 1) < 0.02:
        return "as long as without, within 2 %"
    return f"{100 * abs(value - 1):.0f} % {'longer' if value > 1 else 'less'}"


STUDIES = (
    Study(
        "correlation",
        partial(prepare, CORRELATED),
        measure_correlation,
        draw_correlation,
    ),
    Study(
        "activations",
        partial(prepare, ACTIVATION_NETWORKS.values()),
        partial(measure_thirty, ACTIVATION_NETWORKS),
        partial(draw_thirty, "30 convolutions, median ms, by activation"),
    ),
    Study(
        "blocks",
        partial(prepare, BLOCK_NETWORKS.values()),
        partial(measure_thirty, BLOCK_NETWORKS),
        partial(draw_thirty, "30 convolutions, median ms, by block"),
    ),
)
MARKDOWN = {
    "correlation": correlation_markdown,
    "activations": partial(thirty_markdown, activations_sentences),
    "blocks": partial(thirty_markdown, blocks_sentences),
}

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
