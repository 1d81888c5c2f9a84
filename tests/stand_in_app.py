"""The phone's shell and the benchmark app behind `stand_in_adb.py`, which imports it.

Formats are taken from these sources:

- `pm path`: AOSP PackageManagerShellCommand.java; `adb install`: adb_install.cpp there and
  PackageManager.java (installStatusToString)
- `am start`: AOSP ActivityManagerShellCommand.java; its exit code is 0 in any case until Android 9
- `cat`, `cp`, `ls`, `mkdir`, `pidof`: toybox
- crashes in the log: AOSP RuntimeInit.java (logUncaught) and debuggerd's tombstone.cpp
- state and result of the app: the contract that docs/android.md states, not RunActivity itself
"""

import json
import shutil
import sys

PACKAGE = "io.github.kerasmobileone.bench"
FILES = f"/sdcard/Android/data/{PACKAGE}/files"
PROCESS = "4321"
APP = {
    "installed": True,
    "refusal": None,  # code with which the phone refuses the APK
    "opened": True,  # whether the app has run, which makes its directory; None: it makes none
    "start": None,  # what `am start` says instead of starting the app
    # What the state file says one look after the other; the last one stays. A state "crash ANY"
    # ends the process with the log of `crash`, and nothing is written from then on.
    "states": ["running 0/0", "running 0/4", "", "running 2/4", "done"],
    "crash": "",
    "unwritable": [],  # names that can't be copied into the app's directory
    "result": {},  # replaces parts of the result, or is written as it is if it is text
    "elsewhere": [],  # accelerators that leave the work to the CPU
    "difference": 0.0,  # of the outputs from the CPU's
    "medians": [1.0, 1.0],  # how slow the phone is in each round
    "before": {"thermal_status": "none", "thermal_headroom": 0.4},
    "after": {"thermal_status": "none", "thermal_headroom": 0.4},
    "conditions": {},  # further ones
    "failing": {},  # sentence by the name of a file that the app can't measure
}
JAVA_CRASH = """--------- beginning of crash
FATAL EXCEPTION: main
Process: com.example.other, PID: 99
java.lang.IllegalStateException: of another app
\tat com.example.Other.run(Other.java:1)
FATAL EXCEPTION: benchmark
Process: io.github.kerasmobileone.bench, PID: 17
java.lang.IllegalStateException: of an earlier process
FATAL EXCEPTION: benchmark
Process: io.github.kerasmobileone.bench, PID: 4321
java.lang.OutOfMemoryError: Failed to allocate a 300000012 byte allocation
\tat java.nio.ByteBuffer.allocateDirect(ByteBuffer.java:1)
"""
NATIVE_CRASH = """--------- beginning of crash
*** *** *** *** *** *** *** *** *** *** *** *** *** *** *** ***
Build fingerprint: 'google/shiba/shiba:15/AP4A/1:user/release-keys'
ABI: 'arm64'
pid: 4321, tid: 4340, name: benchmark  >>> io.github.kerasmobileone.bench <<<
uid: 10123
signal 11 (SIGSEGV), code 1 (SEGV_MAPERR), fault addr 0x0000000000000010
Cause: null pointer dereference
backtrace:
      #00 pc 00000000000e1234  /vendor/lib64/libOpenCL.so (clFinish+12)
      #01 pc 0000000000031234  /data/app/base.apk
pid: 99, tid: 99, name: other  >>> com.example.other <<<
signal 6 (SIGABRT), code -1 (SI_QUEUE), fault addr --------
      #00 pc 0000000000091234  /apex/com.android.runtime/lib64/bionic/libc.so (abort+164)
"""


