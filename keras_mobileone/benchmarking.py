"""Latency of TFLite files on this machine, by ai-edge-litert's own benchmark tool."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from keras_mobileone.files import atomic_write
from keras_mobileone.flatbuffer import read_tflite

TOOL = "ai_edge_litert.tools.benchmark_litert_model"
ROUNDS = 5
WARMUP_RUNS = 10


@dataclass(frozen=True)
class Latency:
    """Time of one inference of one file, milliseconds, over all rounds.

    Attributes:
        path: The file.
        bytes: Its size.
        median, p95: Median over the rounds of each round's median and 95th percentile.
        minimum: Fastest run of all.
        initialization: Median time to load and prepare the file.
    """

    path: str
    bytes: int
    median: float
    p95: float
    minimum: float
    initialization: float


@dataclass(frozen=True)
class Benchmark:
    """Result of `benchmark`: latencies, and the conditions under which they were measured.

    Attributes:
        latencies: One for each file, in the order given.
        conditions: Processor, threads, runs, versions.
    """

    latencies: list[Latency]
    conditions: dict[str, str | int]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the result as JSON, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def benchmark(
    paths: Sequence[str | os.PathLike],
    *,
    threads: int = 1,
    runs: int = 50,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Times TFLite files side by side.

    Each round runs every file once in a process of its own, so that a drift of the machine hits
    all alike: compare the files within one result, not across results.

    Args:
        paths: `.tflite` files.
        threads: CPU threads of the runtime.
        runs: Timed inferences of each file in each round, after a warm-up.
        rounds: Rounds over all files.
        progress: Called with (done, total) after each process.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is no whole TFLite file, or an argument is below 1.
        RuntimeError: If the tool fails on a file.
    """
    if min(threads, runs, rounds) < 1 or not paths:
        raise ValueError(
            "Expected at least one file, and `threads`, `runs` and `rounds` of at least 1. "
            f"Received: {len(paths)} files, threads={threads}, runs={runs}, rounds={rounds}."
        )
    sizes = [len(read_tflite(path)) for path in paths]
    samples = [[] for _ in paths]
    for done in range(rounds * len(paths)):
        index = done % len(paths)
        samples[index].append(_run_tool(paths[index], threads, runs))
        if progress:
            progress(done + 1, rounds * len(paths))
    latencies = [
        Latency(
            path=str(path),
            bytes=size,
            median=statistics.median(s["median_ms"] for s in rows),
            p95=statistics.median(s["p95_ms"] for s in rows),
            minimum=min(s["min_ms"] for s in rows),
            initialization=statistics.median(s["init_ms"] for s in rows),
        )
        for path, size, rows in zip(paths, sizes, samples, strict=True)
    ]
    return Benchmark(latencies, _conditions(threads, runs, rounds))


def _run_tool(path, threads, runs) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        command = [sys.executable, "-m", TOOL, f"--model={path}", f"--num_threads={threads}"]
        command += [f"--num_runs={runs}", f"--warmup_runs={WARMUP_RUNS}", f"--result_json={result}"]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode or not result.is_file():
            lines = process.stderr.strip().splitlines()
            raise RuntimeError(f"The benchmark tool failed on {path}: {lines[-1] if lines else ''}")
        return json.loads(result.read_text())["latency"]


def _conditions(threads, runs, rounds) -> dict[str, str | int]:
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "runs": runs,
        "rounds": rounds,
        "warmup_runs": WARMUP_RUNS,
        "batch": 1,
        "ai-edge-litert": version("ai-edge-litert"),
        "python": platform.python_version(),
    }


def processor_name() -> str:
    """The CPU's name, with the vector extensions that matter to inference."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags]
    return " ".join([fields.get("model name", platform.machine()), *extensions])
