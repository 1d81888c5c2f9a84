"""`benchmark_with_app`: measures with the project's Android app, which is run over adb.

The app measures inside a foreground activity, as other apps run their models. LiteRT's native tool
(`AndroidDevice`) runs in a shell, which Android schedules in another way, so that figures of the
two are not comparable.

The app's directory on shared storage is the only place that both sides can use: adb's user, who
writes files there and reads the result, and the app, which needs no permission for it. Apps can't
read /data/local/tmp on all versions of Android. Files still pass through it: on some devices with
Android 11, `adb push` into an app's directory fails (`remote fchown failed`), while a copy by the
shell succeeds.

Formats: `am start` as AOSP's ActivityManagerShellCommand.java prints it.
"""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Self

from keras_mobileone.benchmarking.adb import Adb
from keras_mobileone.benchmarking.app_contract import (
    ACTION,
    ACTIVITY,
    DIRECTORY,
    FAILED,
    PACKAGE,
    STATE,
    Plan,
    crash_reason,
    require_apk,
    safe_name,
)
from keras_mobileone.benchmarking.app_results import renamed
from keras_mobileone.benchmarking.protocol import (
    WARMUP_RUNS,
    check_arguments,
    check_files,
    noting_failure,
    remaining,
)
from keras_mobileone.benchmarking.results import Benchmark, Failure, load_benchmark
from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.choices import ROUNDS
from keras_mobileone.errors import MeasurementError, first_line

STAGING = "/data/local/tmp"
POLL = 3.0  # seconds between two looks at the state, few enough not to disturb the measurement
START_SECONDS = 60.0  # limit until the app tells its first state
PATIENCE = 900.0  # limit for one step: a round of one file


def benchmark_with_app(
    paths: Sequence[str | os.PathLike],
    *,
    serial: str | None = None,
    apk: str | os.PathLike | None = None,
    accelerators: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    runs: int = 50,
    rounds: int = ROUNDS,
    warmup_runs: int = WARMUP_RUNS,
    progress: Callable[[int, int], None] | None = None,
    keep_going: bool = False,
) -> Benchmark:
    """Measures the latency of TFLite files with the Android app: batch 1, inference only.

    The app measures every file with every accelerator and number of threads, by the protocol of
    `benchmark`, and compares the outputs with those of the CPU. The phone has to be unlocked.
    Everything that was copied to the phone is removed in the end; the app stays installed.

    Args:
        paths: `.tflite` files whose inputs have fixed shapes.
        serial: Serial of the device as `adb devices` prints it. None: the only connected device.
        apk: The app, which is installed first. None: the device has it already.
        accelerators: What the files run on: `"cpu"`, `"gpu-fp16"`, `"gpu-fp32"`, `"nnapi"`.
        threads: Numbers of CPU threads.
        runs: Number of timed inferences of each file in each round, after a warm-up.
        rounds: Number of rounds over all files.
        warmup_runs: Number of inferences of each file in each round before the timed ones.
        progress: Called with (done, total) while the app measures.
        keep_going: Whether to continue when a file can't be measured. The file is then listed in
            `Benchmark.failures`; otherwise an error is raised.

    Returns:
        A `Benchmark` whose conditions have the target `"android-app"`. Where a file was measured
        in several ways, each `Latency.path` ends with the way, such as `" (gpu-fp16, 4 threads)"`,
        and `conditions["configurations"]` describes it.

    Raises:
        FileNotFoundError: If a file or the APK does not exist.
        TypeError: If `paths` is a single path.
        ValueError: If an argument or a file can't be used.
        RuntimeError: If the app can't measure a file. A `TargetError`, which is a RuntimeError,
            means that the app can't measure at all: it is not there, it crashed, or the device was
            lost.

    Examples:
        ```python
        from keras_mobileone.benchmarking import benchmark_with_app

        result = benchmark_with_app(
            ["mobileone_s0.tflite"], apk="bench.apk", accelerators=["cpu", "gpu-fp16"]
        )
        print(result.ratios)
        ```
    """
    plan = Plan(accelerators, threads, runs, rounds, warmup_runs)
    entries = check_arguments(paths, threads, runs, rounds, warmup_runs)
    check_files(entries, keep_going)
    result = Benchmark(latencies=[], conditions={})
    if remaining(entries):
        with AndroidApp(serial, apk) as app:
            for entry in remaining(entries):
                with noting_failure(entry, keep_going):
                    app.add(entry.path)
            if remaining(entries):
                result = app.measure(plan, progress)
    if result.failures and not keep_going:
        raise MeasurementError(result.failures[0].message)
    failures = [Failure(str(e.path), e.failure) for e in entries if e.failure]
    return Benchmark(result.latencies, result.conditions, failures + result.failures)


