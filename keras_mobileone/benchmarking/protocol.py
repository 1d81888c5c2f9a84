"""`benchmark`: the order in which files are measured, the same for every target."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from keras_mobileone.benchmarking.local import ThisMachine
from keras_mobileone.benchmarking.results import Benchmark, Failure, Round, latency_of
from keras_mobileone.benchmarking.settings import Settings, TargetError
from keras_mobileone.choices import ROUNDS
from keras_mobileone.errors import InputValueError
from keras_mobileone.litert.flatbuffer import open_inputs, read_tflite

WARMUP_RUNS = 10


class Target(AbstractContextManager, Protocol):
    """Where files are measured. Entering it connects, leaving it cleans up."""

    def add(self, path: Path) -> None:
        """Makes a file ready there."""

    def measure(self, path: Path, settings: Settings) -> Round:
        """One round of a file that was added: warm-up, then timed runs, in a new process."""

    def finish(self, path: Path, settings: Settings) -> None:
        """Called once for each file after its last round, for what would disturb the timing."""

    def conditions(self) -> dict:
        """What is to be known of the target."""


@dataclass
class _Entry:
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
    """Times TFLite files side by side: one image at a time, inference alone.

    Each round runs every file once in a process of its own, so that a drift of the machine hits
    all alike: compare the files within one result (`Benchmark.ratios`), not across results. The
    authors' protocol is `rounds=20` of 50 runs.

    Args:
        paths: `.tflite` files whose inputs have fixed shapes.
        threads: CPU threads of the runtime.
        runs: Timed inferences of each file in each round, after a warm-up.
        rounds: Rounds over all files.
        warmup_runs: Inferences of each file in each round before the timed ones.
        progress: Called with (done, total) after each process.
        target: Where to measure, e.g. an `AndroidDevice`; this machine by default.
        keep_going: Note a file that can't be measured in `Benchmark.failures` and measure the
            others, instead of raising.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is no whole TFLite file or leaves a shape open, or an argument is
            below 1.
        RuntimeError: If the runtime can't run a file; `TargetError` if the target fails.
    """
    if min(threads, runs, rounds, warmup_runs + 1) < 1 or not paths:
        raise InputValueError(
            "Expected at least one file, `threads`, `runs` and `rounds` of at least 1, and "
            f"`warmup_runs` of at least 0. Received: {len(paths)} files, threads={threads}, "
            f"runs={runs}, rounds={rounds}, warmup_runs={warmup_runs}."
        )
    settings = Settings(threads=threads, runs=runs, warmup_runs=warmup_runs)
    entries = [_Entry(Path(path)) for path in paths]
    for entry in entries:
        with _noting_failure(entry, keep_going):
            entry.size = require_fixed(entry.path)
    conditions = {}
    if _remaining(entries):
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


def _measure(target, entries, settings, rounds, progress, keep_going):
    for entry in _remaining(entries):
        with _noting_failure(entry, keep_going):
            target.add(entry.path)
    total = rounds * len(_remaining(entries))
    done = 0
    for _ in range(rounds):
        for entry in _remaining(entries):
            with _noting_failure(entry, keep_going):
                entry.rounds.append(target.measure(entry.path, settings))
            # A file that has failed takes its later rounds out of the plan.
            done = done + 1 if not entry.failure else done + rounds - len(entry.rounds)
            if progress:
                progress(done, total)
    for entry in _remaining(entries):
        with _noting_failure(entry, keep_going):
            target.finish(entry.path, settings)


def _remaining(entries) -> list[_Entry]:
    return [entry for entry in entries if not entry.failure]


@contextmanager
def _noting_failure(entry: _Entry, keep_going: bool) -> Iterator[None]:
    """With `keep_going`, keeps what is wrong with one file from stopping the others."""
    try:
        yield
    except TargetError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if not keep_going:
            raise
        entry.failure = " ".join(str(error).split())


def require_fixed(path: Path) -> int:
    """Size in bytes of a TFLite file whose inputs have fixed shapes.

    Raises:
        FileNotFoundError, ValueError: If it is not one.
    """
    content = read_tflite(path)
    for name, shape in open_inputs(content):
        raise InputValueError(
            f"Expected inputs of fixed shape. Received: {path}, whose input {name!r} is "
            f"{tuple(shape)} with -1 for what is open. Convert the model with a batch of 1 and a "
            "fixed image size."
        )
    return len(content)
