"""Measures on the page in Firefox ESR and WebKitGTK, which `make test-browsers` installs.

Neither is driven: each opens the page, which begins by itself and posts its result.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import keras_mobileone
from keras_mobileone.benchmarking.browser import benchmark_in_browser
from keras_mobileone.export.tflite import export_tflite

SECONDS = 300
# WebKitGTK has no headless mode, and no command of its own that every distribution has.
WEBKIT = """
import sys, gi
gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2
window, view = Gtk.Window(), WebKit2.WebView()
window.add(view)
window.show_all()
view.load_uri(sys.argv[1])
Gtk.main()
"""


def firefox(profile: str) -> list[str]:
    """Returns the command that opens an address in Firefox."""
    return ["firefox-esr", "--headless", "--no-remote", "--profile", profile]


def webkit(profile: str) -> list[str]:
    """Returns the command that opens an address in WebKitGTK."""
    script = Path(profile) / "webkit.py"
    script.write_text(WEBKIT, encoding="utf-8")
    return ["xvfb-run", "--auto-servernum", "/usr/bin/python3", str(script)]


def measure(command: list[str], path: Path) -> dict:
    """Returns the conditions of a measurement of one file in a browser."""
    started = []
    # WebKit's sandbox needs namespaces that containers do not have.
    environment = {**os.environ, "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1"}
    environment.pop("PYTHONPATH", None)

    def open_page(link: str, device: object) -> None:
        words = [*command, f"{link}#start"]
        quiet = subprocess.DEVNULL
        started.append(
            subprocess.Popen(
                words, stdout=quiet, stderr=quiet, env=environment, start_new_session=True
            )
        )

    timer = threading.Timer(SECONDS, os._exit, (1,))
    timer.start()
    try:
        result = benchmark_in_browser([path], threads=[2], rounds=2, runs=3, open_page=open_page)
    finally:
        timer.cancel()
        for process in started:
            os.killpg(process.pid, 15)
            process.wait(30)
    (how,) = result.conditions["configurations"].values()
    (latency,) = result.latencies
    return {"ms": latency.median, **how, "browser": result.conditions["browser"]}


def main() -> None:
    """Measures a small network in each installed browser."""
    passed = skipped = 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s0.tflite"
        model = keras_mobileone.MobileOneS0(weights="imagenette", classes=10, deploy=True)
        export_tflite(model, path)
        for name, command in (("firefox-esr", firefox), ("xvfb-run", webkit)):
            if shutil.which(name) is None:
                print(f"{command.__name__}: skipped, since {name} is not installed.")
                skipped += 1
                continue
            with tempfile.TemporaryDirectory() as profile:
                found = measure(command(profile), path)
            print(f"{command.__name__}: {found}", flush=True)
            passed += 1
    print(f"{passed} passed, 0 failed, {skipped} skipped")


if __name__ == "__main__":
    sys.exit(main())
