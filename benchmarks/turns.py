"""Workers that take turns: each times its own step when a line on its input asks for it."""

import json
import sys
import time

from peak_memory import peak_gibibytes

WARM_UP = 2  # steps, the first of which may trace


def serve(step, steps: int, **facts) -> None:
    """Answers each line of the input with the seconds of a step, the mean of `steps`.

    Before it, one answer with `facts` and the peak memory so far; after it, one with the peak of
    all. Answers are lines of JSON; memory is in GiB, null where the system doesn't tell it.
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


def tell(**values) -> None:
    """One answer."""
    print(json.dumps(values), flush=True)
