"""`benchmark` measures files in interleaved rounds, in the same way on every target."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from keras_mobileone.benchmarking.local import ThisMachine
from keras_mobileone.benchmarking.results import Benchmark, Failure, Round, latency_of
from keras_mobileone.benchmarking.settings import Settings, TargetError
from keras_mobileone.choices import ROUNDS
from keras_mobileone.errors import InputTypeError, InputValueError
from keras_mobileone.litert.flatbuffer import open_inputs, read_tflite

WARMUP_RUNS = 10


class Target(AbstractContextManager, Protocol):
    """A machine that measures files. Entering the context connects, and leaving it cleans up."""

    def add(self, path: Path) -> None:
        """Makes a file available on the target."""

    def measure(self, path: Path, settings: Settings) -> Round:
        """Measures one round of an added file in a new process: warm-up, then timed runs."""
        ...

    def finish(self, path: Path, settings: Settings) -> None:
        """Runs once for each file after all rounds, for work that would disturb the timing."""

    def conditions(self) -> dict[str, Any]:
        """Returns what identifies the target: device, processor, versions, state."""
        ...


@dataclass
class Entry:
    """A file of a benchmark while it is measured.

    Attributes:
        path: The file.
        size: Its size in bytes.
        rounds: The rounds that were measured so far.
        failure: Why it can't be measured; None as long as it can.
    """

    path: Path
    size: int = 0
    rounds: list[Round] = field(default_factory=list)
    failure: str | None = None


def benchmark(
    paths: Sequence[str | os.PathLike],
    *,
    threads: int = 1,
    runs: int = 50,
    rounds: int = ROUNDS,
    warmup_runs: int = WARMUP_RUNS,
    progress: Callable[[int, int], None] | None = None,
    target: Target | None = None,
    keep_going: bool = False,
) -> Benchmark:
    """Measures the latency of TFLite files side by side: batch 1, inference only.

    Each round runs every file once in a separate process, so that a drift of the machine affects
    all files equally. Compare files within one result (`Benchmark.ratios`), not across results. The
    protocol of MobileOne's authors corresponds to `rounds=20` and `runs=50`.

    Args:
        paths: `.tflite` files whose inputs have fixed shapes.
        threads: Number of CPU threads of the runtime.
        runs: Number of timed inferences of each file in each round, after a warm-up.
        rounds: Number of rounds over all files.
        warmup_runs: Number of inferences of each file in each round before the timed ones.
        progress: Called with (done, total) after each process.
        target: Target to measure on, for example an `AndroidDevice`. By default, this machine.
        keep_going: Whether to continue when a file can't be measured. The file is then listed in
            `Benchmark.failures`; otherwise the error is raised.

    Returns:
        A `Benchmark`: the latency of each file in the order of `paths`, the ratios to the first
        one, and the conditions. `save` stores it as JSON and `load_benchmark` reads it.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If `paths` is a single path.
        ValueError: If a file is not a complete TFLite file or has an input of unknown shape, or if
            a number is too small.
        RuntimeError: If the runtime can't run a file. A `TargetError`, which is a RuntimeError,
            means that the target can't measure at all, and is raised with `keep_going` too.

    Examples:
        >>> variant = km.Variant("tiny", (0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(variant, weights=None, input_shape=(32, 32, 3), deploy=True)
        >>> report = km.export_tflite(model, "tiny.tflite")
        >>> result = keras_mobileone.benchmarking.benchmark(["tiny.tflite"], runs=3, rounds=2)
        >>> len(result.latencies[0].medians), result.ratios
        (2, [1.0])
    """
    entries = check_arguments(paths, [threads], runs, rounds, warmup_runs)
    settings = Settings(threads=threads, runs=runs, warmup_runs=warmup_runs)
    check_files(entries, keep_going)
    conditions: dict[str, Any] = {}
    if remaining(entries):
        target = target or ThisMachine()
        with target:
            _measure(target, entries, settings, rounds, progress, keep_going)
            conditions = target.conditions()
    return Benchmark(
        latencies=[
            latency_of(e.path, e.size, e.rounds) for e in entries if len(e.rounds) == rounds
        ],
        conditions=conditions | settings.conditions() | {"rounds": rounds},
        failures=[Failure(str(e.path), e.failure) for e in entries if e.failure],
    )


def check_arguments(
    paths: Sequence[str | os.PathLike],
    threads: Sequence[int],
    runs: int,
    rounds: int,
    warmup_runs: int,
) -> list[Entry]:
    """Returns the files as entries.

    Raises:
        TypeError: If `paths` is a single path.
        ValueError: If there is no file, or if a number is too small.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise InputTypeError(
            f"`paths` must be a sequence of paths. Received: the single path {paths}. "
            "Pass [path] instead."
        )
    if min(*threads, runs, rounds, warmup_runs + 1) < 1 or not paths:
        raise InputValueError(
            "Expected at least one file, `threads`, `runs` and `rounds` of at least 1, and "
            f"`warmup_runs` of at least 0. Received: {len(paths)} files, "
            f"threads={', '.join(map(str, threads))}, runs={runs}, rounds={rounds}, "
            f"warmup_runs={warmup_runs}."
        )
    return [Entry(Path(path)) for path in paths]


def check_files(entries: Sequence[Entry], keep_going: bool) -> None:
    """Reads every file and sets its size.

    Raises:
        FileNotFoundError: If a file does not exist and `keep_going` is False.
        ValueError: If it is no complete TFLite file of fixed inputs and `keep_going` is False.
    """
    for entry in entries:
        with noting_failure(entry, keep_going):
            entry.size = require_fixed(entry.path)


def _measure(
    target: Target,
    entries: Sequence[Entry],
    settings: Settings,
    rounds: int,
    progress: Callable[[int, int], None] | None,
    keep_going: bool,
) -> None:
    for entry in remaining(entries):
        with noting_failure(entry, keep_going):
            target.add(entry.path)
    total = rounds * len(remaining(entries))
    done = 0
    for _ in range(rounds):
        for entry in remaining(entries):
            with noting_failure(entry, keep_going):
                entry.rounds.append(target.measure(entry.path, settings))
            # The later rounds of a file that has failed are not measured and count as done.
            done = done + 1 if not entry.failure else done + rounds - len(entry.rounds)
            if progress:
                progress(done, total)
    for entry in remaining(entries):
        with noting_failure(entry, keep_going):
            target.finish(entry.path, settings)


def remaining(entries: Sequence[Entry]) -> list[Entry]:
    """Returns the files that have not failed."""
    return [entry for entry in entries if not entry.failure]


@contextmanager
def noting_failure(entry: Entry, keep_going: bool) -> Iterator[None]:
    """With `keep_going`, records the error of a file instead of raising it."""
    try:
        yield
    except TargetError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if not keep_going:
            raise
        entry.failure = " ".join(str(error).split())


def require_fixed(path: Path) -> int:
    """Returns the size in bytes of a TFLite file whose inputs have fixed shapes.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a complete TFLite file, or if an input has an unknown shape.
    """
    content = read_tflite(path)
    for name, shape in open_inputs(content):
        raise InputValueError(
            f"Expected inputs of fixed shape. Received: {path}, whose input {name!r} is "
            f"{tuple(shape)}, where -1 is an unknown size. Convert the model with a batch of 1 and "
            "a fixed image size."
        )
    return len(content)
