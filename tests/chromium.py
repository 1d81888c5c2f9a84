"""Chromium for the tests of the benchmark page, driven by browser/drive.js."""

import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from keras_mobileone.benchmarking.browser import runtime

ROOT = Path(__file__).parents[1]
BROWSER = Path(__file__).with_name("browser")
MODULES = BROWSER / "node_modules"
PAGE = ROOT / "keras_mobileone" / "benchmarking" / "browser" / "page"
NAMES = ("chromium", "chromium-browser", "google-chrome")
WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
FIXTURES = ROOT / "android_app" / "core" / "src" / "test" / "python" / "fixtures.py"


def require_node() -> str:
    """Returns the command node, or skips the test without it or its packages."""
    node = shutil.which("node")
    if node is None or not MODULES.is_dir():
        pytest.skip("needs Node.js and tests/browser/node_modules (make test installs them)")
    return node


def require_chromium() -> str:
    """Returns the path of Chromium, or skips the test without it or LiteRT.js."""
    require_node()
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("needs Chromium (make test installs it on Debian)")
    try:
        for package in (runtime.CORE, runtime.WASM_UTILS):
            runtime.find_package(package)
    except FileNotFoundError as error:
        pytest.skip(f"needs LiteRT.js: {error}")
    return executable


def load_fixtures():
    """Returns the module that writes Python's numbers for the tests in other languages."""
    spec = importlib.util.spec_from_file_location("page_fixtures", FIXTURES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Chromium:
    """A running Chromium with at most one open page. A command that fails raises RuntimeError."""

    def __init__(self, *options: str):
        self._process = subprocess.Popen(
            [require_node(), str(BROWSER / "drive.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NODE_NO_WARNINGS": "1"},
        )
        self.version = self.call("launch", executable=require_chromium(), options=options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def call(self, command: str, **values):
        """Runs a command of drive.js and returns its result."""
        self._process.stdin.write(json.dumps({"command": command, **values}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def open(self, url: str, **settings):
        """Opens a page and waits until it is ready."""
        self.call("open", url=url, **settings)
        self.call("wait", source="() => !start.disabled || !problem.hidden")

    def measure(self):
        """Starts the benchmark and waits for its result, or for a problem."""
        self.call("click", selector="#start")
        self.wait_for_result()

    def wait_for_result(self):
        """Waits until a benchmark has ended."""
        ended = "start.textContent === 'Measure again'"
        self.call("wait", source=f"() => {ended}")

    def problem(self) -> str:
        """Returns the sentence that the page shows."""
        return self.call("text", selector="#problem")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that writes no log."""

    def log_message(self, *_):
        pass


def serving(folder) -> http.server.ThreadingHTTPServer:
    """Returns a plain file server of a folder at a free port, which runs until its `shutdown`."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


# Runs a file of the page with the page's own modules, and returns its outputs and how it ran.
RUN = """async ({name, values, threads, accelerator, times}) => {
  const at = (file) => new URL(file, location.href).href;
  const { Engine, inspect } = await import(at("engine.js"));
  const { readModel } = await import(at("model_file.js"));
  const answer = await fetch(at(`models/${name}`));
  const model = await readModel(name, new Uint8Array(await answer.arrayBuffer()));
  const input = model.inputs[0].dtype === "uint8" ? Uint8Array : Float32Array;
  const job = { accelerator, threads, runs: times, warmupRuns: 0, values: input.from(values) };
  const found = await new Engine(await inspect()).run(model, job);
  return { ...found, outputs: found.outputs.map((output) => Array.from(output)) };
}"""
