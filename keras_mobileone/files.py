"""Atomic writes of files and directories."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Errors of the operating system if a file can't grow: a full disk, an exhausted quota, and a limit
# on the size of files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path next to `path`, and moves the file to `path` if the block succeeds.

    The temporary name ends like `path`, because Keras chooses the format by the suffix. If the
    block raises, the temporary file is removed and an existing file at `path` is kept.

    Args:
        path: The file to write.

    Raises:
        FileNotFoundError: If the directory of `path` does not exist.
        PermissionError: If that directory is not writable.
        IsADirectoryError: If `path` is a directory.
        OSError: If the disk is full. The message names `path`.

    Examples:
        >>> from keras_mobileone.files import atomic_write
        >>> with atomic_write("labels.txt") as temporary:
        ...     _ = temporary.write_text("tench")
    """
    path = Path(path)
    require_writable(path)
    suffix = ".weights.h5" if path.name.endswith(".weights.h5") else path.suffix
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{suffix}")
    # The kernel applies the umask of the process to this mode, so that the file has the permissions
    # of an ordinary one. Reading the umask means changing it, for other threads too.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with _full_disk_named(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary directory whose entries move into `directory` if the block succeeds.

    The temporary directory is next to `directory`, on the same disk. If the block raises, it is
    removed and `directory` stays as it was. Entries of `directory` with other names are kept.

    Args:
        directory: Directory of the files. It is created if it does not exist; its parent must
            exist.

    Raises:
        OSError: If the disk is full. The message names `directory`.

    Examples:
        >>> from keras_mobileone.files import staged_directory
        >>> with staged_directory("exports") as temporary:
        ...     _ = (temporary / "labels.txt").write_text("tench")
    """
    directory = Path(directory)
    with _staged(directory) as temporary:
        temporary.mkdir()
        yield temporary
        directory.mkdir(exist_ok=True)
        for entry in temporary.iterdir():
            _replace(entry, directory / entry.name)


@contextmanager
def staged_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path of the same name, and moves its content to `path` on success.

    In contrast to `atomic_write`, this also works for a directory, such as a Core ML package. A
    file or directory at `path` is replaced. Whatever the block writes beside the temporary path,
    such as the weights of an OpenVINO model, moves to the directory of `path`.

    Args:
        path: The file or directory to write.

    Raises:
        OSError: If the disk is full. The message names `path`.

    Examples:
        >>> from keras_mobileone.files import staged_path
        >>> with staged_path("model.mlpackage") as temporary:
        ...     temporary.mkdir()
    """
    path = Path(path)
    with _staged(path) as temporary:
        yield temporary
        for entry in temporary.parent.iterdir():
            if entry != temporary:
                _replace(entry, path.with_name(entry.name))
        _replace(temporary, path)


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a temporary directory next to `path`.

    The temporary directory is removed at the end, with everything that the caller has not moved.
    """
    place = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    try:
        with _full_disk_named(path):
            yield place / path.name
    finally:
        shutil.rmtree(place)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():  # `os.replace` refuses a directory with files
        shutil.rmtree(target)
    os.replace(source, target)


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """Adds `path` to the error of a full disk, which has no path or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno, f"{os.strerror(error.errno)}; free disk space and try again", str(path)
        ) from error


def require_writable(path: str | os.PathLike) -> None:
    """Raises an error unless a file can be created at `path`, as a check before long work.

    Raises:
        FileNotFoundError: If the directory of `path` does not exist.
        PermissionError: If that directory is not writable.
        IsADirectoryError: If `path` is a directory.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing directory to write {path.name} to. Received: {path.parent}, "
            "which is not a directory. Create it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file name to write to. Received: directory {path}.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"Expected a writable directory. Received: {path.parent}, which is read-only for this "
            "user. Change its permissions, or pass another directory."
        )


def keras_cache(*names: str) -> Path:
    """Returns a directory of this package's own files below that of Keras, without making it.

    Args:
        names: Names of the directory and the ones above it.

    Examples:
        >>> from keras_mobileone.files import keras_cache
        >>> keras_cache("peers").parts[-2:]
        ('keras_mobileone', 'peers')
    """
    return keras_home().joinpath("keras_mobileone", *names)


def keras_home() -> Path:
    """Returns Keras' own directory: `KERAS_HOME`, or `~/.keras`."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
