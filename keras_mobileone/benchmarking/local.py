"""`ThisMachine` measures with ai-edge-litert on the machine that runs Python."""

import json
import os
import platform
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from keras_mobileone.benchmarking.results import Round, round_of
from keras_mobileone.benchmarking.settings import Settings
from keras_mobileone.errors import MeasurementError

WORKER = Path(__file__).with_name("worker.py")
MISSING_OPERATOR = ("unresolved custom op", "Select TensorFlow op", "Didn't find op")


class ThisMachine:
    """The machine that runs Python, as the target of `benchmark`.

    It measures with the interpreter of ai-edge-litert, whose CPU delegate is XNNPACK. The benchmark
    tool of ai-edge-litert calls the same runtime but reports neither single runs nor a 90th
    percentile.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def add(self, path: Path) -> None:
        """Does nothing, since the file is already on this machine."""

    def measure(self, path: Path, settings: Settings) -> Round:
        """Measures one round of a file in a new process.

        Raises:
            RuntimeError: If LiteRT can't run the file.
        """
        # -P keeps the directory of the worker off the path, where it would hide modules of the same
        # names.
        numbers = settings.threads, settings.warmup_runs, settings.runs
        command = [sys.executable, "-P", *map(str, (WORKER, path, *numbers))]
        process = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, encoding="utf-8"
        )
        try:
            result = json.loads(process.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            result = {"error": _death(process)}
        if "error" in result:
            raise MeasurementError(refusal(path, result["error"]))
        times = [nanoseconds / 1e6 for nanoseconds in result["runs"]]
        return round_of(times, result["initialization"] / 1e6)

    def finish(self, path: Path, settings: Settings) -> None:
        """Does nothing, since no profile is written."""

    def conditions(self) -> dict[str, Any]:
        """Returns processor, system and versions."""
        return {
            "target": "this machine",
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "ai-edge-litert": version("ai-edge-litert"),
            "python": platform.python_version(),
        }


def _death(process: subprocess.CompletedProcess[str]) -> str:
    """Returns the reason why a worker ended without printing a result."""
    if process.returncode < 0:
        return f"LiteRT crashed with {signal.Signals(-process.returncode).name}"
    lines = process.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {process.returncode}"


def refusal(path: Path, reason: str) -> str:
    """Returns the error message for a file that the runtime refuses for `reason`."""
    # The first line of the runtime states the cause. The others are links and node numbers.
    line = reason.strip().splitlines()[0].rstrip(". ")
    if any(words in reason for words in MISSING_OPERATOR):
        return (
            f"Expected a file whose operators LiteRT supports. Received: {path}: {line}. "
            "Convert it with TFLite's builtin operators only."
        )
    return (
        f"Expected a file that LiteRT can run. Received: {path}: {line}. Convert the model again."
    )


def processor_name() -> str:
    """Returns the name of the CPU with the vector extensions that are relevant for inference."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags]
    return " ".join([fields.get("model name", platform.machine()), *extensions])
