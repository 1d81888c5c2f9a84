"""`benchmark`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.choices import COOL_DOWN, DELEGATES, DEPLOY_PRECISIONS, ROUNDS
from keras_mobileone.cli.console import KerasCommand, console, print_table, progress_steps
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import require_writable

if TYPE_CHECKING:
    from keras_mobileone.benchmarking import AndroidDevice, Benchmark, Failure, Latency

HEADER = ("File", "MB", "ms", "Ratio", "p90", "p95", "Minimum", "Load")
LABEL_WIDTH = 26  # leaves room for the numbers within 80 columns
ANY_DEVICE = "the only one"  # the value of --android without a serial


@click.command("benchmark", cls=KerasCommand)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--runs",
    default=50,
    show_default=True,
    type=click.IntRange(1),
    help="Number of inferences of each file in a round.",
)
@click.option(
    "--rounds",
    default=ROUNDS,
    show_default=True,
    type=click.IntRange(1),
    help="Number of rounds over all files.",
)
@click.option("--peers", is_flag=True, help="Also measure MobileOne S0 … S4 and other networks.")
@click.option(
    "--peers-precision", default="float32", show_default=True, type=click.Choice(DEPLOY_PRECISIONS)
)
@click.option(
    "--android",
    is_flag=False,
    flag_value=ANY_DEVICE,
    metavar="[SERIAL]",
    help="Measure on a device connected by adb. Give FILES first.",
)
@click.option(
    "--tool", type=click.Path(path_type=Path), help="Path of benchmark_model for the device."
)
@click.option(
    "--delegate", type=click.Choice(DELEGATES), help="Processor of the device. [default: cpu]"
)
@click.option(
    "--affinity", metavar="MASK", help="Hexadecimal mask of the device's cores; f0 is 4 … 7."
)
@click.option(
    "--cool-down",
    type=click.FloatRange(0),
    help=f"Seconds of rest before each process. [default: {COOL_DOWN:g}]",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="Directory for the times of each file's operators.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Save the result.")
def benchmark_command(
    files: tuple[Path, ...],
    threads: int,
    runs: int,
    rounds: int,
    peers: bool,
    peers_precision: str,
    android: str | None,
    json_file: Path | None,
    **device: Any,
) -> None:
    """Time TFLite files side by side, on this machine or on an Android device.

    The table shows the median, percentiles and minimum of an inference and the time to load the
    file, in milliseconds. Every round measures each file once, and the ratio to the first file is
    computed within the rounds. For a .json file saved with --json, the stored result is shown.
    Files that can't be measured are listed at the end, and the exit code is 2.

    \b
    Example: keras-mobileone benchmark a.tflite b.tflite --threads 2
             keras-mobileone benchmark mine.tflite --peers --json result.json
             keras-mobileone benchmark mine.tflite --android --tool benchmark_model
    """
    from keras_mobileone.benchmarking import benchmark

    if json_file:
        require_writable(json_file)
    target = make_target(android, device)
    if not files:
        raise click.UsageError("Missing argument 'FILES...'.", click.get_current_context())
    stored = [path for path in files if path.suffix == ".json"]
    measured = [path for path in files if path.suffix != ".json"]
    failures = show_stored(stored)
    if peers:
        measured += export_peers(peers_precision)
    if measured:
        with progress_steps() as step:
            result = benchmark(
                measured,
                threads=threads,
                runs=runs,
                rounds=rounds,
                progress=step("Timing"),
                target=target,
                keep_going=True,
            )
        show(result)
        if json_file:
            result.save(json_file)
        failures += result.failures
    for failure in failures:
        click.echo(f"Error: {failure.message}", err=True)
    if failures:
        click.get_current_context().exit(2)


def make_target(android: str | None, device: dict[str, Any]) -> "AndroidDevice | None":
    """Returns the device that the options ask for, or None for this machine."""
    from keras_mobileone.benchmarking import AndroidDevice

    given = {name: value for name, value in device.items() if value is not None}
    if android is None:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise InputValueError(f"--{option} needs a device. Received: no --android. Add it.")
        return None
    if android.endswith(".tflite"):
        raise InputValueError(
            f"Expected the serial of a device after --android. Received: {android}. "
            "Give the files first: benchmark FILES --android."
        )
    return AndroidDevice(None if android == ANY_DEVICE else android, **given)


def export_peers(precision: str) -> list[Path]:
    """Exports the peers that are missing in the cache, and returns the files of all peers."""
    from keras_mobileone.benchmarking.baselines import PEERS, cache_directory, export_peer

    with progress_steps() as step:
        progress = step("Exporting peers")
        paths = []
        for name in PEERS:
            paths.append(export_peer(name, cache_directory(), precision))
            progress(len(paths), len(PEERS))
    return paths


def show_stored(paths: Sequence[Path]) -> "list[Failure]":
    """Shows stored results and returns those that can't be shown."""
    from keras_mobileone.benchmarking import Failure, load_benchmark

    failures = []
    for path in paths:
        try:
            show(load_benchmark(path), title=str(path))
        except (OSError, ValueError) as error:
            failures.append(Failure(str(path), str(error)))
    return failures


def show(result: "Benchmark", title: str | None = None) -> None:
    """Prints a result's table and conditions."""
    from keras_mobileone.benchmarking.device import SEVERE, THERMAL

    if not result.latencies:
        return
    rows = zip(labels(result), result.latencies, result.ratios, strict=True)
    print_table(HEADER, [row(*cells) for cells in rows], title=title)
    told = {name: value for name, value in result.conditions.items() if value is not None}
    plain = [f"{name} {value}" for name, value in told.items() if not isinstance(value, dict)]
    console.print(", ".join(plain))
    after = result.conditions.get("thermal_status_after_rounds", {})
    hottest = max((status or 0 for rounds in after.values() for status in rounds), default=0)
    if hottest >= SEVERE:
        console.print(
            f"The device got hot: thermal status {THERMAL[hottest]} after a round. Its figures are "
            "those of a throttled device. Measure again with a longer --cool-down."
        )


def labels(result: "Benchmark") -> list[str]:
    """Returns the names of the files, or the ends of their paths if two have the same name."""
    from keras_mobileone.benchmarking.baselines import cache_directory, peer_label

    paths = [Path(latency.path) for latency in result.latencies]
    names = [peer_label(path) if path.parent == cache_directory() else path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [str(path) for path in paths]
    return [f"…{name[1 - LABEL_WIDTH :]}" if len(name) > LABEL_WIDTH else name for name in names]


def row(label: str, latency: "Latency", ratio: float) -> tuple[str, ...]:
    """Returns the cells of one file, in the order of `HEADER`."""
    return (
        label,
        f"{latency.bytes / 1e6:.2f}",
        f"{latency.median:.2f}",
        f"{ratio:.2f}",
        "–" if latency.p90 is None else f"{latency.p90:.2f}",
        f"{latency.p95:.2f}",
        f"{latency.minimum:.2f}",
        f"{latency.initialization:.1f}",
    )
