"""What results tell beyond latencies: where they come from, configurations, and warnings.

The Android app and the page for browsers measure a file in several ways, which
`conditions["configurations"]` describes by the latency's path.
"""

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from keras_mobileone.benchmarking.device import SEVERE, THERMAL
from keras_mobileone.benchmarking.results import Benchmark, Failure, Latency

APP = "android-app"
BROWSER = "browser"
# The targets that describe configurations: a file may have several rows.
CONFIGURED = (APP, BROWSER)
# What measured, by the target in a result's conditions.
SOURCES = {APP: "app", "Android": "native tool", "this machine": "this machine"}
TOLERANCE = 0.05  # of the largest output; int8 and float16 arithmetic stay below it
SLOWED = 1.2  # the last round over the first one, from which on a device is called slowed down


@dataclass(frozen=True)
class Configuration:
    """How a latency was measured.

    Attributes:
        file: The file.
        accelerator: What it was to run on.
        threads: Number of CPU threads.
        ran_on: What it ran on, which is the CPU if the accelerator did not take it.
        difference: Largest difference of its outputs from those on the CPU, relative to the largest
            of them; None if they were not compared.
    """

    file: str
    accelerator: str
    threads: int
    ran_on: str
    difference: float | None = None

    def __str__(self) -> str:
        return f"{self.accelerator} ×{self.threads}"


def source(result: Benchmark) -> str:
    """Returns what measured a result: `"app"`, `"browser"`, `"native tool"` or `"this machine"`."""
    target = str(result.conditions.get("target", "unknown"))
    return SOURCES.get(target, target)


def configuration(result: Benchmark, latency: Latency) -> Configuration:
    """Returns how a latency was measured, on whatever target."""
    conditions = result.conditions
    described = conditions.get("configurations", {}).get(latency.path, {})
    accelerator = described.get("accelerator", conditions.get("delegate", "cpu"))
    return Configuration(
        file=described.get("file", latency.path),
        accelerator=accelerator,
        threads=described.get("threads", conditions.get("threads", 1)),
        ran_on=described.get("ran_on", accelerator),
        difference=described.get("difference"),
    )


def renamed(result: Benchmark, files: Mapping[str, Path], directory: str = "") -> Benchmark:
    """Returns a device's result with this machine's paths instead of the device's names.

    Args:
        result: The result as the app has written it.
        files: Path on this machine by the file's name on the device.
        directory: Directory of the files on the device, if the result names it.
    """
    prefix = f"{directory}/" if directory else ""
    # A name must not match within a longer name.
    words = {
        re.compile(rf"(?<![\w./-]){re.escape(prefix + name)}(?![\w-])"): path
        for name, path in files.items()
    }

    def local(name: str) -> str:
        name = name.removeprefix(prefix)
        # The names on the device contain no space, which begins the description of how it ran.
        file, space, way = name.partition(" ")
        return f"{files.get(file, file)}{space}{way}"

    def told(message: str) -> str:
        for word, path in words.items():
            # A function, since a path may contain backslashes.
            message = word.sub(partial(_constant, str(path)), message)
        return message

    conditions = dict(result.conditions)
    if "configurations" in conditions:
        conditions["configurations"] = {
            local(path): described | {"file": local(described.get("file", path))}
            for path, described in conditions["configurations"].items()
        }
    return Benchmark(
        latencies=[replace(latency, path=local(latency.path)) for latency in result.latencies],
        conditions=conditions,
        failures=[Failure(local(f.path), told(f.message)) for f in result.failures],
    )


def _constant(text: str, found: re.Match[str]) -> str:
    return text


def warnings(result: Benchmark) -> list[str]:
    """Returns a sentence for each reason to doubt a result: wrong device, outputs, heat, drift."""
    ways: dict[tuple[str, str], list[Configuration]] = {}
    for latency in result.latencies:
        how = configuration(result, latency)
        ways.setdefault((how.file, how.accelerator), []).append(how)
    found = []
    for (file, accelerator), configurations in ways.items():
        name = Path(file).name
        elsewhere = {how.ran_on for how in configurations} - {accelerator}
        if elsewhere:
            places = ", ".join(sorted(elsewhere))
            found.append(
                f"{name} did not run on {accelerator} but on {places}: the marked figures are not "
                f"those of {accelerator}."
            )
        differences = [how.difference for how in configurations if how.difference is not None]
        largest = max(differences, default=0.0)
        if not largest <= TOLERANCE:
            found.append(
                f"{name} gives other outputs on {accelerator} than on the CPU: they differ by "
                f"{largest:.2g} of the largest. Check its answers before you use it there."
            )
    return found + _threads(result) + _interference(result) + _heat(result) + _drift(result)


def _threads(result: Benchmark) -> list[str]:
    """Says that a browser gave fewer threads than were asked for."""
    wanted = result.conditions.get("requested_threads", [])
    given = {configuration(result, latency).threads for latency in result.latencies}
    if not wanted or not given or max(wanted) <= max(given):
        return []
    reason = str(result.conditions.get("threads_reason", "the browser offers no more"))
    return [f"Threads: {max(wanted)} were wanted, and {max(given)} ran, because {reason}."]


def _interference(result: Benchmark) -> list[str]:
    """Says what the user of the app or the page did during the run."""
    found = []
    repeated = result.conditions.get("repeated_rounds")
    if repeated:
        found.append(
            f"The page was hidden {repeated} times, and those rounds were repeated. Keep it in "
            "front and measure again if the ratios of the rounds differ."
        )
    if result.conditions.get("left_foreground"):
        found.append(
            "The app was in the background for a time, where Android gives it less of the "
            "processor. Keep it in front and measure again."
        )
    if result.conditions.get("cancelled"):
        found.append("The run was cancelled: it has fewer rounds than were planned.")
    return found


def _heat(result: Benchmark) -> list[str]:
    """Says that the device was throttled, by Android's own thermal status."""
    conditions = result.conditions
    states = [conditions.get(moment, {}) for moment in ("before", "after")]
    if conditions.get("target") == APP:
        when, statuses = "in the run", [state.get("thermal_status") for state in states]
        statuses += [moment.get("status") for moment in conditions.get("thermal", [])]
    else:  # the native tool lets the device cool down before each round
        rounds = conditions.get("thermal_status_after_rounds", {})
        when, statuses = "after a round", [status for each in rounds.values() for status in each]
    hottest = max(map(_severity, statuses), default=0)
    found = []
    if hottest >= SEVERE:
        found.append(
            f"The device got hot: thermal status {THERMAL[min(hottest, len(THERMAL) - 1)]} {when}. "
            "Its figures are those of a throttled device. Measure again with a longer rest."
        )
    if any(state.get("power_save") for state in states):
        found.append(
            "The device was saving power, which makes it slower. Switch the battery saver off and "
            "measure again."
        )
    return found


def _severity(status: int | str | None) -> int:
    """The index into `THERMAL` of a status, which the app gives by its name; 0 if it is unknown."""
    if isinstance(status, str):
        return THERMAL.index(status) if status in THERMAL else 0
    return status or 0


def _drift(result: Benchmark) -> list[str]:
    """Says that a device became slower from the first round to the last."""
    if result.conditions.get("target") not in CONFIGURED:
        return []
    quotients = [f.medians[-1] / f.medians[0] for f in result.latencies if len(f.medians) > 1]
    slower = statistics.median(quotients) if quotients else 1.0
    if slower < SLOWED:
        return []
    return [
        f"The device slowed down: the last round took {slower:.2f} times as long as the first. "
        "Compare by the ratios, which are formed within rounds."
    ]
