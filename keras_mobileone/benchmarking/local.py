"""This machine as a target, by ai-edge-litert."""

import json
import os
import platform
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from keras_mobileone.benchmarking.results import Round, round_of
from keras_mobileone.benchmarking.settings import Settings
from keras_mobileone.errors import MeasurementError

WORKER = Path(__file__).with_name("worker.py")
MISSING_OPERATOR = ("unresolved custom op", "Select TensorFlow op", "Didn't find op")


class ThisMachine:
    """Measures with ai-edge-litert's interpreter, whose CPU delegate is XNNPACK.

    ai-edge-litert's own benchmark tool calls the same runtime, but gives neither single runs nor
    a 90th percentile.
    """

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def add(self, path: Path) -> None:
        """Nothing to do: the file is here."""

    def measure(self, path: Path, settings: Settings) -> Round:
        """One round, in a new process.

        Raises:
            RuntimeError: If LiteRT can't run the file.
        """
        # -P: the worker's directory must not hide modules of the same names.
        command = [sys.executable, "-P", WORKER, path, settings.threads]
        command += [settings.warmup_runs, settings.runs]
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
        """Nothing is left to do."""

    def conditions(self) -> dict[str, str | int]:
        """Processor, system and versions."""
        return {
            "target": "this machine",
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "ai-edge-litert": version("ai-edge-litert"),
            "python": platform.python_version(),
        }


def _death(process) -> str:
    """Why a worker ended without a word of its own."""
    if process.returncode < 0:
        return f"LiteRT crashed with {signal.Signals(-process.returncode).name}"
    lines = process.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {process.returncode}"


def refusal(path: Path, reason: str) -> str:
    """The sentences for a file that the runtime refuses."""
    # The runtime's own first line says it; what follows are links and node numbers.
    line = reason.strip().splitlines()[0].rstrip(". ")
    if any(words in reason for words in MISSING_OPERATOR):
        return (
            f"Expected a file whose operators LiteRT has. Received: {path}: {line}. "
            "Convert it with TFLite's builtin operators alone."
        )
    return (
        f"Expected a file that LiteRT can run. Received: {path}: {line}. Convert the model again."
    )


def processor_name() -> str:
    """The CPU's name, with the vector extensions that matter to inference."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags]
    return " ".join([fields.get("model name", platform.machine()), *extensions])
