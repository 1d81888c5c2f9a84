"""What a benchmark found out: rounds, latencies of files, the whole result as JSON."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from keras_mobileone.errors import InputValueError, first_line
from keras_mobileone.files import atomic_write

FORMAT = 1  # of the JSON that `Benchmark.save` writes; a change of its meaning raises it
TRIMMED = 5  # one run of so many is cut off at each end, as the authors cut 10 of 50


@dataclass(frozen=True)
class Round:
    """The runs of one file in one round, milliseconds.

    Attributes:
        median, p95: Of all runs. (Cutting equally many runs off both ends leaves a median as it
            is, so this is also that of the trimmed runs.)
        minimum: Fastest run.
        initialization: Time to load and prepare the file.
        p90: 90th percentile of all runs; None where the target does not tell it.
        trimmed: Mean without the slowest and the fastest fifth; None where it does not tell.
    """

    median: float
    p95: float
    minimum: float
    initialization: float
    p90: float | None = None
    trimmed: float | None = None


def round_of(runs: Sequence[float], initialization: float) -> Round:
    """The `Round` of single runs, all in milliseconds."""
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
    """A percentile of values in ascending order, linear between two of them."""
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True)
class Latency:
    """Time of one inference of one file, milliseconds, over all rounds.

    Attributes:
        path: The file.
        bytes: Its size.
        median, p95: Median over the rounds of each round's median and 95th percentile.
        minimum: Fastest run of all.
        initialization: Median time to load and prepare the file.
        p90: Median over the rounds of the 90th percentile; None where the target gives none, as
            LiteRT's native tool.
        trimmed: Median over the rounds of the mean without a round's slowest and fastest fifth;
            None likewise.
        medians: Each round's median, in order: what ratios are formed of.
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
    """The `Latency` of a file of `size` bytes from its rounds."""

    def middle(name):
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
    """How many times as long `latency`'s file takes as `reference`'s, of the same benchmark.

    It is the median over the rounds of the two medians' quotient in that round, so that a drift of
    the machine, which changes both, cancels out. Results without rounds give the quotient of their
    medians.
    """
    quotients = round_ratios(latency, reference)
    return statistics.median(quotients) if quotients else latency.median / reference.median


def round_ratios(latency: Latency, reference: Latency) -> list[float]:
    """Quotient of the two files' medians in each round; none unless both have the same rounds."""
    if len(latency.medians) != len(reference.medians):
        return []
    return [a / b for a, b in zip(latency.medians, reference.medians, strict=True)]


@dataclass(frozen=True)
class Failure:
    """A file that could not be measured.

    Attributes:
        path: The file.
        message: One sentence or two: expected, received, remedy.
    """

    path: str
    message: str


@dataclass(frozen=True)
class Benchmark:
    """Result of `benchmark`: latencies, and the conditions under which they were measured.

    Attributes:
        latencies: One for each file that was measured, in the order given.
        conditions: Target, threads, runs, versions; of a device also its state before and after.
        failures: The other files.
    """

    latencies: list[Latency]
    conditions: dict
    failures: list[Failure] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """`ratio` of each latency to the first."""
        return [ratio(latency, self.latencies[0]) for latency in self.latencies]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the result as JSON, whole or not at all."""
        content = {"format": FORMAT, **asdict(self), "ratios": self.ratios}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_benchmark(path: str | os.PathLike) -> Benchmark:
    """The result that `Benchmark.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such result, or one of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a stored benchmark. Received: {path}, which does not exist."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format")
    except (ValueError, AttributeError) as error:
        raise InputValueError(
            f"Expected a stored benchmark. Received: {path}, which is not its JSON "
            f"({first_line(error)})."
        ) from error
    if found != FORMAT:
        number = "no format number" if found is None else f"format {found}"
        raise InputValueError(
            f"Expected a stored benchmark of format {FORMAT}. Received: {path}, which has "
            f"{number}. Measure again, or read it with the version that wrote it."
        )
    try:
        return Benchmark(
            latencies=[Latency(**latency) for latency in content["latencies"]],
            conditions=content["conditions"],
            failures=[Failure(**failure) for failure in content["failures"]],
        )
    except (KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected a stored benchmark. Received: {path}, which lacks parts of one "
            f"({first_line(error)})."
        ) from error
