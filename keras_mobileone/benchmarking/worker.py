"""Times one TFLite file in a separate process.

It runs as a script (`worker.py FILE THREADS WARMUP_RUNS RUNS`) and imports only LiteRT. It prints
one line of JSON: `initialization` and `runs` in nanoseconds, or `error`.
"""

import json
import sys
import time
from typing import Any


def time_file(path: str, threads: int, warmup_runs: int, runs: int) -> dict[str, Any]:
    """Returns the nanoseconds to load a file, and those of each inference on random input."""
    from ai_edge_litert.interpreter import Interpreter

    start = time.perf_counter_ns()
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    initialization = time.perf_counter_ns() - start
    fill_inputs(interpreter)
    for _ in range(warmup_runs):
        interpreter.invoke()
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append(time.perf_counter_ns() - start)
    return {"initialization": initialization, "runs": times}


def fill_inputs(interpreter: Any) -> None:
    """Fills the inputs with random values.

    The values lie in [-1, 1] for floating-point types. For integer types they lie in the range of
    int8, as far as the type includes it.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        dtype, shape = np.dtype(tensor["dtype"]), tensor["shape"]
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = rng.integers(max(limits.min, -128), min(limits.max, 127) + 1, shape, dtype)
        else:
            values = rng.uniform(-1, 1, shape).astype(dtype)
        interpreter.set_tensor(tensor["index"], values)


def main(path: str, *numbers: str) -> None:
    """Times the file and prints the result as JSON."""
    try:
        result = time_file(path, *map(int, numbers))
    except (RuntimeError, ValueError) as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
