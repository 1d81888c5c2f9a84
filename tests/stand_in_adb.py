"""A stand-in for adb and a phone, which runs as a program and prints the same messages.

`STAND_IN_ADB` names a directory with scenario.json (see `SCENARIO`), the phone's files under phone/
and the received commands in calls.txt, one on each line. Formats are taken from these sources:

- `adb devices`, lost devices: AOSP packages/modules/adb, transport.cpp and adb.cpp
- failed copies: file_sync_client.cpp and daemon/file_sync_service.cpp there
- exit codes and texts of the shell: mksh; `getprop`: toybox
- `dumpsys thermalservice`: AOSP ThermalManagerService.java (dumpInternal), Temperature.java
- `dumpsys battery`: AOSP BatteryService.java (dumpInternal)
- benchmark_model: google-ai-edge/LiteRT, tflite/tools/benchmark/benchmark_model.cc and
  benchmark_tflite_model.cc, litert/tools/benchmark_litert_model.h,
  tflite/core/subgraph.cc ("Replacing …"), and tsl/util/stats_calculator.h and .cc

The benchmark app and the shell's commands for files stand in stand_in_app.py.
"""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from stand_in_app import AppPhone

SCENARIO = {
    "devices": {"R5CT1": "device"},  # serial: state
    "abis": "arm64-v8a,armeabi-v7a,armeabi",
    "thermal": [0],  # statuses reported in turn; the last one is repeated
    "full": [],  # names of local files for which there is no space
    "killed": [],  # contents of .tflite files for which the tool is killed
    "gpu": "whole",  # or "partial", "refused" or "ignored" (runs on the CPU without a message)
    "drift": [1.0],  # slowdown of the phone in each process of the tool; the last one is repeated
    "lost_after": None,  # number of commands after which the device is disconnected
    "program": None,  # what the shell prints instead of running the tool
    "reverse": None,  # why the device does not forward a port
    "app": {},  # what the benchmark app does; see APP in stand_in_app.py
}
PROPERTIES = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
    "ro.board.platform": "zuma",
    "ro.build.version.release": "15",
    "ro.build.version.sdk": "35",
    "ro.build.fingerprint": "google/shiba/shiba:15/AP4A/1:user/release-keys",
}
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 3
\tkilled: false
\tbroadcasts count: -1
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=31.1, mType=3, mName=VIRTUAL-SKIN, mStatus={status}}}
HAL Ready: true
HAL connection:
\tThermalHAL AIDL 1  connected: yes
Current temperatures from HAL:
\tTemperature{{mValue=33.25, mType=3, mName=VIRTUAL-SKIN, mStatus={status}}}
\tTemperature{{mValue=41.0, mType=0, mName=BIG, mStatus=0}}
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  voltage: 4312
  temperature: 286
  technology: Li-ion
