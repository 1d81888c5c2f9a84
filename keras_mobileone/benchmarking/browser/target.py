"""`benchmark_in_browser`: measures with a page that a browser opens, on this machine or a phone."""

import contextlib
import os
import queue
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from keras_mobileone.benchmarking.adb import Adb
from keras_mobileone.benchmarking.app_contract import safe_name
from keras_mobileone.benchmarking.browser.certificate import certificate
from keras_mobileone.benchmarking.browser.contract import (
    PagePlan,
    State,
    page_files,
    read_result,
)
from keras_mobileone.benchmarking.browser.server import PageServer
from keras_mobileone.benchmarking.protocol import (
    WARMUP_RUNS,
    Entry,
    check_arguments,
    check_files,
    noting_failure,
    remaining,
)
from keras_mobileone.benchmarking.results import Benchmark, Failure
from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.choices import ROUNDS
from keras_mobileone.errors import InputValueError, MeasurementError, MissingPackageError
from keras_mobileone.files import staged_path
from keras_mobileone.litert.flatbuffer import inputs_and_outputs

# Limits in seconds. The page tells every few seconds that it is alive; browsers delay the timers of
# hidden pages to one in a minute.
SILENCE = 150.0
RELOAD = 10.0  # until a page that was closed is there again
UNSUPPORTED = ("int8", "int16")  # types of inputs that LiteRT.js refuses


