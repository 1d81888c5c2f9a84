"""Steps of a build, which run only when something that they read has changed."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tools import BuildError

# Files below these directories never change under their name: Maven's have a version in it.
_IMMUTABLE = ".m2"
_OWN_SOURCES = Path(__file__).parent


def cache_directory() -> Path:
    """Directory of what outlives a build: downloads, dex files of libraries, the debug key."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "keras_mobileone_android"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path]


def fingerprint(inputs: Iterable[object]) -> str:
    """SHA-256 of values and of the contents of files and directories.

    A path counts with its name and what it contains, any other value with its text.
    """
    digest = hashlib.sha256()
    for value in inputs:
        if not isinstance(value, Path):
            digest.update(f"{value!r}\0".encode())
            continue
        for file in _files(value):
            name = file.relative_to(value) if value.is_dir() else file.name
            digest.update(f"{name}\0".encode())
            if _IMMUTABLE in file.parts:
                digest.update(f"{file.stat().st_size}\0".encode())
            else:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class Steps:
    """Runs steps and remembers in a directory of stamps what each of them had read."""

    def __init__(self, stamps: Path):
        self.stamps = stamps
        self._own = fingerprint(sorted(_OWN_SOURCES.rglob("*.py")))

    def run(
        self,
        name: str,
        action: Callable[[], object],
        inputs: Iterable[object],
        outputs: Iterable[Path] = (),
    ) -> None:
        """Runs a step and prints its seconds, unless nothing has changed since it succeeded.

        Args:
            name: what the step is called in the output and, made a file name, its stamp.
            action: function without arguments that does the work.
            inputs: paths and values that the result depends on. The build's own Python files are
                among them.
            outputs: paths that must exist after the step; if one is missing, the step runs.

        Raises:
            BuildError: if an output is missing after the step.
        """
        outputs = list(outputs)
        digest = fingerprint([self._own, *inputs])
        stamp = self.stamps / ("".join(c if c.isalnum() else "-" for c in name) + ".sha256")
        known = stamp.is_file() and stamp.read_text(encoding="utf-8") == digest
        if known and all(path.exists() for path in outputs):
            print(f"     – s  {name} (unchanged)", flush=True)
            return
        stamp.unlink(missing_ok=True)
        self.always(name, action, outputs)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest, encoding="utf-8")

    def always(self, name: str, action: Callable[[], object], outputs: Iterable[Path] = ()) -> None:
        """Runs a step whether or not something has changed, and prints its seconds.

        Raises:
            BuildError: if an output is missing after the step.
        """
        start = time.monotonic()
        action()
        missing = [str(path) for path in outputs if not path.exists()]
        if missing:
            raise BuildError(f"The step '{name}' has not written {', '.join(missing)}.")
        print(f"{time.monotonic() - start:6.1f} s  {name}", flush=True)
