"""Results of a benchmark: rounds, latencies of files, and the result as JSON."""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.reports import Report

FORMAT = 1  # number of the JSON layout; it is raised when the meaning of a field changes
TRIMMED = 5  # a fifth of the runs is cut off at each end; the authors cut 10 of 50
Stored = TypeVar("Stored")


@dataclass(frozen=True)
class Round:
    """Statistics of one file's runs in one round, in milliseconds.

    Attributes:
        median: Median of all runs. Cutting the same number of runs at both ends does not change it,
            so it is also the median of the trimmed runs.
        p95: 95th percentile of all runs.
        minimum: Fastest run.
        initialization: Time to load and prepare the file.
        p90: 90th percentile of all runs; None if the target does not report it.
        trimmed: Mean without the slowest and the fastest fifth of the runs; None if the target does
            not report single runs.
    """

    median: float
    p95: float
    minimum: float
    initialization: float
    p90: float | None = None
    trimmed: float | None = None


def round_of(runs: Sequence[float], initialization: float) -> Round:
    """Returns the `Round` of single runs, all in milliseconds."""
    runs = sorted(runs)
    cut = len(runs) // TRIMMED
    return Round(
        median=statistics.median(runs),
        p95=percentile(runs, 95),
        minimum=runs[0],
        initialization=initialization,
        p90=percentile(runs, 90),
        trimmed=statistics.fmean(runs[cut : len(runs) - cut]),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Returns a percentile of values in ascending order, interpolated linearly."""
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True)
class Latency:
    """Time of one inference of one file over all rounds, in milliseconds.

    Attributes:
        path: The file.
        bytes: Size of the file.
        median: Median over the rounds of each round's median.
        p95: Median over the rounds of each round's 95th percentile.
        minimum: Fastest run of all rounds.
        initialization: Median time to load and prepare the file.
        p90: Median over the rounds of each round's 90th percentile; None if the target does not
            report it, such as LiteRT's native tool.
        trimmed: Median over the rounds of each round's mean without its slowest and fastest fifth;
            None if the target does not report it.
        medians: Median of each round, in order. Ratios between files are computed from these.
    """

    path: str
    bytes: int
    median: float
    p95: float
    minimum: float
    initialization: float
    p90: float | None = None
    trimmed: float | None = None
    medians: list[float] = field(default_factory=list)


def latency_of(path: str | os.PathLike, size: int, rounds: Sequence[Round]) -> Latency:
    """Returns the `Latency` of a file of `size` bytes from its rounds."""

    def middle(name: str) -> Any:
        values = [getattr(found, name) for found in rounds]
        return None if None in values else statistics.median(values)

    return Latency(
        path=str(path),
        bytes=size,
        median=middle("median"),
        p95=middle("p95"),
        minimum=min(found.minimum for found in rounds),
        initialization=middle("initialization"),
        p90=middle("p90"),
        trimmed=middle("trimmed"),
        medians=[found.median for found in rounds],
    )


def ratio(latency: Latency, reference: Latency) -> float:
    """Returns the time of a file divided by that of a reference file in the same benchmark.

    The two medians of a round are divided, and the median of these quotients over the rounds is
    returned, so that a drift of the machine, which changes both times, cancels out. If the rounds
    were not stored, the overall medians are divided.

    Args:
        latency: Latency of the file in question.
        reference: Latency of the file it is compared with.

    Returns:
        2.0 if the file takes twice as long as the reference.

    Examples:
        >>> from keras_mobileone.benchmarking import Latency, ratio
        >>> times = {"p95": 9.0, "minimum": 1.0, "initialization": 1.0}
        >>> a = Latency("a.tflite", 1000, median=6.0, medians=[4.0, 8.0], **times)
        >>> b = Latency("b.tflite", 1000, median=3.0, medians=[2.0, 4.0], **times)
        >>> ratio(a, b)
        2.0
    """
    quotients = round_ratios(latency, reference)
    return statistics.median(quotients) if quotients else latency.median / reference.median


def round_ratios(latency: Latency, reference: Latency) -> list[float]:
    """Returns the ratio of two files' medians in each round; empty if their rounds differ."""
    if len(latency.medians) != len(reference.medians):
        return []
    return [a / b for a, b in zip(latency.medians, reference.medians, strict=True)]


@dataclass(frozen=True)
class Failure:
    """A file that could not be measured.

    Attributes:
        path: The file.
        message: What was expected, what was received, and what to do.
    """

    path: str
    message: str


@dataclass(frozen=True)
class Benchmark(Report):
    """Result of `benchmark`: latencies, and the conditions under which they were measured.

    `load_benchmark` reads what `save` wrote.

    Attributes:
        latencies: Latency of each measured file, in the order given.
        conditions: Target, threads, runs and versions; for a device also its temperature, thermal
            status and battery before and after.
        failures: The files that could not be measured.
    """

    latencies: list[Latency]
    conditions: dict[str, Any]
    failures: list[Failure] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """The `ratio` of each latency to the first one."""
        return [ratio(latency, self.latencies[0]) for latency in self.latencies]

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to plain data for JSON, with the format's number and the ratios."""
        return {"format": FORMAT, **super().to_dict(), "ratios": self.ratios}


def load_benchmark(path: str | os.PathLike) -> Benchmark:
    """Reads the result that `Benchmark.save` wrote.

    Args:
        path: The JSON file.

    Returns:
        A `Benchmark` that is equal to the saved one.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not such a result, or has another format.
    """
    return read_stored(path, "benchmark", FORMAT, _benchmark_from_dict)


def _benchmark_from_dict(data: dict[str, Any]) -> Benchmark:
    return Benchmark(
        latencies=[Latency(**latency) for latency in data["latencies"]],
        conditions=data["conditions"],
        failures=[Failure(**failure) for failure in data["failures"]],
    )


def read_stored(
    path: str | os.PathLike,
    name: str,
    format_number: int,
    build: Callable[[dict[str, Any]], Stored],
) -> Stored:
    """Reads a result that was saved as JSON.

    Args:
        path: The JSON file.
        name: Name of the expected content, for error messages.
        format_number: The expected number of its format.
        build: Function that makes the result from the content of the file. A KeyError or TypeError
            that it raises means that parts of the result are missing or unknown.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not JSON, has another format, or lacks parts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a stored {name}. Received: {path}, which does not exist."
        )
    return parse_stored(path.read_bytes(), str(path), name, format_number, build)


def parse_benchmark(content: bytes, source: str) -> Benchmark:
    """Reads a result from the JSON that another program has made.

    Args:
        content: The JSON.
        source: Where it comes from, for error messages.

    Raises:
        ValueError: If it is not such a result, or has another format.
    """
    return parse_stored(content, source, "benchmark", FORMAT, _benchmark_from_dict)


def parse_stored(
    text: bytes,
    source: str,
    name: str,
    format_number: int,
    build: Callable[[dict[str, Any]], Stored],
) -> Stored:
    """Makes a result from JSON; see `read_stored`, which reads it from a file.

    Args:
        text: The JSON.
        source: Where it comes from, for error messages.
        name: Name of the expected content, for error messages.
        format_number: The expected number of its format.
        build: Function that makes the result from the content.

    Raises:
        ValueError: If the text is not JSON, has another format, or lacks parts.
    """
    try:
        content = json.loads(text.decode("utf-8"))
        found = content.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputValueError(
            f"Expected a stored {name}. Received: {source}, which is not its JSON "
            f"({first_line(error)})."
        ) from error
    if found != format_number:
        number = "no format number" if found is None else f"format {found}"
        raise InputValueError(
            f"Expected a stored {name} of format {format_number}. Received: {source}, which has "
            f"{number}. Measure again, or read it with the version that wrote it."
        )
    try:
        return build(content)
    except (KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected a stored {name}. Received: {source}, which lacks parts of one "
            f"({first_line(error)})."
        ) from error
