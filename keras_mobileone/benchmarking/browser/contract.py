"""What the page and Python have agreed on: the configuration, the files, and what is posted.

The other side of it is `page/`. The page gets config.json and posts its state and its result, which
is the JSON of `Benchmark`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from keras_mobileone.benchmarking.app_contract import Plan
from keras_mobileone.benchmarking.app_results import BROWSER, SLOWED, TOLERANCE, renamed
from keras_mobileone.benchmarking.browser.runtime import NAME, runtime_files
from keras_mobileone.benchmarking.results import Benchmark, parse_benchmark
from keras_mobileone.choices import DELEGATES
from keras_mobileone.errors import InputValueError

RESULT, STATE = "result", "state"  # addresses for posts
STATES = ("opened", "running", "alive", "closed")
LONGEST_TEXT = 2000  # characters of a text in a result
LONGEST_SERIES = 10_000  # values in a list
FROM_PAGE = "what the page has sent"


@dataclass(frozen=True)
class PagePlan(Plan):
    """What the page does with the files: see `Plan`. Files run on `"cpu"` or `"gpu"`."""

    KNOWN: ClassVar[Sequence[str]] = DELEGATES


@dataclass(frozen=True)
class State:
    """What the page says of its work.

    Attributes:
        name: One of `STATES`.
        done, total: Number of rounds of single files that are over, and of all of them.
    """

    name: str
    done: int = 0
    total: int = 0


def page_files(models: Mapping[str, bytes], plan: PagePlan, posts: bool) -> dict[str, bytes]:
    """Returns all files of the page by their relative addresses.

    Args:
        models: Content of each TFLite file by its name on the page.
        plan: What the page measures unless its user chooses otherwise.
        posts: Whether the page sends its result to where it came from.

    Raises:
        FileNotFoundError: If the runtime is not found and can't be fetched.
        ValueError: If the runtime does not have the expected checksum.
    """
    page = resources.files("keras_mobileone") / "benchmarking" / "browser" / "page"
    found = {entry.name: entry.read_bytes() for entry in page.iterdir() if entry.is_file()}
    found |= runtime_files()
    addresses = {name: f"models/{name}" for name in models}
    found |= {addresses[name]: content for name, content in models.items()}
    found["config.json"] = json.dumps(
        {
            "runtime": NAME,
            "files": [
                {"name": name, "url": addresses[name], "bytes": len(content)}
                for name, content in models.items()
            ],
            "plan": {
                "accelerators": list(plan.accelerators),
                "threads": list(plan.threads),
                "runs": plan.runs,
                "rounds": plan.rounds,
                "warmup_runs": plan.warmup_runs,
            },
            "tolerance": TOLERANCE,
            "slowed": SLOWED,
            "result": RESULT if posts else None,
            "state": STATE if posts else None,
        },
        indent=1,
    ).encode()
    return found


def read_state(body: bytes) -> State:
    """Returns the state that the page has posted.

    Raises:
        ValueError: If it is not one.
    """
    expected = InputValueError(
        f"Expected JSON with the name of what the page does. Received: {FROM_PAGE}, which has none."
    )
    try:
        found = json.loads(body)
        state = State(found["name"], found.get("done", 0), found.get("total", 0))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise expected from error
    if state.name not in STATES or not all(type(n) is int for n in (state.done, state.total)):
        raise expected
    if not 0 <= state.done <= state.total < 1_000_000:
        raise expected
    return state


def read_result(body: bytes, files: Mapping[str, Path]) -> Benchmark:
    """Returns the result that the page has posted, with this machine's paths.

    Args:
        body: JSON of a `Benchmark`.
        files: Path on this machine by the file's name on the page. Files that the user has chosen
            on the page keep their names.

    Raises:
        ValueError: If it is not a result of the page.
    """
    result = parse_benchmark(body, FROM_PAGE)
    for part in (result.latencies, result.failures, result.conditions):
        _require_plain(part if not isinstance(part, list) else [vars(item) for item in part])
    for latency in result.latencies:
        figures = (latency.median, latency.p95, latency.minimum, latency.initialization)
        optional = [v for v in (latency.p90, latency.trimmed) if v is not None]
        # A time of 0 would make the ratios infinite.
        positive = [*figures[:3], *optional, *_list(latency.medians)]
        numbers = [*positive, latency.initialization, latency.bytes]
        wrong = not all(type(n) in (int, float) for n in numbers)
        if wrong or min(positive) <= 0 or min(numbers) < 0 or type(latency.bytes) is not int:
            raise _nonsense("a time or size is not a positive number")
        if len(latency.medians) != len(result.latencies[0].medians) or not latency.medians:
            raise _nonsense("the files differ in the number of rounds")
    _require_described(result)
    return renamed(result, files)


def _require_described(result: Benchmark) -> None:
    """Raises an error unless names are texts and every row tells how it was measured."""
    if not isinstance(result.conditions, dict) or result.conditions.get("target") != BROWSER:
        raise _nonsense("its target is not the browser")
    names = [latency.path for latency in result.latencies]
    texts = [*names, *(text for f in result.failures for text in (f.path, f.message))]
    if not all(isinstance(text, str) and text for text in texts) or len(set(names)) < len(names):
        raise _nonsense("a name is missing or occurs twice")
    described = result.conditions.get("configurations")
    if not isinstance(described, dict):
        raise _nonsense("the configurations are missing")
    for name in names:
        how = described.get(name)
        if not isinstance(how, dict) or type(how.get("threads")) is not int:
            raise _nonsense(f"the configuration of {name} is missing")
        if not all(isinstance(how.get(key), str) for key in ("file", "accelerator", "ran_on")):
            raise _nonsense(f"the configuration of {name} is incomplete")
        if type(how.get("difference")) not in (int, float, type(None)):
            raise _nonsense(f"the difference of {name} is not a number")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _nonsense("the rounds are not a list")
    return value


def _require_plain(value: Any) -> None:
    """Raises an error for what would disturb a terminal, a table or JSON."""
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT or not value.isprintable():
            raise _nonsense("a text is too long or has control characters")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _nonsense("a number is not finite")
    elif isinstance(value, (dict, list)):
        if len(value) > LONGEST_SERIES:
            raise _nonsense("a list is too long")
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            _require_plain(item)


def _nonsense(reason: str) -> InputValueError:
    return InputValueError(
        f"Expected the result of the page. Received: {FROM_PAGE}, where {reason}. Load the page "
        "again and measure again."
    )
