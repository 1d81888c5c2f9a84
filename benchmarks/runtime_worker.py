"""Times one ONNX or OpenVINO file in a separate process, as the package's worker does for TFLite.

It runs as a script (`runtime_worker.py RUNTIME FILE THREADS WARMUP_RUNS RUNS`) and imports only the
runtime, `onnxruntime` or `openvino`. It prints one line of JSON: `initialization` and `runs` in
nanoseconds.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# OpenVINO computes in bfloat16 where the processor has it, unless it is told not to.
OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


def with_onnxruntime(path: str, threads: int) -> Callable[[], object]:
    """Loads a file, fills its input, and returns a function that runs it once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {one.name: random_image(one.shape) for one in session.get_inputs()}
    return lambda: session.run(None, inputs)


def with_openvino(path: str, threads: int) -> Callable[[], object]:
    """Loads a file, fills its input, and returns a function that runs it once."""
    return openvino_request(path, threads).infer


def openvino_request(path: Any, threads: int, **settings: Any) -> Any:
    """Returns a request of OpenVINO for a file, with its input filled."""
    import openvino

    settings = OPENVINO | {"INFERENCE_NUM_THREADS": threads} | settings
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    for one in compiled.inputs:
        request.set_tensor(one, openvino.Tensor(random_image(tuple(one.shape))))
    return request


def random_image(shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """Returns random float32 values in [-1, 1], as the package's worker does."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


LOADERS = {"onnxruntime": with_onnxruntime, "openvino": with_openvino}


def main(runtime: str, path: str, threads: str, warmup_runs: str, runs: str) -> None:
    """Times the file and prints the result as JSON."""
    start = time.perf_counter_ns()
    run = LOADERS[runtime](path, int(threads))
    initialization = time.perf_counter_ns() - start
    for _ in range(int(warmup_runs)):
        run()
    times = []
    for _ in range(int(runs)):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    print(json.dumps({"initialization": initialization, "runs": times}))


if __name__ == "__main__":
    main(*sys.argv[1:])
