"""Shared parts of the latency studies: exporting networks, measuring, storing results.

A study exports its networks once, into a directory that git ignores, measures the files side by
side, and stores the result as JSON under the name of the machine. Tables and figures are made only
from that JSON.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from keras_mobileone import benchmarking, model_complexity
from keras_mobileone.benchmarking import Latency, benchmark, processor_name
from keras_mobileone.benchmarking.baselines import export_network
from keras_mobileone.files import atomic_write

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = ROOT / "build" / "peers"
PROC_STAT = Path("/proc/stat")
# There are more rounds of fewer runs than the default of `benchmark`, because there are many files
# and a processor changes its speed within seconds.
ROUNDS, RUNS, WARMUP_RUNS = 9, 10, 3
BUSY = 0.1  # busy cores before the first run, above which a result mentions them


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: Name that is unique among all studies, because it identifies the file.
        build: Function that returns the network as a new Keras model.
        quantizer: Function that makes its int8 file, see `export_network`.
    """

    name: str
    build: Callable[[], keras.Model]
    quantizer: Callable | None = None


@dataclass(frozen=True)
class Study:
    """A study with a table and a figure.

    Attributes:
        name: Name of its files, `NAME.json` and `NAME.png`.
        prepare: `prepare(files)` exports the files that are missing in the directory `files`.
        measure: `measure(files, rounds, runs)` returns the result, plain data for JSON.
        draw: `draw(result)` returns its figure, a matplotlib Figure.
    """

    name: str
    prepare: Callable[[Path], None]
    measure: Callable[[Path, int, int], dict]
    draw: Callable


def run(description: str, studies: Sequence[Study]) -> None:
    """Runs the command line of a script with these studies."""
    arguments = _parse(description, studies)
    chosen = [study for study in studies if study.name in (arguments.only or [study.name])]
    if arguments.plot_only:
        for study in chosen:
            plot(study, arguments.results)
        return
    arguments.files.mkdir(parents=True, exist_ok=True)
    for study in chosen:
        study.prepare(arguments.files)
    if arguments.prepare:
        return
    directory = arguments.results / machine(processor_name())
    directory.mkdir(parents=True, exist_ok=True)
    for study in chosen:
        result = study.measure(arguments.files, arguments.rounds, arguments.runs)
        with atomic_write(directory / f"{study.name}.json") as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        _save(study, result, directory / f"{study.name}.png")


def _parse(description: str, studies: Sequence[Study]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds over all files")
    parser.add_argument("--runs", type=int, default=RUNS, help="timed runs of a file in a round")
    parser.add_argument("--only", nargs="+", choices=[study.name for study in studies])
    parser.add_argument("--files", type=Path, default=FILES, help="where exported files are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--prepare", action="store_true", help="export the missing files, and stop")
    parser.add_argument(
        "--plot-only", action="store_true", help="draw figures from stored results only"
    )
    return parser.parse_args()


def plot(study: Study, results: Path = RESULTS) -> None:
    """Draws the figure of a study again, for every machine that has a result."""
    for path, result in stored(study.name, results):
        _save(study, result, path.with_suffix(".png"))


def _save(study: Study, result: dict, path: Path) -> None:
    figure = study.draw(result)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=160)


