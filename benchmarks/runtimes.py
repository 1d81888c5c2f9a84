"""Measures S0 and S1 in LiteRT, ONNX Runtime and OpenVINO side by side, float32 and int8.

python benchmarks/runtimes.py --prepare    exports the files into build/peers/
python benchmarks/runtimes.py              measures them, writes results/<machine>/runtimes.json
"""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import keras
import study
from drawing import BLUE, GREEN, RED, bars, figure
from runtime_files import DISTRIBUTIONS, LITERT, ONNX, OPENVINO, file_of, prepare_network
from study import Study, conditions_text, milliseconds, ratio, scatter_text

from keras_mobileone.benchmarking.baselines import PEERS
from keras_mobileone.benchmarking.local import ThisMachine
from keras_mobileone.benchmarking.results import Round, latency_of, round_of
from keras_mobileone.benchmarking.settings import Settings
from keras_mobileone.deployment.report import markdown_table

WORKER = Path(__file__).with_name("runtime_worker.py")
NETWORKS = ("MobileOneS0", "MobileOneS1")
PRECISIONS, THREADS = ("float32", "int8"), (1, 2)
RUNTIMES = {LITERT: RED, ONNX: BLUE, OPENVINO: GREEN}  # with their colors


def prepare(files: Path) -> None:
    """Exports the files of every runtime."""
    for name in NETWORKS:
        prepare_network(PEERS[name], files)
        print(f"{name} for {', '.join(RUNTIMES)}", file=sys.stderr)


def measure(files: Path, rounds: int, runs: int) -> dict:
    """Measures every file in interleaved rounds, with one thread and with two."""
    busy = study.busy_cores()
    jobs = list(product(NETWORKS, PRECISIONS, RUNTIMES))
    paths = [file_of(PEERS[name], runtime, one, files) for name, one, runtime in jobs]
    rows = []
    for threads in THREADS:
        settings = Settings(threads=threads, runs=runs, warmup_runs=study.WARMUP_RUNS)
        found: list[list[Round]] = [[] for _ in jobs]
        for _ in range(rounds):
            for (_, _, runtime), path, mine in zip(jobs, paths, found, strict=True):
                mine.append(time_file(runtime, path, settings))
        rows += [
            _row(job, threads, path, mine)
            for job, path, mine in zip(jobs, paths, found, strict=True)
        ]
    return {"conditions": conditions(busy, rounds, runs), "rows": rows}


def conditions(busy: float | None, rounds: int, runs: int) -> dict:
    """Returns the machine, the numbers of runs, and the versions of all runtimes."""
    names = sorted({name for names in DISTRIBUTIONS.values() for name in names})
    return ThisMachine().conditions() | {
        "batch": 1,
        "rounds": rounds,
        "runs": runs,
        "warmup_runs": study.WARMUP_RUNS,
        "busy_cores_before": busy,
        "keras": keras.__version__,
        **{name: version(name) for name in ("tensorflow", *names)},
    }


def _row(job: tuple[str, str, str], threads: int, path: Path, rounds: list[Round]) -> dict:
    name, precision, runtime = job
    latency = latency_of(path, bytes_of(path), rounds)
    return {
        "name": name,
        "precision": precision,
        "runtime": runtime,
        "threads": threads,
        "latency": asdict(replace(latency, path=path.name)),
    }


def bytes_of(path: Path) -> int:
    """Returns the size of a file, with the weights beside it that OpenVINO's graph has."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)


def time_file(runtime: str, path: Path, settings: Settings) -> Round:
    """Measures one round of a file in a new process."""
    if runtime == LITERT:
        return ThisMachine().measure(path, settings)
    numbers = settings.threads, settings.warmup_runs, settings.runs
    command = [sys.executable, "-P", WORKER, DISTRIBUTIONS[runtime][0], path, *numbers]
    process = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True
    )
    result = json.loads(process.stdout.splitlines()[-1])
    times = [nanoseconds / 1e6 for nanoseconds in result["runs"]]
    return round_of(times, result["initialization"] / 1e6)


def groups(result: dict) -> dict[tuple[str, str, int], dict[str, dict]]:
    """Returns the rows by (network, precision, threads) and then by runtime."""
    found: dict[tuple[str, str, int], dict[str, dict]] = {}
    for row in result["rows"]:
        found.setdefault((row["name"], row["precision"], row["threads"]), {})[row["runtime"]] = row
    return found


def against_litert(result: dict, runtime: str, precision: str, name: str = NETWORKS[0]) -> float:
    """Returns the time of a network with one thread divided by its time in LiteRT."""
    rows = groups(result)[name, precision, 1]
    return ratio(rows[runtime], rows[LITERT])


def sentence(result: dict) -> str:
    """Returns a sentence on the runtimes, from S0 with one thread."""
    parts = []
    for precision in PRECISIONS:
        others = [
            f"{runtime} takes {against_litert(result, runtime, precision):.2f} times"
            for runtime in (ONNX, OPENVINO)
        ]
        parts.append(f"in {precision} {' and '.join(others)}")
    return (
        f"For S0 with one thread, against LiteRT in the same rounds: {'; '.join(parts)} as long. "
        "The order may differ on another processor, above all on a phone's."
    )


def table(result: dict) -> str:
    """Returns a table of the latency of each runtime, with its ratio to LiteRT."""
    rows = [
        (
            name,
            precision,
            str(threads),
            *(
                f"{milliseconds(row):.2f} ({ratio(row, found[LITERT]):.2f})"
                for row in (found[runtime] for runtime in RUNTIMES)
            ),
        )
        for (name, precision, threads), found in groups(result).items()
    ]
    return markdown_table(("", "precision", "threads", *RUNTIMES), rows)


def markdown(result: dict, picture: str) -> str:
    """Returns the study as Markdown."""
    c = result["conditions"]
    pairs = [
        (row, rows[LITERT])
        for rows in groups(result).values()
        for name, row in rows.items()
        if name != LITERT
    ]
    text = (
        "Median milliseconds, with the ratio to LiteRT in parentheses. All files have the same "
        "random weights, and float inputs and outputs. Each runtime's own quantization after "
        "training makes its int8 file: TensorFlow's converter, ONNX Runtime's static QDQ "
        "quantization, and NNCF; it is for latency only. "
        f"{scatter_text(pairs)}{conditions_text(c)} ONNX Runtime {c['onnxruntime']}, OpenVINO "
        f"{c['openvino']} in float32 arithmetic, NNCF {c['nncf']}."
    )
    picture = f"![Latency in three runtimes]({picture})"
    return "\n\n".join([sentence(result), table(result), text, picture])


def draw(result: dict) -> Any:
    """Draws the latency of every file with one thread, float32 and int8."""
    page, axes = figure(11, 2.8, columns=2)
    found = groups(result)
    for axis, precision in zip(axes, PRECISIONS, strict=True):
        rows = [row for name in NETWORKS for row in found[name, precision, 1].values()]
        names = [f"{row['name'].removeprefix('MobileOne')}, {row['runtime']}" for row in rows]
        times = [milliseconds(row) for row in rows]
        colors = [RUNTIMES[row["runtime"]] for row in rows]
        bars(axis, names, times, f"{precision}, 1 thread, median ms", colors)
    page.suptitle(result["conditions"]["processor"], fontsize=10)
    return page


STUDIES = (Study("runtimes", prepare, measure, draw),)

if __name__ == "__main__":
    study.run(__doc__.splitlines()[0], STUDIES)
