"""Finds and calls LiteRT's native `benchmark_model`, and reads its output.

Two programs have this name and share their core (`tflite/tools/benchmark/benchmark_model.cc` of
github.com/google-ai-edge/LiteRT): TensorFlow Lite's (`benchmark_tflite_model.cc` in the same
directory) and LiteRT's (`litert/tools/benchmark_litert_model.h`), which litert-cli downloads. Both
are supported. `StatWithPercentiles::OutputToStream` (`tsl/util/stats_calculator.h`) prints the
statistics.
"""

import re
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from keras_mobileone.benchmarking.results import Round
from keras_mobileone.benchmarking.settings import Settings, TargetError
from keras_mobileone.errors import InputValueError, first_line

NAME = "benchmark_model"
# ELF's e_machine of each ABI of Android.
MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}
FIGURE = re.compile(r"(\w+)=([\d.eE+-]+)")
INITIALIZED = re.compile(r"Initialized session in ([\d.eE+-]+)ms")
DELEGATED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\)")
WHOLE = "Explicitly applied GPU delegate, and the model graph will be completely executed"
REASONS = ("GPU accelerator could not", "Failed to apply", "Disallowed CPU fallback", "ERROR")


@dataclass(frozen=True)
class NativeTool:
    """A `benchmark_model` program for Android.

    Attributes:
        path: Path of the program on this machine.
        abi: Android ABI that the program runs on.
        litert: True for LiteRT's program, False for TensorFlow Lite's.
        libraries: LiteRT's accelerator libraries next to the program, which needs them on the
            device.
    """

    path: Path
    abi: str
    litert: bool
    libraries: tuple[Path, ...] = ()

    def arguments(self, graph: str, settings: Settings, delegate: str) -> list[str]:
        """Returns the arguments for one round of `graph`, the path of a file on the device."""
        arguments = [
            f"--graph={graph}",
            f"--num_threads={settings.threads}",
            f"--num_runs={settings.runs}",
            f"--warmup_runs={settings.warmup_runs}",
            # Without a minimum time, fast files run exactly as often as slow ones.
            "--min_secs=0",
            "--warmup_min_secs=0",
        ]
        if delegate == "gpu":
            arguments += ["--use_gpu=true", "--require_full_delegation=true"]
            arguments += ["--use_cpu=false"] if self.litert else []
        return arguments

    def profiling(self, output: str) -> list[str]:
        """Returns further arguments that measure the time of each operator.

        TensorFlow Lite's program writes CSV to `output`, a path on the device. LiteRT's prints a
        table.
        """
        if self.litert:
            return ["--use_profiler=true"]
        return [
            "--enable_op_profiling=true",
            "--op_profiling_output_mode=csv",
            f"--op_profiling_output_file={output}",
        ]


def find_tool(path: Path | None, abis: list[str]) -> NativeTool:
    """Finds the tool and checks that it runs on the device.

    litert-cli 0.2.1 keeps its download in ~/.cache/litert-cli/binaries/ABI (its `core/constants.py`
    and `core/android_utils.py`), for arm64-v8a only.

    Args:
        path: Path of the program. By default, the one that litert-cli has downloaded.
        abis: ABIs of the device, the preferred one first.

    Raises:
        TargetError: If there is no program, or it does not run on the device.
    """
    path = _downloaded(abis[0]) if path is None else Path(path)
    if not path.is_file():
        raise TargetError(
            f"Expected the path of LiteRT's {NAME} for {abis[0]}. Received: {path}, which does not "
            "exist."
        )
    content = path.read_bytes()
    abi = _abi(content)
    if abi not in abis:
        raise TargetError(
            f"Expected a {NAME} for the device: {' or '.join(abis)}. Received: {path} for "
            f"{abi or 'no known processor, since it is not an ELF program'}. "
            "Pass another program to --tool."
        )
    return NativeTool(
        path=path,
        abi=abi,
        # The names of options occur in a program as text. Only LiteRT's program has this option.
        litert=b"use_profiler" in content,
        libraries=tuple(sorted(path.parent.glob("libLiteRt*.so"))),
    )


def _downloaded(abi: str) -> Path:
    path = Path.home() / ".cache" / "litert-cli" / "binaries" / abi / NAME
    if path.is_file():
        return path
    reason = f"no --tool, and {path} does not exist"
    if find_spec("litert_cli") is not None:
        try:
            from litert_cli.core.android_utils import find_android_binary

            return Path(find_android_binary(NAME, abi))
        except Exception as error:  # click's exceptions, or another layout of litert-cli
            reason += f"; litert-cli could not fetch it ({first_line(error)})"
    raise TargetError(
        f"Expected LiteRT's {NAME} for {abi}. Received: {reason}. Add --tool PATH, or install "
        "litert-cli in a separate environment and run `litert benchmark FILE --android` once, "
        "which downloads it."
    )


def _abi(content: bytes) -> str | None:
    """Returns the ABI in the header of an ELF file, or None for any other file."""
    if content[:4] != b"\x7fELF" or len(content) < 20:
        return None
    (machine,) = struct.unpack_from("<H", content, 18)
    return MACHINES.get(machine, f"ELF machine {machine}")


def parse_output(output: str) -> Round:
    """Reads a round from the output of the tool.

    The tool prints statistics of all runs in whole microseconds, among them the median and the 95th
    percentile but not the 90th.

    Raises:
        ValueError: If the output lacks the statistics.
    """
    lines = [line for line in output.splitlines() if re.search(r"\bcount=[1-9]", line)]
    initialized = INITIALIZED.search(output)
    # The first line with a count belongs to the warm-up.
    if len(lines) < 2 or not initialized:
        raise InputValueError(
            f"Expected the statistics of {NAME}. Received: output without the lines "
            "`Initialized session …` and `count=…`."
        )
    figures = {name: float(value) for name, value in FIGURE.findall(lines[-1])}
    if "median" not in figures or "p95" not in figures:
        raise InputValueError(
            f"Expected a {NAME} that prints median and p95. Received: {lines[-1].strip()!r}. "
            "Use a newer version."
        )
    return Round(
        median=figures["median"] / 1e3,
        p95=figures["p95"] / 1e3,
        # If all runs took equally long, the tool prints only the last one.
        minimum=figures.get("min", figures["curr"]) / 1e3,
        initialization=float(initialized[1]),
    )


def whole_on_gpu(output: str) -> bool:
    """Returns whether the output shows that the GPU ran every operator of the file."""
    if WHOLE in output:
        return True
    found = DELEGATED.findall(output)
    gpu = [pair for *pair, name in found if re.search(r"gpu|litert_(cl|gl|webgpu)", name, re.I)]
    return bool(gpu) and all(replaced == total for replaced, total in gpu)


def reason(output: str) -> str:
    """Returns the line of the output that best explains the failure."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for words in REASONS:
        for line in lines:
            if words in line and "Benchmarking failed" not in line:
                return line.rstrip(".")
    return lines[-1].rstrip(".") if lines else "no output"
