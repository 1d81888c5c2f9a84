"""Prints the peak memory of a process that runs a TFLite file, as JSON in MiB.

    python -P benchmarks/peak_memory.py FILE RUNS

It prints `loaded`, the peak when only LiteRT is in memory, and `peak`, the peak after the runs.
Both values come from Linux' /proc. On other systems they are null.
"""

import json
import sys
from pathlib import Path


def peak() -> float | None:
    """Returns the largest resident memory of this process so far, in MiB."""
    # getrusage is not used because its maximum survives exec and would include that of the parent.
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else None


def peak_gibibytes() -> float | None:
    """Returns the largest resident memory of this process so far, in GiB."""
    mebibytes = peak()
    return mebibytes and mebibytes / 1024


def main(path: str, runs: str) -> None:
    """Runs the file on zeros with one thread."""
    from ai_edge_litert.interpreter import Interpreter

    loaded = peak()
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    for _ in range(int(runs)):
        interpreter.invoke()
    print(json.dumps({"loaded": loaded, "peak": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