def benchmark_in_browser(
    paths: Sequence[str | os.PathLike],
    *,
    accelerators: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    runs: int = 50,
    rounds: int = ROUNDS,
    warmup_runs: int = WARMUP_RUNS,
    host: str = "127.0.0.1",
    port: int = 0,
    android: bool = False,
    serial: str | None = None,
    open_page: Callable[[str, Adb | None], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep_going: bool = False,
) -> Benchmark:
    """Measures the latency of TFLite files in a browser: batch 1, inference only.

    A page is served on which LiteRT.js runs the files by the protocol of `benchmark`. The function
    returns when the page has sent its result, and waits for the page to be opened until then.

    Args:
        paths: `.tflite` files whose inputs have fixed shapes.
        accelerators: What the files run on: `"cpu"` (WebAssembly), `"gpu"` (WebGPU).
        threads: Numbers of CPU threads. Browsers give threads only to pages from this machine or by
            HTTPS; elsewhere one thread runs, and a warning in the result says so.
        runs: Number of timed inferences of each file in each round, after a warm-up.
        rounds: Number of rounds over all files.
        warmup_runs: Number of inferences of each file in each round before the timed ones.
        host: Address of this machine to listen at, such as `"0.0.0.0"` for every network.
            By default only this machine can open the page. If trustme is installed (extra
            `browser`), any other address is served by HTTPS.
        port: Port of the page; 0 means any that is free.
        android: Whether a device connected by adb sees the page as one of its own.
        serial: Serial of the device as `adb devices` prints it. None: the only connected device.
        open_page: Called with the page's address, and with the device if there is one.
        progress: Called with (done, total) while the page measures.
        keep_going: Whether to continue when a file can't be measured. The file is then listed in
            `Benchmark.failures`; otherwise an error is raised.

    Returns:
        A `Benchmark` whose conditions have the target `"browser"`. Where a file was measured in
        several ways, each `Latency.path` ends with the way, such as `" (cpu, 4 threads)"`, and
        `conditions["configurations"]` describes it.

    Raises:
        FileNotFoundError: If a file does not exist, or if LiteRT.js is not found and can't be
            fetched.
        TypeError: If `paths` is a single path.
        ValueError: If an argument or a file can't be used.
        RuntimeError: If the page can't measure a file. A `TargetError`, which is a RuntimeError,
            means that nothing can be measured: the port is taken, the page was closed, or the
            device was lost.

    Examples:
        ```python
        import webbrowser

        from keras_mobileone.benchmarking.browser import benchmark_in_browser

        result = benchmark_in_browser(
            ["mobileone_s0.tflite"], open_page=lambda link, device: webbrowser.open(link)
        )
        print(result.ratios)
        ```
    """
    plan = PagePlan(accelerators, threads, runs, rounds, warmup_runs)
    entries = check_arguments(paths, threads, runs, rounds, warmup_runs)
    models = _models(entries, keep_going)
    result = Benchmark(latencies=[], conditions={})
    if remaining(entries):
        files = {name: entry.path for name, entry in models.items()}
        contents = {name: entry.path.read_bytes() for name, entry in models.items()}
        page, read = page_files(contents, plan, posts=True), partial(read_result, files=files)
        with (
            PageServer(page, read, host, port, _certificate(host)) as server,
            _device(android, serial, server) as device,
        ):
            if open_page:
                open_page(server.link, device)
            result = _wait(server, progress)
    if result.failures and not keep_going:
        raise MeasurementError(result.failures[0].message)
    failures = [Failure(str(e.path), e.failure) for e in entries if e.failure]
    return Benchmark(result.latencies, result.conditions, failures + result.failures)


def export_page(
    paths: Sequence[str | os.PathLike],
    directory: str | os.PathLike,
    *,
    accelerators: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    runs: int = 50,
    rounds: int = ROUNDS,
    warmup_runs: int = WARMUP_RUNS,
) -> Path:
    """Writes the page, LiteRT.js and TFLite files into a folder that any web server can host.

    The page measures and classifies there without sending anything. A service worker gives it the
    headers that threads need; browsers allow that on this machine and by HTTPS.

    Args:
        paths: `.tflite` files whose inputs have fixed shapes.
        directory: The folder. It must not exist yet, or be such a folder, which is replaced.
        accelerators: What the page proposes to run on: `"cpu"`, `"gpu"`.
        threads: Numbers of CPU threads that the page proposes.
        runs: Number of timed inferences of each file in each round that the page proposes.
        rounds: Number of rounds that the page proposes.
        warmup_runs: Number of inferences before the timed ones.

    Returns:
        Path of the folder.

    Raises:
        FileNotFoundError: If a file does not exist, or if LiteRT.js is not found and can't be
            fetched.
        FileExistsError: If `directory` is a file, or has other content.
        ValueError: If an argument or a file can't be used.
    """
    plan = PagePlan(accelerators, threads, runs, rounds, warmup_runs)
    directory = Path(directory)
    exists = directory.is_file() or (directory.is_dir() and any(directory.iterdir()))
    if exists and not (directory / "config.json").is_file():
        raise FileExistsError(
            f"Expected a folder to write the page to. Received: {directory}, which has other "
            "content. Pass a folder that does not exist."
        )
    models = _models(check_arguments(paths, threads, runs, rounds, warmup_runs), keep_going=False)
    contents = {name: entry.path.read_bytes() for name, entry in models.items()}
    with staged_path(directory) as temporary:
        for address, content in page_files(contents, plan, posts=False).items():
            path = temporary / address
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        temporary.chmod(0o755)  # a web server that runs as another user has to read it
    return directory


def _models(entries: Sequence[Entry], keep_going: bool) -> dict[str, Entry]:
    """Checks the files and returns them by their names on the page."""
    check_files(entries, keep_going)
    models: dict[str, Entry] = {}
    for entry in remaining(entries):
        with noting_failure(entry, keep_going):
            _require_supported(entry.path)
            models[safe_name(entry.path.name, models)] = entry
    return models


def _require_supported(path: Path) -> None:
    """Raises an error for a file that LiteRT.js refuses because of its inputs."""
    for tensor in inputs_and_outputs(path.read_bytes())[0]:
        if tensor.dtype in UNSUPPORTED:
            raise InputValueError(
                f"Expected inputs of float32 or uint8, which LiteRT.js takes. Received: {path}, "
                f"whose input {tensor.name!r} is {tensor.dtype}. Export it with "
                "--input-dtype uint8, or with float32 inputs, which is the default."
            )


def _certificate(host: str) -> ssl.SSLContext | None:
    """A new certificate for an address in the network, if trustme is installed."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return None
    try:
        return certificate(host)
    except MissingPackageError:
        return None


@contextlib.contextmanager
def _device(android: bool, serial: str | None, server: PageServer) -> Iterator[Adb | None]:
    """Yields the device, which sees the server at the same port of its own."""
    if not android:
        yield None
        return
    device = Adb(serial)
    device.reverse(server.server_port)
    try:
        yield device
    finally:
        device.remove_reverse(server.server_port)


def _wait(server: PageServer, progress: Callable[[int, int], None] | None) -> Benchmark:
    """Waits for the result, and raises an error if the page is closed or silent for too long."""
    limit: float | None = None  # before the page is opened, there is no hurry
    why = ""
    while True:
        left = None if limit is None else max(limit - time.monotonic(), 0)
        try:
            found = server.inbox.get(timeout=left)
        except queue.Empty:
            raise TargetError(
                f"Expected the page to stay open until its result is here. Received: {why}. Keep "
                "it in front and its device awake, and measure again."
            ) from None
        if isinstance(found, Benchmark):
            return found
        limit, why = _patience(found)
        if progress and found.name == "running" and found.total:
            progress(found.done, found.total)


def _patience(state: State) -> tuple[float | None, str]:
    """Until when the next message must come, and what it means if it does not."""
    if state.name == "closed":
        return time.monotonic() + RELOAD, "it was closed"
    if state.name == "opened":
        return None, ""
    return time.monotonic() + SILENCE, f"nothing for {SILENCE:g} s"