def stored(name: str, results: Path = RESULTS) -> Iterator[tuple[Path, dict]]:
    """Yields path and content of a study's result for each machine."""
    for path in sorted(results.glob(f"*/{name}.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def has_integer_dot_products(conditions: dict) -> bool:
    """Returns whether the processor of a result has instructions that make int8 fast."""
    return "vnni" in conditions["processor"]


def machine(processor: str) -> str:
    """Returns the directory name of a processor, such as `amd-epyc-avx2`."""
    short = re.sub(r"\(\w+\)|processor", "", processor.lower())
    return re.sub(r"[^a-z0-9]+", "-", short).strip("-")


def export(network: Any, files: Path, precisions: Sequence[str] = ("float32",)) -> None:
    """Exports a network's files and stores its size, unless they exist.

    Args:
        network: A `Network`, or a `Peer` or `DensePeer` of `keras_mobileone.benchmarking`.
        files: Directory that keeps the files. It must be emptied if a network changes.
        precisions: Precisions of the files to export.
    """
    for precision in precisions:
        _file(network, files, precision)
        print(f"{network.name} {precision}", file=sys.stderr)
    path = _size_path(network, files)
    if not path.is_file():
        found = model_complexity(network.build(), strict=True)
        size = {"macs": found.macs, "parameters": found.trainable}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(size) + "\n", encoding="utf-8")


def _file(network: Any, files: Path, precision: str) -> Path:
    """Returns the exported file of a network, and exports it if it is missing."""
    quantizer = getattr(network, "quantizer", None)
    return export_network(network.name, network.build, files, precision, quantizer)


def size_of(network: Any, files: Path) -> dict[str, int]:
    """Returns `macs` and `parameters` of an exported network."""
    return json.loads(_size_path(network, files).read_text(encoding="utf-8"))


def _size_path(network: Any, files: Path) -> Path:
    return files / f"{network.name}-size.json"


def time_files(
    jobs: Sequence[tuple], files: Path, *, threads: int = 1, rounds: int, runs: int
) -> tuple[list[dict], dict]:
    """Times exported networks side by side.

    Args:
        jobs: Pairs of a network and a precision.
        files: Directory of the files.
        threads, rounds, runs: See `keras_mobileone.benchmarking.benchmark`.

    Returns:
        A row for each job, with the size of its network and its `Latency` as plain data, and the
        conditions.
    """
    busy = busy_cores()
    paths = [_file(network, files, precision) for network, precision in jobs]
    timing = benchmark(
        paths,
        threads=threads,
        rounds=rounds,
        runs=runs,
        warmup_runs=WARMUP_RUNS,
        progress=_progress,
    )
    rows = [
        {
            "name": network.name,
            "precision": precision,
            "threads": threads,
            **size_of(network, files),
            "latency": asdict(replace(latency, path=Path(latency.path).name)),
        }
        for (network, precision), latency in zip(jobs, timing.latencies, strict=True)
    ]
    conditions = timing.conditions | {
        "busy_cores_before": busy,
        "keras": keras.__version__,
        "tensorflow": version("tensorflow"),
    }
    return rows, conditions


def time_columns(
    networks: Sequence[Any],
    precisions: Sequence[str],
    threads: Sequence[int],
    files: Path,
    *,
    rounds: int,
    runs: int,
) -> tuple[list[dict], dict]:
    """Times all networks in all precisions, once for each number of threads.

    Returns:
        The rows of `time_files`, and the conditions without the number of threads.
    """
    jobs = [(network, precision) for precision in precisions for network in networks]
    rows, conditions = [], {}
    for count in threads:
        timed, found = time_files(jobs, files, threads=count, rounds=rounds, runs=runs)
        rows += timed
        # The conditions are those of the first result. The number of threads is in the rows.
        conditions = conditions or {k: v for k, v in found.items() if k != "threads"}
    return rows, conditions


def by_column(rows: Sequence[dict]) -> dict[tuple[str, int], dict[str, dict]]:
    """Returns rows by (precision, threads) and then by the name of the network."""
    columns: dict[tuple[str, int], dict[str, dict]] = {}
    for row in rows:
        columns.setdefault((row["precision"], row["threads"]), {})[row["name"]] = row
    return columns


def busy_cores(seconds: float = 2.0) -> float | None:
    """Returns how many cores other processes keep busy, or None on systems other than Linux."""
    if not PROC_STAT.exists():
        return None
    # user nice system idle iowait …, in ticks since the start, summed over the cores.
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    spent = [late - early for early, late in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]
    return round((os.cpu_count() or 1) * (1 - idle / max(1, sum(spent))), 2)


def _ticks() -> list[int]:
    return [
        int(number) for number in PROC_STAT.read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    ]


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    print(f"{done} of {total} processes", end=end, file=sys.stderr, flush=True)


def milliseconds(row: dict) -> float:
    """Returns the median latency of a row."""
    return row["latency"]["median"]


def ratio(row: dict, reference: dict) -> float:
    """Returns the latency of a row divided by that of a reference row of the same result."""
    return benchmarking.ratio(_latency(row), _latency(reference))


def _latency(row: dict) -> Latency:
    return Latency(**row["latency"])


def scatter(pairs: Sequence[tuple[dict, dict]]) -> float | None:
    """Returns the relative scatter of the ratio of two rows between rounds.

    It is half the interquartile range, as a median over the pairs of a row and its reference. Pairs
    of the reference with itself do not count. None if there was only one round.
    """
    found = []
    for row, reference in pairs:
        quotients = benchmarking.round_ratios(_latency(row), _latency(reference))
        if row is reference or len(quotients) < 2:
            continue
        first, middle, third = statistics.quantiles(quotients, n=4, method="inclusive")
        found.append((third - first) / 2 / middle)
    return statistics.median(found) if found else None


def scatter_text(pairs: Sequence[tuple[dict, dict]]) -> str:
    """Returns a sentence on the noise of the ratios; empty if there was only one round."""
    found = scatter(pairs)
    if found is None:
        return ""
    return (
        f"Ratios are medians over the rounds; single ones scatter by {100 * found:.0f} % "
        "around them (half the interquartile range, median over the rows). "
    )


def conditions_text(conditions: dict) -> str:
    """Returns the sentence under a table: machine, runs and versions."""
    c = conditions
    others = c["busy_cores_before"] or 0
    busy = f" other work kept {others:.1f} cores busy;" if others > BUSY else ""
    return (
        f"{c['processor']}, {c['cores']} cores, batch 1, {c['rounds']} rounds of {c['runs']} runs "
        f"after {c['warmup_runs']} warm-up runs, files interleaved;{busy} ai-edge-litert "
        f"{c['ai-edge-litert']}, TensorFlow {c['tensorflow']}, Keras {c['keras']}. Weights are "
        "random."
    )
