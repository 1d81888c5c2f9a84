"""Interleaved workers, each of which times a step when it reads a line of its input."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from peak_memory import peak_gibibytes

WARM_UP = 2  # steps, the first of which may be traced


def serve(step: Callable[[], None], steps: int, **facts: Any) -> None:
    """Answers each line of the input with the mean seconds of a step over `steps` steps.

    The first answer has `facts` and the peak memory before the first step. The last one has the
    peak memory after all steps. Answers are lines of JSON. Memory is in GiB, or null if the system
    does not report it.
    """
    before = peak_gibibytes()
    for _ in range(WARM_UP):
        step()
    tell(gibibytes=before, **facts)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        tell(seconds=(time.perf_counter() - start) / steps)
    tell(gibibytes=peak_gibibytes())


def tell(**values: Any) -> None:
    """Prints one answer."""
    print(json.dumps(values), flush=True)