class AppPhone:
    """The shell's commands for files, and the app.

    Args:
        home: The stand-in's directory; the phone's files lie under phone/.
        app: What the app does, see `APP`.
    """

    def __init__(self, home, app):
        self._home, self._app = home, APP | app
        self._memory = home / "app.json"
        known = self._memory.exists()
        self._known = json.loads(self._memory.read_text(encoding="utf-8")) if known else {}
        if self._installed and self._app["opened"]:
            self.at(FILES).mkdir(parents=True, exist_ok=True)

    @property
    def _installed(self):
        return self._app["installed"] or self._known.get("installed")

    def at(self, path):
        return self._home / "phone" / path.lstrip("/")

    def _remember(self, **values):
        self._known |= values
        self._memory.write_text(json.dumps(self._known), encoding="utf-8")

    def install(self, arguments) -> int:
        assert arguments[0] == "-r"
        print("Performing Streamed Install")
        if self._app["refusal"]:
            print(
                f"adb: failed to install {arguments[1]}: Failure [{self._app['refusal']}: a reason "
                "in words]",
                file=sys.stderr,
            )
            return 1
        print("Success")
        self._remember(installed=True)
        return 0

    def shell(self, command) -> int | None:
        """Runs a command; None if it is not one of these."""
        handler = getattr(self, f"_{command[0]}", None)
        return handler(command[1:]) if handler else None

    def _pm(self, arguments) -> int:
        assert arguments == ["path", PACKAGE]
        if not self._installed:
            return 1
        print(f"package:/data/app/~~x==/{PACKAGE}-y==/base.apk")
        return 0

    def _ls(self, arguments) -> int:
        path = arguments[-1]
        if not self.at(path).exists():
            return say(f"ls: {path}: No such file or directory")
        print(path)
        return 0

    def _mkdir(self, arguments) -> int:
        path = self.at(arguments[-1])
        if not path.parent.is_dir() and "Android" in arguments[-1]:
            return say(f"mkdir: '{arguments[-1]}': No such file or directory")
        path.mkdir(parents=True)
        return 0

    def _cp(self, arguments) -> int:
        source, target = arguments
        if self.at(target).name in self._app["unwritable"]:
            return say(f"cp: {target}: No space left on device")
        shutil.copyfile(self.at(source), self.at(target))
        return 0

    def _rm(self, arguments) -> int:
        for path in map(self.at, arguments[1:]):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return 0

    def _input(self, arguments) -> int:
        assert arguments == ["keyevent", "KEYCODE_WAKEUP"]
        return 0

    def _pidof(self, arguments) -> int:
        assert arguments == [PACKAGE]
        if not self._known.get("running"):
            return 1
        print(PROCESS)
        return 0

    def _logcat(self, arguments) -> int:
        assert arguments == ["-b", "crash", "-d", "-v", "raw"]
        print({"java": JAVA_CRASH, "native": NATIVE_CRASH}.get(self._app["crash"], ""), end="")
        return 0

    def _am(self, arguments) -> int:
        if arguments == ["force-stop", PACKAGE]:
            self._remember(running=False)
            return 0
        assert arguments[:6] == [
            "start",
            "-S",
            "-n",
            f"{PACKAGE}/.RunActivity",
            "-a",
            f"{PACKAGE}.RUN",
        ]
        print(f"Stopping: {PACKAGE}")
        print(f"Starting: Intent {{ act={PACKAGE}.RUN cmp={PACKAGE}/.RunActivity (has extras) }}")
        if self._app["start"]:
            return say(self._app["start"], 0)
        triples = zip(arguments[6::3], arguments[7::3], arguments[8::3], strict=True)
        extras = {key: int(v) if kind == "--ei" else v for kind, key, v in triples}
        if self._app["opened"] is not None:
            self.at(FILES).mkdir(parents=True, exist_ok=True)
        self._remember(running=True, looks=0, extras=extras)
        return 0

    def _cat(self, arguments) -> int:
        (path,) = arguments
        extras = self._known.get("extras", {})
        if path != f"{FILES}/{extras.get('output')}.state":
            return say(f"cat: {path}: No such file or directory")
        states, looks = self._app["states"], self._known["looks"]
        state = states[min(looks, len(states) - 1)]
        self._remember(looks=looks + 1)
        if state.startswith("crash"):
            self._remember(running=False)
            state = state.removeprefix("crash ")
        if not state:
            return say(f"cat: {path}: No such file or directory")
        if state == "done":
            self._write(extras)
        self.at(path).write_text(state, encoding="utf-8")
        print(state)
        return 0

    def _write(self, extras):
        found = self._app["result"]
        if not isinstance(found, str):
            found = json.dumps(self._result(extras) | found)
        if found:
            self.at(f"{FILES}/{extras['output']}").write_text(found, encoding="utf-8")

    def _result(self, extras) -> dict:
        """A file takes as many microseconds as it has bytes, over threads, half on the GPU."""
        files = [self.at(file) for file in extras["files"].split(",")]
        ways = [
            (accelerator, int(threads))
            for accelerator in extras["accelerators"].split(",")
            for threads in extras["threads"].split(",")
        ]
        latencies, configurations, failures = [], {}, []
        for file in files:
            if file.name in self._app["failing"]:
                message = self._app["failing"][file.name]
                place = f"{FILES}/{file.parent.name}/{file.name}"
                failures.append({"path": file.name, "message": f"{message} Received: {place}."})
                continue
            for accelerator, threads in ways:
                path = file.name
                if len(ways) > 1:
                    path += f" ({accelerator}, {threads} threads)"
                took_over = accelerator != "cpu" and accelerator not in self._app["elsewhere"]
                time = file.stat().st_size / 1e3 / threads / (2 if took_over else 1)
                latencies.append(self._latency(path, file, time))
                configurations[path] = {
                    "file": file.name,
                    "engine": "tflite-2.16",
                    "accelerator": accelerator,
                    "threads": threads,
                    "ran_on": accelerator if took_over else "cpu",
                    "difference": self._app["difference"] if accelerator != "cpu" else 0.0,
                }
        return {
            "format": 1,
            "latencies": latencies,
            "conditions": self._conditions(extras, configurations),
            "failures": failures,
        }

    def _latency(self, path, file, time) -> dict:
        return {
            "path": path,
            "bytes": file.stat().st_size,
            "median": time,
            "p95": time + 0.02,
            "minimum": time - 0.008,
            "initialization": 12.345,
            "p90": time + 0.01,
            "trimmed": time,
            "medians": [time * slow for slow in self._app["medians"]],
        }

    def _conditions(self, extras, configurations) -> dict:
        return {
            "target": "android-app",
            "engine": "tflite-2.16",
            "device": "Google Pixel 8",
            "android": "15",
            "configurations": configurations,
            "before": self._app["before"],
            "after": self._app["after"],
            "thermal": [{"seconds": 1, "status": "none", "headroom": 0.4}],
            "left_foreground": False,
            "cancelled": False,
            "threads": extras["threads"],
            "runs": extras["runs"],
            "warmup_runs": extras["warmup_runs"],
            "rounds": extras["rounds"],
        } | self._app["conditions"]


def say(message, code=1) -> int:
    print(message, file=sys.stderr)
    return code
