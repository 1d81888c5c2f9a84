"""`AndroidDevice` measures with LiteRT's native benchmark tool, run over adb."""

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Any, Self

from keras_mobileone.benchmarking import device
from keras_mobileone.benchmarking.adb import Adb
from keras_mobileone.benchmarking.local import refusal
from keras_mobileone.benchmarking.native import (
    NativeTool,
    find_tool,
    parse_output,
    reason,
    whole_on_gpu,
)
from keras_mobileone.benchmarking.results import Round
from keras_mobileone.benchmarking.settings import Settings, TargetError
from keras_mobileone.choices import COOL_DOWN, DELEGATES
from keras_mobileone.errors import InputValueError, MeasurementError

ROOT = "/data/local/tmp"  # the only directory from which adb's user may run programs
RUN_SECONDS = 1800
PATIENCE = 600.0  # longest wait for a hot device to cool down, in seconds
POLL = 10.0  # seconds between two queries of its thermal status
KILLED = 128 + 9  # exit code of a shell command that SIGKILL ended


class AndroidDevice:
    """A connected Android device as the target of `benchmark`.

    Entering the context copies the tool into a new directory under /data/local/tmp. Leaving it
    removes that directory, even after an error. Before each process the device rests for
    `cool_down` seconds, and longer while it reports the thermal status "severe" or worse.

    Args:
        serial: Serial of the device as `adb devices` prints it. By default, the only connected
            device.
        tool: Path of a `benchmark_model` program for the device. By default, the program that
            litert-cli has downloaded.
        delegate: `"cpu"` (XNNPACK) or `"gpu"`. With `"gpu"`, a file with an operator that the GPU
            does not run is an error.
        affinity: Hexadecimal mask of the cores to run on, such as `"f0"` for cores 4 … 7.
        cool_down: Seconds of rest before each process.
        profile: Existing directory for the times of each file's operators, which are measured in a
            separate process.

    Raises:
        ValueError: If an argument is out of range.
        TargetError: On entering, if the device is not connected or there is no tool for it.

    Examples:
        ```python
        from keras_mobileone.benchmarking import AndroidDevice, benchmark

        result = benchmark(["mobileone_s0.tflite"], target=AndroidDevice(tool="benchmark_model"))
        print(result.latencies[0].median)
        ```
    """

    def __init__(
        self,
        serial: str | None = None,
        *,
        tool: str | os.PathLike | None = None,
        delegate: str = "cpu",
        affinity: str | None = None,
        cool_down: float = COOL_DOWN,
        profile: str | os.PathLike | None = None,
    ):
        if delegate not in DELEGATES:
            raise InputValueError(
                f"`delegate` must be one of {', '.join(DELEGATES)}. Received: {delegate!r}."
            )
        if cool_down < 0:
            raise InputValueError(f"`cool_down` must be 0 seconds or more. Received: {cool_down}.")
        self._serial, self._delegate = serial, delegate
        self._tool_path = None if tool is None else Path(tool)
        self._affinity = None if affinity is None else parse_mask(affinity)
        self._cool_down = cool_down
        self._profile = None if profile is None else require_directory(profile)
        self._files: dict[Path, str] = {}
        self._thermal: dict[str, list[int | None]] = {}

    def __enter__(self) -> Self:
        self._adb = Adb(self._serial)
        self._description = device.describe(self._adb)
        # The ABIs that the device runs, the preferred one first.
        self._tool = find_tool(self._tool_path, self._description.get("abis", "unknown").split(","))
        self._before = device.state(self._adb)
        self._directory = f"{ROOT}/keras_mobileone-{secrets.token_hex(4)}"
        try:
            self._install(self._tool)
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._clean_up()

    def _install(self, tool: NativeTool) -> None:
        made = self._adb.shell(["mkdir", self._directory])
        if made.returncode:
            raise TargetError(
                f"Expected to make a directory in {ROOT} of device {self._adb.serial}. "
                f"Received: {reason(made.stdout + made.stderr)}."
            )
        self._program = f"{self._directory}/{tool.path.name}"
        try:
            for path in (tool.path, *tool.libraries):
                self._adb.push(path, f"{self._directory}/{path.name}")
        except RuntimeError as error:
            raise TargetError(str(error)) from error  # no file can be measured without the tool
        # adb push loses the executable bit when it runs on Windows.
        self._adb.shell(["chmod", "755", self._program])

    def _clean_up(self) -> None:
        # If the device is disconnected, the directory stays there. The error is already being
        # raised.
        with contextlib.suppress(TargetError):
            self._adb.shell(["rm", "-rf", self._directory])

    def add(self, path: Path) -> None:
        """Copies a file to the device.

        Raises:
            RuntimeError: If there is no space for the file.
            TargetError: If the device is disconnected.
        """
        # Files are numbered because names may be equal or contain characters that a shell
        # interprets.
        target = f"{self._directory}/{len(self._files)}.tflite"
        try:
            self._adb.push(path, target)
        except RuntimeError:
            with contextlib.suppress(TargetError):
                self._adb.shell(["rm", "-f", target])
            raise
        self._files[path] = target

    def measure(self, path: Path, settings: Settings) -> Round:
        """Measures one round of a file in a new process on the device.

        Raises:
            RuntimeError: If the tool fails or is killed, if the GPU does not run the whole file, or
                if the device stays too hot.
            TargetError: If the device is disconnected.
        """
        self._cool(path)
        output = self._run(path, settings)
        self._thermal.setdefault(str(path), []).append(device.thermal_status(self._adb))
        return parse_output(output)

    def finish(self, path: Path, settings: Settings) -> None:
        """Writes the times of a file's operators into `profile`, if it is set.

        The name is N-FILE.csv with TensorFlow Lite's tool and N-FILE.txt with LiteRT's.
        """
        if self._profile is None:
            return
        name = f"{Path(self._files[path]).stem}-{path.stem}"
        self._cool(path)
        remote = f"{self._directory}/profile.csv"
        output = self._run(path, settings, self._tool.profiling(remote))
        if self._tool.litert:
            (self._profile / f"{name}.txt").write_text(output, encoding="utf-8")
        else:
            self._adb.pull(remote, self._profile / f"{name}.csv")

    def _run(self, path: Path, settings: Settings, further: Sequence[str] = ()) -> str:
        command = [self._program]
        command += self._tool.arguments(self._files[path], settings, self._delegate)
        command += further
        if self._tool.libraries:
            command = ["env", f"LD_LIBRARY_PATH={self._directory}", *command]
        if self._affinity:
            command = ["taskset", self._affinity, *command]
        process = self._adb.shell(command, RUN_SECONDS)
        output = process.stdout + process.stderr
        if process.returncode == KILLED:
            status = device.thermal_status(self._adb)
            raise MeasurementError(
                f"Expected the tool to finish on {path}. Received: the device killed it (SIGKILL), "
                f"thermal status {_thermal_name(status)}. Let the device cool down, free memory, "
                "and measure again."
            )
        if process.returncode in (126, 127):
            raise TargetError(
                f"Expected device {self._adb.serial} to run {self._tool.path.name}. "
                f"Received: {reason(output)}. Pass a program for {self._tool.abi} to --tool."
            )
        if self._delegate == "gpu" and not whole_on_gpu(output):
            raise MeasurementError(
                f"Expected the GPU to run all of {path}. Received: {reason(output)}. "
                "Measure it with --delegate cpu."
            )
        if process.returncode:
            raise MeasurementError(refusal(path, reason(output)))
        return output

    def _cool(self, path: Path) -> None:
        """Rests for `cool_down` seconds, and longer while the device throttles itself."""
        sleep(self._cool_down)
        waited = 0.0
        while (status := device.thermal_status(self._adb) or 0) >= device.SEVERE:
            if waited >= PATIENCE:
                raise MeasurementError(
                    f"Expected a thermal status below severe to measure {path}. Received: "
                    f"{_thermal_name(status)}, after {waited:g} s of waiting. Let the device cool "
                    "down, out of the sun and off the charger."
                )
            sleep(POLL)
            waited += POLL

    def conditions(self) -> dict[str, Any]:
        """Returns the device, the tool, and the device's state before and after the benchmark."""
        return {
            "target": "Android",
            "serial": self._adb.serial,
            **self._description,
            "tool": "LiteRT" if self._tool.litert else "TensorFlow Lite",
            "abi": self._tool.abi,
            "delegate": self._delegate,
            "affinity": self._affinity,
            "cool_down_seconds": self._cool_down,
            "before": self._before,
            "after": device.state(self._adb),
            "thermal_status_after_rounds": self._thermal,
        }


def _thermal_name(status: int | None) -> str:
    return "unknown" if status is None else device.THERMAL[min(status, len(device.THERMAL) - 1)]


def parse_mask(text: str) -> str:
    """Returns a mask of cores in the form that `taskset` takes: hexadecimal digits only.

    Raises:
        ValueError: If `text` is not a positive hexadecimal number.

    Examples:
        >>> from keras_mobileone.benchmarking.android import parse_mask
        >>> parse_mask("0xF0")
        'f0'
    """
    try:
        mask = int(text, 16)
    except ValueError:
        mask = 0
    if mask <= 0:
        raise InputValueError(
            "`affinity` must be a hexadecimal mask of cores, such as f0 for cores 4 … 7. "
            f"Received: {text!r}."
        )
    return f"{mask:x}"


def require_directory(path: str | os.PathLike) -> Path:
    """Returns `path` if it is a directory.

    Raises:
        FileNotFoundError: If `path` is not a directory.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            "Expected an existing directory for profiles. "
            f"Received: {path}, which is not a directory. Create it first."
        )
    return path
