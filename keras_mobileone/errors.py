"""Errors whose cause is the caller's input, as opposed to a bug in this package.

Each also is the built-in exception that Python programs expect, so that `except ValueError` goes on
working. The command line shows an `InputError` or an `OSError` as one line; anything else is a bug.
"""


class InputError(Exception):
    """Base class: arguments, files or an environment that do not fit."""


class InputValueError(InputError, ValueError):
    """An argument or a file has a value that does not fit."""


class InputTypeError(InputError, TypeError):
    """An argument has a type that does not fit."""


class MissingPackageError(InputError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class VerificationError(InputError, ArithmeticError):
    """Numbers that had to agree, or to stay finite, do not."""


class MeasurementError(InputError, RuntimeError):
    """A device or a tool could not run or measure a file."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
