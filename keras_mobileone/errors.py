"""Errors that are caused by the caller's input and not by a bug in this package.

Each class is also the built-in exception that Python programs expect, so that `except ValueError`
works. The command line shows an `InputError` or an `OSError` as one line; anything else is a bug.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_LINE = 200  # characters kept of a line in another library's message


class InputError(Exception):
    """Base class of errors about unsuitable arguments, files or environments."""


class InputValueError(InputError, ValueError):
    """An argument or a file has an unsuitable value."""


class InputTypeError(InputError, TypeError):
    """An argument has an unsuitable type."""


class MissingPackageError(InputError, ImportError):
    """An optional package is not installed. The message names the extra that installs it."""


class VerificationError(InputError, ArithmeticError):
    """Numbers that must agree or be finite do not or are not."""


class MeasurementError(InputError, RuntimeError):
    """A device or a tool could not run or measure a file."""


@contextmanager
def explained_conversion(tool: str, pattern: str) -> Iterator[None]:
    """Raises ValueError with one sentence if a converter fails.

    Args:
        tool: The format.
        pattern: Regular expression that finds the operations that the format lacks in the error of
            the converter.
    """
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # the converters' own classes are private
        unknown = sorted(set(re.findall(pattern, str(error))))
        if not unknown:
            raise InputValueError(
                f"Expected a model that the converter to {tool} takes. Received its error: "
                f"{type(error).__name__}: {first_line(error).rstrip('.')}. Replace the layers that "
                "cause it, or take another format."
            ) from error
        raise InputValueError(
            f"Expected operations that {tool} has. Received: {', '.join(unknown)}. Replace the "
            "layers that compute them, for example bicubic resizing by bilinear, or a GELU made of "
            "`erf` by `keras.ops.gelu`."
        ) from error


def first_line(error: BaseException, longest: int = LONGEST_LINE) -> str:
    """Returns the first line of an error's message, or its type if it has none.

    Other libraries put whole configurations into a line, of which `longest` characters are kept.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= longest else f"{line[:longest].rstrip()} …"
