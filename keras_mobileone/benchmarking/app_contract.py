"""What the desk and the Android app have agreed on: names, the intent, the state, crash reports.

The other side of it is RunActivity in android_app/. Crashes are logged as AOSP's RuntimeInit.java
and debuggerd's tombstone.cpp do.
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keras_mobileone.choices import ACCELERATORS
from keras_mobileone.errors import InputValueError

PACKAGE = "io.github.kerasmobileone.bench"
ACTIVITY = f"{PACKAGE}/.RunActivity"
ACTION = f"{PACKAGE}.RUN"
DIRECTORY = f"/sdcard/Android/data/{PACKAGE}/files"
# The state of a run: `running DONE/TOTAL`, `done` or `failed: SENTENCE`.
STATE = re.compile(r"running (\d+)/(\d+)")
FAILED = "failed:"
UNSAFE = re.compile(r"[^A-Za-z0-9._-]")  # characters that am, the shell or the app may interpret


@dataclass(frozen=True)
class Plan:
    """What the app does with the files.

    Attributes:
        KNOWN: What files can run on.
        accelerators: What the files run on.
        threads: Numbers of CPU threads.
        runs: Number of timed inferences of each file in each round.
        rounds: Number of rounds.
        warmup_runs: Number of inferences before the timed ones.

    Raises:
        ValueError: If an accelerator is unknown, or if there is none, or no number of threads.
    """

    KNOWN: ClassVar[Sequence[str]] = ACCELERATORS

    accelerators: Sequence[str]
    threads: Sequence[int]
    runs: int
    rounds: int
    warmup_runs: int

    def __post_init__(self) -> None:
        unknown = set(self.accelerators) - set(self.KNOWN)
        if unknown or not self.accelerators:
            raise InputValueError(
                f"`accelerators` must be some of {', '.join(self.KNOWN)}. Received: "
                f"{', '.join(sorted(unknown)) or 'none'}."
            )
        if not self.threads:
            raise InputValueError("`threads` must contain at least one number. Received: none.")

    def extras(self) -> list[str]:
        """Returns the extras of the intent as `am start` takes them."""
        texts = {
            "accelerators": ",".join(self.accelerators),
            "threads": ",".join(map(str, self.threads)),
        }
        numbers = {"rounds": self.rounds, "runs": self.runs, "warmup_runs": self.warmup_runs}
        found = [word for key, value in texts.items() for word in ("--es", key, value)]
        return found + [w for key, value in numbers.items() for w in ("--ei", key, str(value))]


def require_apk(path: str | os.PathLike) -> Path:
    """Returns `path` if it is an APK.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no ZIP archive, which every APK is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the APK of the app. Received: {path}, which does not exist. `make apk` "
            "builds it."
        )
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise InputValueError(
                f"Expected the APK of the app. Received: {path}, which is no ZIP archive. "
                "`make apk` builds it."
            )
    return path


def safe_name(name: str, taken: Collection[str]) -> str:
    """Returns a file name for the device that is like `name` and not in `taken`.

    Commas and characters that a shell interprets are replaced. Shared storage does not distinguish
    upper from lower case.

    Examples:
        >>> from keras_mobileone.benchmarking.android_app import safe_name
        >>> safe_name("my model, v2.tflite", []), safe_name("A.tflite", ["a.tflite"])
        ('my_model__v2.tflite', '1-A.tflite')
    """
    name = UNSAFE.sub("_", name)
    if name.lower() in {other.lower() for other in taken}:
        return f"{len(taken)}-{name}"
    return name


def crash_reason(log: str, process: str | None) -> str | None:
    """Returns why a process of the app crashed, from `logcat -b crash -v raw`.

    Args:
        log: Output of the command, which contains older crashes and those of other apps too.
        process: Number of the process. None: the app's latest one.

    Returns:
        An exception's line, or a signal with the library in which it arose; None if the log tells
        nothing about the process.
    """
    number, name = re.escape(process) if process else r"\d+", re.escape(PACKAGE)
    exceptions = re.findall(rf"^Process: {name}, PID: {number}\n(.+)$", log, re.MULTILINE)
    if exceptions:
        return exceptions[-1].strip().rstrip(".")
    headers = list(re.finditer(rf"^pid: {number}, .*>>> {name} <<<$", log, re.MULTILINE))
    if not headers:
        return None
    report, *_ = log[headers[-1].end() :].split("\npid: ")
    signal = re.search(r"^signal \d+ \(\w+\)", report, re.MULTILINE)
    library = re.search(r"^\s*#00 pc \w+\s+(\S+)", report, re.MULTILINE)
    words = [signal[0] if signal else "a signal", f"in {library[1]}" if library else ""]
    return " ".join(words).strip()
