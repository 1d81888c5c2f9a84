"""Writing files whole or not at all, and telling in a line what went wrong."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`, and moves it to `path` if the block succeeds.

    The temporary name ends like `path`, since Keras goes by suffixes. On an exception it is
    removed and what stood at `path` stays.

    Raises:
        FileNotFoundError: If the directory of `path` does not exist.
        PermissionError: If it is not writable.
        IsADirectoryError: If `path` is a directory.
    """
    path = Path(path)
    require_writable(path)
    suffix = ".weights.h5" if path.name.endswith(".weights.h5") else path.suffix
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike) -> None:
    """Raises unless a file can be made at `path`: for a check before long work."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing directory to write {path.name} to. Received: {path.parent}, "
            "which is none. Create it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file name to write to. Received: directory {path}.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"Expected a writable directory. Received: {path.parent}, which is not."
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