"""

HOME = Path(os.environ.get("STAND_IN_ADB", "."))
PHONE = HOME / "phone"


def main(arguments) -> int:
    scenario = SCENARIO | json.loads((HOME / "scenario.json").read_text(encoding="utf-8"))
    calls = HOME / "calls.txt"
    with calls.open("a", encoding="utf-8") as file:
        file.write(shlex.join(arguments) + "\n")
    if arguments == ["devices"]:
        print("* daemon not running; starting now at tcp:5037\n* daemon started successfully")
        print("List of devices attached")
        print(*(f"{serial}\t{state}" for serial, state in scenario["devices"].items()), sep="\n")
        print()
        return 0
    assert arguments[0] == "-s", "every command names its device"
    serial, command, *rest = arguments[1:]
    lost_after = scenario["lost_after"]
    if lost_after is not None and len(calls.read_text(encoding="utf-8").splitlines()) > lost_after:
        return fail(f"adb: device '{serial}' not found")
    if command == "push":
        return push(Path(rest[0]), rest[1], scenario)
    if command == "pull":
        return pull(rest[0], rest[1])
    if command == "install":
        return AppPhone(HOME, scenario["app"]).install(rest)
    if command == "reverse":
        return fail(f"adb: error: {scenario['reverse']}") if scenario["reverse"] else 0
    assert command == "shell"
    (line,) = rest
    return shell(shlex.split(line), scenario)


def fail(message, code=1) -> int:
    print(message, file=sys.stderr)
    return code


def on_phone(path) -> Path:
    return PHONE / path.lstrip("/")


def push(source, target, scenario) -> int:
    copy = on_phone(target)
    if not copy.parent.is_dir():
        return fail(
            f"adb: error: failed to copy '{source}' to '{target}': remote couldn't create file: "
            "No such file or directory"
        )
    if source.name in scenario["full"]:
        copy.write_bytes(source.read_bytes()[:10])  # written before the disk was full
        return fail(
            f"adb: error: failed to copy '{source}' to '{target}': remote write failed: "
            "No space left on device"
        )
    shutil.copyfile(source, copy)
    copy.chmod(0o644)  # the executable bit is lost, as from Windows
    print(f"{source}: 1 file pushed, 0 skipped. 31.2 MB/s ({copy.stat().st_size} bytes in 0.1s)")
    return 0


def pull(source, target) -> int:
    if not on_phone(source).is_file():
        return fail(
            f"adb: error: failed to stat remote object '{source}': No such file or directory"
        )
    shutil.copy(on_phone(source), target)
    return 0


def shell(command, scenario) -> int:
    name, *rest = command
    code = AppPhone(HOME, scenario["app"]).shell(command)
    if code is not None:
        return code
    if command == ["getprop"]:
        properties = PROPERTIES | {"ro.product.cpu.abilist": scenario["abis"]}
        print(*(f"[{key}]: [{value}]" for key, value in properties.items()), sep="\n")
    elif command == ["dumpsys", "thermalservice"]:
        print(THERMAL.format(status=following("thermal", scenario["thermal"])), end="")
    elif command == ["dumpsys", "battery"]:
        print(BATTERY, end="")
    elif name == "chmod":
        on_phone(rest[1]).chmod(int(rest[0], 8))
    elif name in ("taskset", "env"):
        return shell(rest[1:], scenario)
    else:
        return benchmark_model(name, rest, scenario)
    return 0


def following(name, values):
    """Returns the next of some values, and repeats the last one."""
    path = HOME / f"{name}.count"
    count = int(path.read_text(encoding="utf-8")) if path.exists() else 0
    path.write_text(str(count + 1), encoding="utf-8")
    return values[min(count, len(values) - 1)]


def benchmark_model(program, arguments, scenario) -> int:
    file = on_phone(program)
    if not file.is_file():
        return fail(f"/system/bin/sh: {program}: inaccessible or not found", 127)
    if not os.access(file, os.X_OK):
        return fail(f"/system/bin/sh: {program}: can't execute: Permission denied", 126)
    if scenario["program"]:
        return fail(f"/system/bin/sh: {program}: {scenario['program']}", 126)
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    graph = on_phone(options["graph"])
    litert = b"use_profiler" in file.read_bytes()
    print("INFO: STARTING!\nINFO: Log parameter values verbosely: [0]")
    print(f"INFO: Graph: [{options['graph']}]")
    content = graph.read_bytes() if graph.is_file() else b""
    if content[4:8] != b"TFL3":
        print(f"ERROR: Failed to load model {options['graph']}\nERROR: Benchmarking failed.")
        return 1
    if content.decode("latin1") in scenario["killed"]:
        return fail("Killed", 137)
    if options.get("use_gpu") == "true" and not gpu(scenario["gpu"], options, litert):
        print("ERROR: Benchmarking failed.")
        return 1
    # A file takes one microsecond for each byte on a phone without slowdown.
    figures(round(len(content) * following("drift", scenario["drift"])), options, litert)
    return 0


def gpu(how, options, litert) -> bool:
    """Prints the messages about the GPU, and returns whether the tool continues."""
    if how == "ignored":
        print("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.")
        return True
    name = "LITERT_CL" if litert else "TfLiteGpuDelegateV2"
    replaced = {"whole": 66, "partial": 60}.get(how, 0)
    if replaced:
        print(
            f"INFO: Replacing {replaced} out of 66 node(s) with delegate ({name}) node, yielding "
            "1 partitions for subgraph 0."
        )
    if how == "refused":
        print(
            "WARNING: [auto_registration.cc:148] GPU accelerator could not be loaded and "
            "registered."
            if litert
            else "ERROR: Failed to apply GPU delegate."
        )
        return litert  # LiteRT's tool continues on the CPU
    if litert:
        return True
    if how == "partial":
        if options.get("require_full_delegation") == "true":
            print("ERROR: Disallowed CPU fallback detected.")
            return False
        print(
            "INFO: Explicitly applied GPU delegate, and the model graph will be partially executed "
            "by the delegate w/ 2 delegate kernels."
        )
        return True
    print(
        "INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by "
        "the delegate."
    )
    return True


def figures(microseconds, options, litert):
    print("INFO: The input model file size (MB): 8.3\nINFO: Initialized session in 12.345ms.")
    for count, slow in ((options["warmup_runs"], 2), (options["num_runs"], 1)):
        middle = microseconds * slow
        print(
            f"INFO: Running benchmark for at least {count} iterations and at least 0 seconds but "
            "terminate if exceeding 150 seconds."
        )
        print(
            f"INFO: count={count} first={middle + 9} curr={middle} min={middle - 8} "
            f"max={middle + 40} avg={middle + 2.5} std=7 p5={middle - 5} median={middle} "
            f"p95={middle + 20}\n"
        )
    if litert:
        print(
            "INFO: [litert/tools/benchmark_litert_model.h:75] \n"
            "========== BENCHMARK RESULTS ==========\n"
            "INFO: [litert/tools/benchmark_litert_model.h:76] Model initialization: 12.35 ms"
        )
        if options.get("use_profiler") == "true":
            print("CONV_2D 1.5 ms")
    else:
        print(
            f"INFO: Inference timings in us: Init: 12345, First inference: {middle + 9}, "
            f"Warmup (avg): {2 * middle}, Inference (avg): {middle + 2.5}"
        )
        if options.get("enable_op_profiling") == "true":
            on_phone(options["op_profiling_output_file"]).write_text(
                "============================== Run Order ==============================\n"
                "node type, first, avg_ms, %, cdf%, mem KB, times called, name\n"
                "CONV_2D, 1.5, 1.4, 90%, 90%, 0, 1, stem\n",
                encoding="utf-8",
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
