"""Tables of benchmark results: one result with all figures, or several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_mobileone.cli.console import console, print_table

if TYPE_CHECKING:
    from keras_mobileone.benchmarking import Benchmark, Latency

HEADER = ("File", "MB", "ms", "Ratio", "p90", "p95", "Minimum", "Load")
APP_HEADER = ("File", "On", "ms", "Ratio", "p90", "p95", "Minimum", "Load")
SHARED_HEADER = ("File", "On", "From", "ms", "Ratio", "p90", "p95")
GAP = 2  # characters between two columns of a table
SHORTEST = 12  # characters of a name that remain in the narrowest terminal
ELSEWHERE = "!"  # beside what did not run where it was to run
RATIOS = (
    "A ratio compares with the first file of the same result. Times of different results are not "
    "comparable where devices, programs or settings differ."
)


def show(result: "Benchmark", title: str | None = None) -> None:
    """Prints a result's table, conditions, warnings and the files that could not be measured."""
    from keras_mobileone.benchmarking.app_results import CONFIGURED

    if not result.latencies and not result.failures:
        return
    if result.latencies:
        configured = result.conditions.get("target") in CONFIGURED
        cells = app_row if configured else row
        labels = app_labels(result) if configured else file_labels(result)
        rows = zip(labels, result.latencies, result.ratios, strict=True)
        header = APP_HEADER if configured else HEADER
        print_table(header, fitted(header, [cells(result, *v) for v in rows]), title=title)
    elif title is not None:
        console.print(title, style="italic", soft_wrap=True)
    print_conditions(result)


def show_together(results: "Sequence[tuple[str, Benchmark]]") -> None:
    """Prints several results in one table, with a column that tells what measured each figure.

    Results of the app stand beside each other, and so do those of the native tool and of this
    machine. A number before the source leads to the result's conditions below the table.

    Args:
        results: The name of each result and the result.
    """
    from keras_mobileone.benchmarking.app_results import source

    sources = list(dict.fromkeys(source(result) for _, result in results))
    ordered = sorted(results, key=lambda named: sources.index(source(named[1])))
    rows = []
    for number, (_, result) in enumerate(ordered, 1):
        values = zip(app_labels(result), result.latencies, result.ratios, strict=True)
        rows += [shared_row(result, f"{number} {source(result)}", *v) for v in values]
    if rows:
        print_table(SHARED_HEADER, fitted(SHARED_HEADER, rows))
        console.print(RATIOS)
    for number, (name, result) in enumerate(ordered, 1):
        console.print(f"\n{number} {source(result)}: {name}", style="italic", soft_wrap=True)
        print_conditions(result)


def print_conditions(result: "Benchmark") -> None:
    """Prints a result's conditions, its warnings, and the files that could not be measured."""
    from keras_mobileone.benchmarking.app_results import warnings

    # Objects and series stay in the JSON; what they and the flags mean is in the warnings.
    plain = [
        f"{name} {value}"
        for name, value in result.conditions.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ]
    if plain:
        console.print(", ".join(plain))
    for warning in warnings(result):
        console.print(f"Warning: {warning}")
    for failure in result.failures:
        console.print(f"Not measured: {failure.path}: {failure.message}", soft_wrap=True)


def file_labels(result: "Benchmark") -> list[str]:
    """Returns the names of the files, or their paths if two have the same name."""
    from keras_mobileone.benchmarking.baselines import cache_directory, peer_label

    paths = [Path(latency.path) for latency in result.latencies]
    names = [peer_label(path) if path.parent == cache_directory() else path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [str(path) for path in paths]
    return names


def app_labels(result: "Benchmark") -> list[str]:
    """The files' names without their suffix, or their paths if that is ambiguous."""
    from keras_mobileone.benchmarking.app_results import configuration

    paths = [Path(configuration(result, latency).file) for latency in result.latencies]
    names = [path.stem for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [str(path) for path in paths]
    return names


def fitted(header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows with only the ends of names for which the console has no room."""
    columns = list(zip(header, *rows, strict=True))
    figures_width = sum(max(map(len, column)) for column in columns[1:])
    room = max(console.width - figures_width - GAP * len(columns) - 1, SHORTEST)
    return [(shortened(name, room), *cells) for name, *cells in rows]


def shortened(name: str, width: int) -> str:
    """The end of a name that is longer than `width` characters."""
    return f"…{name[1 - width :]}" if len(name) > width else name


def row(result: "Benchmark", label: str, latency: "Latency", ratio: float) -> tuple[str, ...]:
    """Returns the cells of one file, in the order of `HEADER`."""
    return (label, f"{latency.bytes / 1e6:.2f}", *figures(latency, ratio), *extremes(latency))


def app_row(result: "Benchmark", label: str, latency: "Latency", ratio: float) -> tuple[str, ...]:
    """Returns the cells of one file, in the order of `APP_HEADER`."""
    return (label, ran_on(result, latency), *figures(latency, ratio), *extremes(latency))


def shared_row(
    result: "Benchmark", origin: str, label: str, latency: "Latency", ratio: float
) -> tuple[str, ...]:
    """Returns the cells of one file, in the order of `SHARED_HEADER`."""
    return (label, ran_on(result, latency), origin, *figures(latency, ratio))


def ran_on(result: "Benchmark", latency: "Latency") -> str:
    """The accelerator and its threads, marked if the file ran elsewhere."""
    from keras_mobileone.benchmarking.app_results import configuration

    how = configuration(result, latency)
    return f"{how}{'' if how.ran_on == how.accelerator else ELSEWHERE}"


def figures(latency: "Latency", ratio: float) -> tuple[str, ...]:
    """Median, ratio and percentiles."""
    return (
        f"{latency.median:.2f}",
        f"{ratio:.2f}",
        "–" if latency.p90 is None else f"{latency.p90:.2f}",
        f"{latency.p95:.2f}",
    )


def extremes(latency: "Latency") -> tuple[str, ...]:
    """The fastest run and the time to load the file."""
    return (f"{latency.minimum:.2f}", f"{latency.initialization:.1f}")
