"""The options of `benchmark` for browsers: the page that is served, or written into a folder."""

import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_mobileone.cli.console import console
from keras_mobileone.errors import InputValueError

if TYPE_CHECKING:
    from keras_mobileone.benchmarking import Benchmark
    from keras_mobileone.benchmarking.adb import Adb

START = "#start"  # tells the page to measure at once
# Options of `benchmark` that belong to other targets.
FOREIGN = ("app", "accelerators", "tool", "affinity", "cool_down", "profile")


def browser_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options for browsers to a command."""
    options = (
        click.option("--browser", is_flag=True, help="Measure on a page that a browser opens."),
        click.option(
            "--host",
            metavar="ADDRESS",
            help="Address of this machine for --browser; 0.0.0.0 for every network. "
            "[default: 127.0.0.1]",
        ),
        click.option("--port", type=click.IntRange(1, 65535), help="Port for --browser."),
        click.option("--no-open", is_flag=True, help="Print the link only, and open no browser."),
        click.option(
            "--browser-export",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Write the page with the FILES into a folder for any web server.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def in_browser(browser: dict[str, Any]) -> bool:
    """Returns whether the options ask for a browser.

    Raises:
        ValueError: If options for it come without it.
    """
    if browser["browser"]:
        return True
    for name in ("host", "port", "no_open"):
        if browser[name]:
            raise InputValueError(
                f"--{name.replace('_', '-')} is for a browser. Received: no --browser. Add it."
            )
    return False


def browser_measurement(
    android: str | None,
    any_device: str,
    threads: tuple[int, ...],
    browser: dict[str, Any],
    device: dict[str, Any],
) -> "Callable[..., Benchmark]":
    """Returns the function that measures files in a browser.

    Args:
        android: Serial of the device whose browser it is, or None.
        any_device: The value of `android` that means the only connected device.
        threads: Numbers of CPU threads.
        browser: Values of `browser_options`.
        device: Values of the options of other targets.
    """
    from keras_mobileone.benchmarking.browser import benchmark_in_browser

    for name in FOREIGN:
        if device.get(name) is not None:
            raise InputValueError(
                f"--{name.replace('_', '-')} is for another target. Received: --browser too. Leave "
                "one of them out."
            )
    return partial(
        benchmark_in_browser,
        threads=threads,
        accelerators=(device.get("delegate") or "cpu",),
        host=browser["host"] or "127.0.0.1",
        port=browser["port"] or 0,
        android=android is not None,
        serial=None if android == any_device else android,
        open_page=partial(announce, no_open=browser["no_open"]),
    )


def write_folder(
    directory: Path,
    files: Sequence[Path],
    threads: tuple[int, ...],
    delegate: str | None,
    runs: int,
    rounds: int,
) -> None:
    """Writes the page and files into a folder."""
    from keras_mobileone.benchmarking.browser import export_page

    on = (delegate or "cpu",)
    export_page(files, directory, accelerators=on, threads=threads, runs=runs, rounds=rounds)
    click.echo(
        f"{directory}: put this folder on a web server with HTTPS, or look at it with "
        f"`python -m http.server --directory {directory}`."
    )


def announce(link: str, device: "Adb | None", no_open: bool) -> None:
    """Tells the address of the page, and opens it unless `no_open` is set."""
    console.print(f"Open {link}", soft_wrap=True)
    local = link.startswith("http://localhost:")
    if device is not None:
        if not no_open:
            device.view(link + START)
        return
    if not local:
        show_code(link)
        console.print(
            "The phone has to confirm the certificate once, which nobody but this machine has "
            "issued."
            if link.startswith("https:")
            else "Without HTTPS, browsers of other devices give the page one thread and no GPU. "
            "Install the extra for it: pip install 'keras-mobileone[browser]'.",
            soft_wrap=True,
        )
        return
    if not no_open and not webbrowser.open(link + START):
        console.print("No browser was found here. Open the link by hand.", soft_wrap=True)


def show_code(link: str) -> None:
    """Prints a QR code of an address, if segno is installed."""
    try:
        import segno
    except ImportError:
        return
    rows = [bytes(row) for row in segno.make(link, error="l").matrix_iter(border=2)]
    rows += [bytes(len(rows[0]))] * (len(rows) % 2)
    # Two rows of the code in one line of text; light modules are drawn, for dark terminals.
    halves = {(0, 0): "█", (1, 1): " ", (0, 1): "▀", (1, 0): "▄"}
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line = "".join(halves[a, b] for a, b in zip(upper, lower, strict=True))
        console.print(line, style="white on black", no_wrap=True, crop=False)
