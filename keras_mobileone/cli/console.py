"""What the commands share: errors in one line, progress bars, tables."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console()
TRACEBACK_VARIABLE = "KERAS_MOBILEONE_TRACEBACK"
EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)


class OneLineErrors(click.Group):
    """A group whose commands report bad input as one line on stderr, with exit code 2."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "keras-mobileone"
            click.echo(f"Error: {error.format_message()} See `{command} --help`.", err=True)
            ctx.exit(2)
        except (click.exceptions.Exit, click.Abort):
            raise
        except EXPECTED_ERRORS as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)


@contextmanager
def progress_steps() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Gives `step(title)`, which starts a line and returns its callback (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(elapsed_when_finished=True), console=console
    ) as bar:
        last = None

        def finish():
            if last is not None and not bar.tasks[last].finished:
                bar.update(last, total=1, completed=1)

        def step(title):
            nonlocal last
            finish()
            task = last = bar.add_task(title, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield step
        finish()


def print_table(header, rows, title: str | None = None) -> None:
    """Prints a table whose first column is text and the others numbers."""
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)
