"""Shared parts of the commands: one-line errors, quiet import of Keras, progress bars, tables."""

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from keras_mobileone.errors import InputError

# Labels and file names are printed without change. Square brackets and colons in them are not
# markup.
console = Console(markup=False, emoji=False, highlight=False)
LONGEST_MESSAGE = 600  # characters, few enough to be read
STOPPED = 130  # exit code of a program interrupted by Ctrl-C
END_OF_MESSAGE = 150  # characters kept at the end of a message, which states the remedy
# Lines of absl (a letter for the severity, then month and day), of LiteRT and of its converter.
NATIVE_LOG = re.compile(
    rb"[IWE]\d{4} |WARNING: All log messages before absl|INFO: Created T|fully_quantize: "
)
OUTPUT_PARAMETERS = ("output", "target", "json_file", "usage", "model_card", "run_directory")


class OneLineErrors(click.Group):
    """A group whose commands report an error as one line on stderr.

    Bad input ends with exit code 2. Every other exception is a bug and ends with exit code 1.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command given by the arguments."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "keras-mobileone"
            return fail(ctx, f"{error.format_message()} See `{command} --help`.", 2)
        except (click.exceptions.Exit, click.Abort):
            raise
        except (InputError, OSError) as error:
            show_traceback(ctx)
            return fail(ctx, str(error), 2)
        except Exception as error:
            show_traceback(ctx)
            return fail(ctx, bug_message(error), 1)


def show_traceback(ctx: click.Context) -> None:
    """Prints the traceback of the exception that is being handled if `--traceback` was given."""
    if ctx.find_root().params.get("traceback"):
        click.echo(traceback.format_exc(), err=True)


def fail(ctx: click.Context, message: str, code: int) -> None:
    """Prints an error and ends the program with an exit code."""
    click.echo(f"Error: {one_line(message)}", err=True)
    ctx.exit(code)


def bug_message(error: BaseException) -> str:
    """Says that an exception is a bug, and how to report it."""
    described = one_line(f"{type(error).__name__}: {error}", LONGEST_MESSAGE // 2)
    return (
        f"This is a bug in keras-mobileone or in a library that it uses: {described} "
        "Run `keras-mobileone --traceback …` with the same arguments, and report what it prints."
    )


def one_line(message: str, longest: int = LONGEST_MESSAGE) -> str:
    """Returns a message on one line, without its middle if it is longer than `longest`.

    Other libraries put whole configurations into their messages.
    """
    message = " ".join(message.split())
    if len(message) <= longest:
        return message
    return f"{message[: longest - END_OF_MESSAGE]} … {message[-END_OF_MESSAGE:]}"


def stop(what_next: str) -> NoReturn:
    """Ends a command that Ctrl-C has stopped."""
    click.echo(f"\nStopped. {what_next}", err=True)
    raise click.exceptions.Exit(STOPPED)


class KerasCommand(click.Command):
    """A command that needs Keras, which is imported once the arguments have been accepted."""

    def invoke(self, ctx: click.Context) -> Any:
        """Imports Keras and runs the command."""
        if "keras" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors, but no messages
            start_keras()
        try:
            return super().invoke(ctx)
        except OSError as error:
            raise named_error(error, ctx.params) from error


def start_keras() -> None:
    """Imports Keras and its backend, and prints what they report only if they can't be imported.

    TensorFlow's C++ code writes its version and the devices that it finds to file descriptor 2,
    before Python can tell it not to.
    """
    with held_stderr() as held:
        try:
            import keras

            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                tf.config.list_physical_devices()  # finding devices prints messages too
        except BaseException:
            held.forward = True
            raise


@contextmanager
def without_native_logs() -> Iterator[None]:
    """Drops log lines of C++ libraries from stderr. All other lines are printed after the block.

    An `InputError` says in one sentence what a converter prints as a page, so nothing is printed.
    """
    with held_stderr() as held:
        held.forward, held.omitted = True, NATIVE_LOG
        try:
            yield
        except InputError:
            held.forward = False
            raise


def named_error(error: OSError, parameters: dict[str, Any]) -> OSError:
    """Returns an OSError with the path that the command writes to, if the error names no path."""
    outputs = [parameters[name] for name in OUTPUT_PARAMETERS if parameters.get(name)]
    if error.errno is None or error.filename is not None or not outputs:
        return error
    return OSError(error.errno, error.strerror, str(outputs[0]))


@dataclass
class Held:
    """Options for the output that `held_stderr` holds.

    Attributes:
        forward: Whether the output is printed after the block.
        omitted: Pattern of lines that are never printed.
    """

    forward: bool = False
    omitted: re.Pattern[bytes] | None = None


@contextmanager
def held_stderr() -> Iterator[Held]:
    """Holds the output of Python and C++ to file descriptor 2 until the block ends."""
    held = Held()
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield held
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            for line in file if held.forward else ():
                if held.omitted is None or not held.omitted.match(line):
                    os.write(2, line)


@contextmanager
def progress_steps() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yields `step(title)`, which starts a progress line and returns its callback (done, total)."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(elapsed_when_finished=True), console=console
    ) as bar:
        last = None

        def finish() -> None:
            if last is not None and not bar.tasks[last].finished:
                bar.update(last, total=1, completed=1)

        def step(title: str) -> Callable[[int, int], None]:
            nonlocal last
            finish()
            task = last = bar.add_task(title, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield step
        finish()


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> None:
    """Prints a table whose first column is text and the others numbers, below a title."""
    if title is not None:  # a title of the table itself would be wrapped to the width of the table
        console.print(title, style="italic", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)