class AndroidApp:
    """The benchmark app on a connected device.

    Entering the context installs the app if `apk` is given. Leaving it removes the copied files,
    and stops the app if there was an error.

    Args:
        serial: Serial of the device as `adb devices` prints it. None: the only connected device.
        apk: The app to install. None: the device has it already.

    Raises:
        FileNotFoundError: If the APK does not exist.
        ValueError: If `apk` is no APK.
        TargetError: On entering, if the device is not connected, refuses the APK or lacks the app.
    """

    def __init__(self, serial: str | None = None, apk: str | os.PathLike | None = None):
        self._serial = serial
        self._apk = None if apk is None else require_apk(apk)
        # Names that no other run uses, since an earlier one may have left files behind.
        name = f"desk-{secrets.token_hex(4)}"
        self._models, self._output = f"{DIRECTORY}/{name}", f"{name}.json"
        self._staging = f"{STAGING}/keras_mobileone-{name}"
        self._files: dict[str, Path] = {}
        self._process: str | None = None

    def __enter__(self) -> Self:
        self._adb = Adb(self._serial)
        if self._apk is not None:
            self._adb.install(self._apk)
        elif self._adb.shell(["pm", "path", PACKAGE]).returncode:
            raise TargetError(
                f"Expected the app {PACKAGE} on device {self._adb.serial}. Received: it is not "
                "installed. Give its APK (--app APK), which `make apk` builds."
            )
        try:
            self._make_directories()
        except BaseException:
            self._stop()
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stop()
        self._clean_up()

    def _make_directories(self) -> None:
        if self._adb.shell(["ls", "-d", DIRECTORY]).returncode:
            self._let_app_make_directory()
        for path in (self._staging, self._models):
            made = self._adb.shell(["mkdir", "-m", "777", path])
            if made.returncode:
                raise TargetError(
                    f"Expected to make a directory on device {self._adb.serial}. Received: "
                    f"{_last_line(made.stdout + made.stderr)}. Copy the files by hand and measure "
                    "them in the app."
                )

    def _let_app_make_directory(self) -> None:
        """Starts the app without files, since only the app may make its own directory."""
        self._start([], [])
        waited = 0.0
        while self._adb.shell(["ls", "-d", DIRECTORY]).returncode:
            if waited >= START_SECONDS:
                raise TargetError(
                    f"Expected the app to make {DIRECTORY} on device {self._adb.serial}. Received: "
                    f"none within {START_SECONDS:g} s. Unlock the device, open the app once, and "
                    "try again."
                )
            sleep(POLL)
            waited += POLL
        self._stop()

    def _clean_up(self) -> None:
        output = f"{DIRECTORY}/{self._output}"
        leftovers = [self._staging, self._models, output, f"{output}.state"]
        # A device that is gone keeps them; the error about it is already being raised.
        with contextlib.suppress(TargetError):
            self._adb.shell(["rm", "-rf", *leftovers])

    def _stop(self) -> None:
        with contextlib.suppress(TargetError):
            self._adb.shell(["am", "force-stop", PACKAGE])

    def add(self, path: Path) -> None:
        """Copies a file to where the app can read it.

        Raises:
            RuntimeError: If there is no room for the file.
            TargetError: If the device is gone.
        """
        name = safe_name(path.name, self._files)
        staged, target = f"{self._staging}/{name}", f"{self._models}/{name}"
        try:
            self._adb.push(path, staged)
            copied = self._adb.shell(["cp", staged, target])
            if copied.returncode:
                raise MeasurementError(
                    f"Expected to copy {path} to {self._models}. Received: "
                    f"{_last_line(copied.stdout + copied.stderr)}, from device "
                    f"{self._adb.serial}. Free some space on it."
                )
        except RuntimeError:
            with contextlib.suppress(TargetError):
                self._adb.shell(["rm", "-f", staged, target])
            raise
        self._adb.shell(["rm", "-f", staged])
        self._files[name] = path

    def measure(self, plan: Plan, progress: Callable[[int, int], None] | None = None) -> Benchmark:
        """Measures the added files and returns the app's result.

        Args:
            plan: What the app does with the files.
            progress: Called with (done, total) while the app measures.

        Raises:
            TargetError: If the app does not start, crashes, gives up, hangs or writes no result, or
                if the device is gone.
        """
        self._start([f"{self._models}/{name}" for name in self._files], plan.extras())
        self._wait(progress)
        return renamed(self._fetch(), self._files, self._models)

    def _start(self, models: Sequence[str], extras: Sequence[str]) -> None:
        # An activity does not come to the front while the screen is off.
        self._adb.shell(["input", "keyevent", "KEYCODE_WAKEUP"])
        # -S ends a run that may be going on, which would disturb this one.
        command = ["am", "start", "-S", "-n", ACTIVITY, "-a", ACTION]
        command += ["--es", "files", ",".join(models), "--es", "output", self._output, *extras]
        started = self._adb.shell(command)
        output = started.stdout + started.stderr
        # Until Android 9, am ends with 0 in any case.
        if started.returncode or re.search(r"^(Error|.*Exception\b)", output, re.MULTILINE):
            raise TargetError(
                f"Expected the app to start on device {self._adb.serial}. Received: "
                f"{_last_line(output)}. Give the APK of this version (--app APK)."
            )

    def _wait(self, progress: Callable[[int, int], None] | None) -> None:
        """Waits until the app has measured everything, or until it can't go on."""
        state, waited = "", 0.0
        # While the app replaces the file, there is none for a moment.
        while (found := self._state() or state) != "done":
            if found.startswith(FAILED):
                message = self._local_names(found.removeprefix(FAILED).strip())
                raise TargetError(
                    f"Expected the app to measure on device {self._adb.serial}. Received: {message}"
                )
            if found != state:
                state, waited = found, 0.0
                if self._process is None:
                    self._processes()
                numbers = STATE.match(state)
                if progress and numbers and int(numbers[2]):  # it begins with 0/0
                    progress(int(numbers[1]), int(numbers[2]))
            elif not self._alive(waited):
                self._require_end(state)
                continue
            self._check_patience(state, waited)
            sleep(POLL)
            waited += POLL

    def _state(self) -> str:
        """What the app says of its work; nothing before it has started."""
        process = self._adb.shell(["cat", f"{DIRECTORY}/{self._output}.state"])
        return "" if process.returncode else process.stdout.strip()

    def _alive(self, waited: float) -> bool:
        """Whether the app still has the process that it had at first."""
        found = self._processes()
        if self._process is None:
            return waited < START_SECONDS / 2  # a slow phone may not have made it yet
        return self._process in found

    def _processes(self) -> list[str]:
        """Numbers of the app's processes, the first of which is kept."""
        found = self._adb.shell(["pidof", PACKAGE]).stdout.split()
        if self._process is None and found:
            self._process = found[0]
        return found

    def _require_end(self, state: str) -> None:
        """Raises an error for a process that is gone, unless it has just finished."""
        if (self._state() or state) != state:
            return
        raise TargetError(
            f"Expected the app to run until its end on device {self._adb.serial}. Received: "
            f"{self._crash()}, {f'in the state {state!r}' if state else 'before its first state'}. "
            "Measure fewer files, or without the accelerator that it was using."
        )

    def _crash(self) -> str:
        """How the app ended, from the device's log of crashes."""
        log = self._adb.shell(["logcat", "-b", "crash", "-d", "-v", "raw"])
        found = crash_reason(log.stdout, self._process)
        return f"it crashed ({found})" if found else "its process ended without a crash report"

    def _check_patience(self, state: str, waited: float) -> None:
        limit = PATIENCE if state else START_SECONDS
        if waited < limit:
            return
        where = f"the state {state!r}" if state else "no state"
        raise TargetError(
            f"Expected the app to go on within {limit:g} s on device {self._adb.serial}. Received: "
            f"{where}. Unlock the device, keep the app in front, and measure again."
        )

    def _fetch(self) -> Benchmark:
        """The result that the app has written."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "result.json"
            try:
                self._adb.pull(f"{DIRECTORY}/{self._output}", path)
                return load_benchmark(path)
            except TargetError:
                raise
            except (OSError, RuntimeError, ValueError) as error:
                raise TargetError(
                    "Expected the app to write a result that this version reads. Received: "
                    f"{first_line(error, 400).replace(str(path), self._output).rstrip('.')}. "
                    "Install the APK of this version (--app APK)."
                ) from error

    def _local_names(self, message: str) -> str:
        for name, path in self._files.items():
            message = message.replace(f"{self._models}/{name}", str(path))
        return message


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else "no output"
