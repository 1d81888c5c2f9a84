"""What the studies of latency share: networks to files, measuring, results on disk.

A study exports its networks once, into a directory that git ignores, measures the files side by
side, and stores everything it found out as JSON under the name of the machine. Tables and pictures
are made from that JSON alone.
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

import keras

from keras_mobileone import benchmarking, model_complexity
from keras_mobileone.benchmarking import Latency, benchmark, processor_name
from keras_mobileone.benchmarking.baselines import export_network
from keras_mobileone.files import atomic_write

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = ROOT / "build" / "peers"
PROC_STAT = Path("/proc/stat")
# More rounds of fewer runs than `benchmark` has by default: there are many files, and a processor
# changes its speed from one second to the next.
ROUNDS, RUNS, WARMUP_RUNS = 9, 10, 3
BUSY = 0.1  # cores at work before the first run, above which a result says so


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: Unique among all studies: its file is found by it.
        build: Returns it as a new Keras model.
    """

    name: str
    build: Callable[[], keras.Model]


@dataclass(frozen=True)
class Study:
    """One table and one picture.

    Attributes:
        name: Of its files, `NAME.json` and `NAME.png`.
        prepare: `write_tfrecords(files)` exports what is missing in the directory `files`.
        measure: `measure(files, rounds, runs)` returns the result, plain data for JSON.
        draw: `draw(result)` returns its picture, a matplotlib Figure.
    """

    name: str
    prepare: Callable[[Path], None]
    measure: Callable[[Path, int, int], dict]
    draw: Callable


def run(description: str, studies: Sequence[Study]) -> None:
    """The command line of a script with these studies."""
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


def _parse(description, studies) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds over all files")
    parser.add_argument("--runs", type=int, default=RUNS, help="timed runs of a file in a round")
    parser.add_argument("--only", nargs="+", choices=[study.name for study in studies])
    parser.add_argument("--files", type=Path, default=FILES, help="where exported files are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--prepare", action="store_true", help="export what is missing, and stop")
    parser.add_argument("--plot-only", action="store_true", help="pictures from stored results")
    return parser.parse_args()


def plot(study: Study, results: Path = RESULTS) -> None:
    """Draws the picture of a study again, for every machine that has its result."""
    for path, result in stored(study.name, results):
        _save(study, result, path.with_suffix(".png"))


def _save(study, result, path) -> None:
    figure = study.draw(result)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=160)


def stored(name: str, results: Path = RESULTS) -> Iterator[tuple[Path, dict]]:
    """Path and content of a study's results, one for each machine."""
    for path in sorted(results.glob(f"*/{name}.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def machine(processor: str) -> str:
    """Directory name of a processor, e.g. `amd-epyc-avx2`."""
    return re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-")


def export(network, files: Path, precisions: Sequence[str] = ("float32",)) -> None:
    """Makes a network's files and notes its size, unless they are there.

    Args:
        network: A `Network` or a `keras_mobileone.benchmarking.baselines.Peer`.
        files: Directory that keeps them. It must be emptied when a network changes.
        precisions: Of the files.
    """
    for precision in precisions:
        export_network(network.name, network.build, files, precision)
        print(f"{network.name} {precision}", file=sys.stderr)
    path = _size_path(network, files)
    if not path.is_file():
        found = model_complexity(network.build(), strict=True)
        size = {"macs": found.macs, "parameters": found.trainable}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(size) + "\n", encoding="utf-8")


def size_of(network, files: Path) -> dict[str, int]:
    """`macs` and `parameters` of an exported network."""
    return json.loads(_size_path(network, files).read_text(encoding="utf-8"))


def _size_path(network, files) -> Path:
    return files / f"{network.name}-size.json"


def time_files(
    jobs: Sequence[tuple], files: Path, *, threads: int = 1, rounds: int, runs: int
) -> tuple[list[dict], dict]:
    """Times exported networks side by side.

    Args:
        jobs: Pairs of a network and a precision.
        files: Directory of the files.
        threads, rounds, runs: As of `keras_mobileone.benchmarking.benchmark`.

    Returns:
        A row for each job, with the size of its network and its `Latency` as plain data; and the
        conditions.
    """
    busy = busy_cores()
    paths = [export_network(n.name, n.build, files, precision) for n, precision in jobs]
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


def busy_cores(seconds: float = 2.0) -> float | None:
    """How many cores other processes keep busy, while this one waits; None where Linux is not."""
    if not PROC_STAT.exists():
        return None
    # user nice system idle iowait …, in ticks since the start, summed over the cores.
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    spent = [late - early for early, late in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]
    return round(os.cpu_count() * (1 - idle / max(1, sum(spent))), 2)


def _ticks() -> list[int]:
    return [
        int(number) for number in PROC_STAT.read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    ]


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    print(f"{done} of {total} processes", end=end, file=sys.stderr, flush=True)


def milliseconds(row: dict) -> float:
    """Median latency of a row."""
    return row["latency"]["median"]


def ratio(row: dict, reference: dict) -> float:
    """How many times as long a row of one result takes as another."""
    return benchmarking.ratio(_latency(row), _latency(reference))


def _latency(row) -> Latency:
    return Latency(**row["latency"])


def scatter(pairs: Sequence[tuple[dict, dict]]) -> float | None:
    """How far the ratio of two rows differs between rounds: half its interquartile range, relative.

    The median over pairs of a row and its reference, other than the reference with itself. None
    where there was one round only.
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
    """What a reader needs to tell a difference from noise; empty where one round can't tell it."""
    found = scatter(pairs)
    if found is None:
        return ""
    return (
        f"Ratios are medians over the rounds; single ones scatter by {100 * found:.0f} % "
        "around them (half the interquartile range, median over the rows). "
    )


def conditions_text(conditions: dict) -> str:
    """The sentence under a table."""
    c = conditions
    others = c["busy_cores_before"] or 0
    busy = f" other work kept {others:.1f} cores busy;" if others > BUSY else ""
    return (
        f"{c['processor']}, {c['cores']} cores, batch 1, {c['rounds']} rounds of {c['runs']} runs "
        f"after {c['warmup_runs']} warm-up runs, files interleaved;{busy} ai-edge-litert "
        f"{c['ai-edge-litert']}, TensorFlow {c['tensorflow']}, Keras {c['keras']}. Weights are "
        "random."
    )
