"""`benchmark`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.choices import ACCELERATORS, COOL_DOWN, DELEGATES, DEPLOY_PRECISIONS, ROUNDS
from keras_mobileone.cli.benchmark_tables import show, show_together
from keras_mobileone.cli.browser import (
    browser_measurement,
    browser_options,
    in_browser,
    write_folder,
)
from keras_mobileone.cli.console import KerasCommand, progress_steps
from keras_mobileone.errors import InputValueError
from keras_mobileone.files import require_writable

if TYPE_CHECKING:
    from keras_mobileone.benchmarking import AndroidDevice, Benchmark, Failure

ANY_DEVICE = "the only one"  # the value of --android without a serial
INSTALLED = "installed"  # the value of --app without an APK


class CommaSeparated(click.ParamType):
    """A list of values in one word, separated by commas.

    Args:
        kind: Type of each value.
        name: What help and error messages call the list.
    """

    def __init__(self, kind: click.ParamType, name: str):
        self._kind, self.name = kind, name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Returns the values, each without a repetition."""
        if isinstance(value, tuple):  # click converts a default twice
            return value
        words = [word.strip() for word in str(value).split(",")]
        return tuple(dict.fromkeys(self._kind.convert(word, param, ctx) for word in words))


@click.command("benchmark", cls=KerasCommand)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--threads",
    default="1",
    show_default=True,
    type=CommaSeparated(click.IntRange(1), "N"),
    help="CPU threads; for app and browser also several numbers, such as 1,4.",
)
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
    "--app",
    is_flag=False,
    flag_value=INSTALLED,
    metavar="[APK]",
    help="Measure in the Android app, which is installed first if an APK is given.",
)
@click.option(
    "--accelerators",
    type=CommaSeparated(click.Choice(ACCELERATORS), "NAMES"),
    help=f"What the app measures on, such as cpu,gpu-fp16; cpu by default. "
    f"All: {','.join(ACCELERATORS)}.",
)
@click.option(
    "--tool", type=click.Path(path_type=Path), help="Path of benchmark_model for the device."
)
@click.option(
    "--delegate",
    type=click.Choice(DELEGATES),
    help="Processor of the device or browser. [default: cpu]",
)
@click.option(
    "--affinity", metavar="MASK", help="Hexadecimal mask of the device's cores; f0 is 4 … 7."
)
@click.option(
    "--cool-down",
    type=click.FloatRange(0),
    help=f"Seconds of rest before each process. [default: {COOL_DOWN:g}]",
)
@browser_options
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="Directory for the times of each file's operators.",
)
@click.option(
    "--show", "only_show", is_flag=True, help="Show stored results, the FILES, in one table."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Save the result.")
def benchmark_command(
    files: tuple[Path, ...],
    threads: tuple[int, ...],
    runs: int,
    rounds: int,
    peers: bool,
    peers_precision: str,
    android: str | None,
    only_show: bool,
    json_file: Path | None,
    browser_export: Path | None,
    **device: Any,
) -> None:
    """Time TFLite files side by side, on this machine, an Android device or in a browser.

    The table shows the median, percentiles and minimum of an inference and the time to load the
    file, in milliseconds. Every round measures each file once, and the ratio to the first file is
    computed within the rounds. Files that can't be measured are listed at the end, and the exit
    code is 2.

    On a device LiteRT's native tool measures, or the Android app with --app. For a .json file saved
    with --json or by the app, the stored result is shown; --show puts several into one table, which
    tells what measured each figure.

    With --browser a page measures in any browser, here or on a phone (with --android over the
    cable, with --host in the network). --browser-export writes that page into a folder.

    \b
    Example: keras-mobileone benchmark a.tflite b.tflite --threads 2
             keras-mobileone benchmark mine.tflite --peers --json result.json
             keras-mobileone benchmark mine.tflite --android --tool benchmark_model
             keras-mobileone benchmark mine.tflite --android --app bench.apk --threads 1,4
             keras-mobileone benchmark mine.tflite --browser --threads 1,2 --json browser.json
             keras-mobileone benchmark --show phone.json result.json
    """
    if not files:
        require_device(android, {})  # which names a file that --android has taken
        raise click.UsageError("Missing argument 'FILES...'.", click.get_current_context())
    if json_file:
        require_writable(json_file)
    browser = {name: device.pop(name) for name in ("browser", "host", "port", "no_open")}
    if browser_export is not None:
        write_folder(browser_export, files, threads, device["delegate"], runs, rounds)
        return
    if in_browser(browser):
        measure = browser_measurement(android, ANY_DEVICE, threads, browser, device)
    else:
        measure = measurement(android, threads, device)
    if only_show:
        refuse_measuring(files, peers or android or json_file)
    stored = [path for path in files if path.suffix == ".json"]
    measured = [path for path in files if path.suffix != ".json"]
    failures = show_stored(stored, together=only_show)
    if peers:
        measured += export_peers(peers_precision)
    if measured:
        with progress_steps() as step:
            result = measure(
                measured, runs=runs, rounds=rounds, progress=step("Timing"), keep_going=True
            )
        show(replace(result, failures=[]))
        if json_file:
            result.save(json_file)
        failures += result.failures
    for failure in failures:
        click.echo(f"Error: {failure.message}", err=True)
    if failures:
        click.get_current_context().exit(2)


def refuse_measuring(files: Sequence[Path], option: object) -> None:
    """Raises an error if --show comes with anything that would be measured or saved."""
    if option:
        raise InputValueError(
            "--show shows stored results only. Received: --peers, --android or --json too. Leave "
            "one of them out."
        )
    for path in files:
        if path.suffix != ".json":
            raise InputValueError(
                f"Expected stored results (.json) with --show. Received: {path}. Leave --show out "
                "to measure it."
            )


def measurement(
    android: str | None, threads: tuple[int, ...], device: dict[str, Any]
) -> "Callable[..., Benchmark]":
    """Returns the function that measures files where the options say."""
    from keras_mobileone.benchmarking import benchmark, benchmark_with_app

    given = {name: value for name, value in device.items() if value is not None}
    require_device(android, given)
    app = given.pop("app", None)
    accelerators = given.pop("accelerators", None)
    if app is None:
        if accelerators or len(threads) > 1:
            option = "--accelerators" if accelerators else "Several --threads"
            raise InputValueError(
                f"{option}: that is for the Android app. Received: no --app. Add --android --app."
            )
        return partial(benchmark, threads=threads[0], target=make_target(android, given))
    if given:
        option = next(iter(given)).replace("_", "-")
        raise InputValueError(
            f"--{option} is for LiteRT's native tool. Received: --app too. Leave one of them out."
        )
    if app.endswith((".tflite", ".json")):
        raise InputValueError(
            f"Expected an APK after --app. Received: {app}. Give the files first: benchmark FILES "
            "--android --app."
        )
    return partial(
        benchmark_with_app,
        serial=None if android == ANY_DEVICE else android,
        apk=None if app == INSTALLED else app,
        threads=threads,
        accelerators=accelerators or ("cpu",),
    )


def require_device(android: str | None, given: dict[str, Any]) -> None:
    """Raises an error for options of a device without one, and for a file in place of a serial."""
    if android is None and given:
        option = next(iter(given)).replace("_", "-")
        raise InputValueError(f"--{option} needs a device. Received: no --android. Add it.")
    if android is not None and android.endswith(".tflite"):
        raise InputValueError(
            f"Expected the serial of a device after --android. Received: {android}. "
            "Give the files first: benchmark FILES --android."
        )


def make_target(android: str | None, given: dict[str, Any]) -> "AndroidDevice | None":
    """Returns the device whose native tool measures, or None for this machine."""
    from keras_mobileone.benchmarking import AndroidDevice

    if android is None:
        return None
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


def show_stored(paths: Sequence[Path], together: bool) -> "list[Failure]":
    """Shows stored results and returns those that can't be shown.

    Args:
        paths: The JSON files.
        together: Whether several results are shown in one table.
    """
    from keras_mobileone.benchmarking import Failure, load_benchmark

    results, failures = [], []
    for path in paths:
        try:
            results.append((str(path), load_benchmark(path)))
        except (OSError, ValueError) as error:
            failures.append(Failure(str(path), str(error)))
    if together and len(results) > 1:
        show_together(results)
    else:
        for name, result in results:
            show(result, title=name)
    return failures
