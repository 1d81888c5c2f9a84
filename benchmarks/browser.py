"""LiteRT.js in Chromium against native LiteRT, and the pictures of docs/browser.md.

    python benchmarks/browser.py MODELS              measures: benchmarks/results/browser/*.json
    python benchmarks/browser.py MODELS --pictures   draws: benchmarks/results/browser/*.png

MODELS is a directory with mobileone_s0_float32.tflite, …_float16 and …_int8, as `keras-mobileone
deploy` writes them. Both need what `make test` installs for the page: Node.js, tests/browser and
Chromium, and nothing else may run. Native LiteRT and Chromium take turns, so that each ratio is
formed within a turn.
"""

import argparse
import functools
import os
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import Chromium, serving  # noqa: E402

from keras_mobileone.benchmarking import Benchmark, Latency, Round, benchmark, ratio  # noqa: E402
from keras_mobileone.benchmarking.app_results import configuration, renamed  # noqa: E402
from keras_mobileone.benchmarking.browser import benchmark_in_browser, export_page  # noqa: E402
from keras_mobileone.benchmarking.local import processor_name  # noqa: E402
from keras_mobileone.benchmarking.results import latency_of  # noqa: E402
from keras_mobileone.data.images import example_path  # noqa: E402
from keras_mobileone.deployment.report import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "browser"
NATIVE, CHROMIUM = RESULTS / "native.json", RESULTS / "chromium.json"
PRECISIONS = ("float32", "float16", "int8")
TURNS, RUNS = 7, 30
THREADS = (1, 2)
WIDTHS = (360, 1280)


def model_files(folder: Path) -> list[Path]:
    """Returns the three files of a directory."""
    return [folder / f"mobileone_s0_{precision}.tflite" for precision in PRECISIONS]


def measure(folder: Path) -> None:
    """Measures in turns and stores one result for native LiteRT and one for Chromium."""
    paths = model_files(folder)
    native: list[Benchmark] = []
    pages: list[Benchmark] = []
    with Chromium() as chromium:

        def open_page(link: str, device: object) -> None:
            start = functools.partial(chromium.call, "open", url=f"{link}#start")
            threading.Thread(target=start, daemon=True).start()

        for turn in range(TURNS):
            native.append(benchmark(paths, runs=RUNS, rounds=1))
            pages.append(
                benchmark_in_browser(
                    paths, threads=THREADS, runs=RUNS, rounds=1, open_page=open_page
                )
            )
            print(f"{turn + 1} of {TURNS}", flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for target, turns in ((NATIVE, native), (CHROMIUM, pages)):
        whole = joined(turns)
        load = round(os.getloadavg()[0], 1)
        whole.conditions.update(rounds=TURNS, processor=processor_name(), load_average=load)
        anonymous(whole, folder).save(target)


def joined(turns: list[Benchmark]) -> Benchmark:
    """Makes one result of several that have one round each."""
    latencies = []
    for places in zip(*(turn.latencies for turn in turns), strict=True):
        latencies.append(latency_of(places[0].path, places[0].bytes, list(map(round_of, places))))
    return Benchmark(latencies, dict(turns[0].conditions))


def round_of(latency: Latency) -> Round:
    """Returns the only round of a latency."""
    return Round(
        latency.median,
        latency.p95,
        latency.minimum,
        latency.initialization,
        latency.p90,
        latency.trimmed,
    )


def anonymous(result: Benchmark, folder: Path) -> Benchmark:
    """Removes the directory from the names of the files."""
    names = {str(path): Path(path.name) for path in model_files(folder)}
    return renamed(result, names)


def markdown(native: Benchmark, chromium: Benchmark) -> str:
    """Returns the table of docs/browser.md with its conditions."""
    rows = []
    for reference in native.latencies:
        cells = [Path(reference.path).stem.rsplit("_", 1)[-1], f"{reference.median:.1f} ms"]
        for latency in chromium.latencies:
            if configuration(chromium, latency).file == reference.path:
                cells.append(f"{latency.median:.1f} ms")
                cells.append(f"{ratio(latency, reference):.2f}")
        rows.append(tuple(cells))
    header = ["S0", "native"]
    for count in THREADS:
        header += [f"WASM, {count} thread{'s' if count > 1 else ''}", "ratio"]
    c, n = chromium.conditions, native.conditions
    text = (
        f"Median and ratio to native LiteRT with one thread, formed within {c['rounds']} turns of "
        f"{c['runs']} runs; {c['browser']}, {c['runtime']}, ai-edge-litert {n['ai-edge-litert']}; "
        f"{c['processor']}, {n['cores']} cores shared with other work, load {c['load_average']}. "
        "No phone and no real GPU was measured."
    )
    return "\n\n".join([markdown_table(tuple(header), rows), text])


def draw(folder: Path) -> None:
    """Takes pictures of the page before and after a measurement, at the widths of `WIDTHS`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, Chromium() as chromium:
        site = export_page(model_files(folder), Path(directory) / "site", rounds=5, runs=10)
        server = serving(site)
        for width in WIDTHS:
            scheme = "dark" if width == WIDTHS[0] else "light"
            address = f"http://localhost:{server.server_port}/"
            chromium.open(address, width=width, height=740, colorScheme=scheme)
            chromium.measure()
            chromium.call("files", selector="#photograph", paths=[str(example_path())])
            shown = "() => answers.querySelectorAll('.track').length === 5"
            chromium.call("wait", source=shown)
            chromium.call("screenshot", path=str(RESULTS / f"page-{width}.png"))
        server.shutdown()


def main() -> None:
    """Measures or draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--pictures", action="store_true")
    arguments = parser.parse_args()
    (draw if arguments.pictures else measure)(arguments.models)


if __name__ == "__main__":
    main()
