"""Finding and running the programs that a build uses."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

# Debian's packages that contain the programs.
PACKAGES = {
    "mvn": "maven",
    "aapt2": "aapt",
    "apksigner": "apksigner",
    "zipalign": "zipalign",
    "dexdump": "dexdump",
    "gcc": "gcc",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
}
# Directories in which Linux distributions put JDKs.
JDK_DIRECTORIES = ("/usr/lib/jvm", "/opt/java", "/usr/java")
HEAP = "-Xmx1500m"
_PRINTED_LINES = 100  # of the output of a program that fails


class BuildError(Exception):
    """What stops a build, in one sentence."""


class MissingTool(BuildError):
    """A program that the machine lacks."""


@cache
def tool(name: str) -> str:
    """Path of a program.

    Raises:
        MissingTool: with the Debian package that has it.
    """
    found = shutil.which(name)
    if not found:
        raise MissingTool(
            f"The program {name} is missing: install Debian's package {PACKAGES[name]}."
        )
    return found


def _java_version(directory: Path) -> int:
    """Feature version of the JDK in a directory, 0 if it has no compiler."""
    release = directory / "release"
    if not release.is_file() or not (directory / "bin" / "javac").exists():
        return 0
    found = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else 0


@cache
def jdk(minimum: int) -> Path:
    """Directory of the oldest JDK of at least a version; that of JAVA_HOME goes first.

    Raises:
        MissingTool: with the Debian package that has it.
    """
    homes = [Path(home) for home in [os.environ.get("JAVA_HOME")] if home]
    installed = [
        home
        for parent in map(Path, JDK_DIRECTORIES)
        if parent.is_dir()
        for home in parent.iterdir()
    ]
    homes += sorted(installed, key=lambda home: (_java_version(home), home))
    for home in homes:
        if _java_version(home) >= minimum:
            return home
    raise MissingTool(
        f"A JDK of version {minimum} or later is missing: install Debian's package "
        f"openjdk-{minimum}-jdk-headless, or set JAVA_HOME."
    )


def run(*command: object, name: str | None = None, log: Path | None = None) -> str:
    """Runs a program and returns what it wrote.

    Args:
        command: the program and its arguments.
        name: what an error calls the program; by default the name of its file.
        log: file that receives the output as well.

    Raises:
        BuildError: if the program fails; the end of its output is printed before.
    """
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        sys.stdout.write("\n".join(done.stdout.splitlines()[-_PRINTED_LINES:]) + "\n")
        place = f" {log} has its whole output." if log else ""
        raise BuildError(
            f"{name or Path(arguments[0]).name} failed with exit code {done.returncode}.{place}"
        )
    return done.stdout


def java(*arguments: object, name: str, minimum: int = 17, log: Path | None = None) -> str:
    """Runs a Java program on a JDK of at least a version and returns what it wrote."""
    return run(jdk(minimum) / "bin" / "java", HEAP, *arguments, name=name, log=log)


def classpath(paths: list[Path]) -> str:
    """Paths as one argument of Java."""
    return os.pathsep.join(map(str, paths))
