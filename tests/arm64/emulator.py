"""Sets up an arm64 Python with LiteRT under qemu for `make test-arm64`.

    python tests/arm64/emulator.py    exits with 2 and a sentence if this machine can't have it

Debian's arm64 packages are unpacked into a directory with a separate apt configuration, so that the
apt and dpkg of the machine are not changed. Only qemu-user-static is installed on the machine if it
is missing, which needs root.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

QEMU, QEMU_PACKAGE = "qemu-aarch64-static", "qemu-user-static"
TOOLS = ("apt-get", "dpkg-deb")
PACKAGES = ("python3", "libstdc++6")
# Without this option, apt-get update succeeds without a network, and then reports that a package
# does not exist.
UPDATE = ("-qq", "-o", "APT::Update::Error-Mode=any", "update")
OLDEST_GLIBC = 17  # glibc version of manylinux2014, the first manylinux for arm64
PYTHON = "usr/bin/python3"
STAMP = "made_of.json"
# A core of phones, which the package that reads /proc/cpuinfo for LiteRT supports.
CORE = "cortex-a76"
# Before version 8.2, qemu shows the /proc/cpuinfo of the x86 host, on which LiteRT 2.2 and newer
# crash. These files replace it with the output of qemu 10 for CORE. They list one processor,
# whatever the host has.
HARDWARE = {
    "proc/cpuinfo": """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm \
lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

""",
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
}
# Reads the machine's sources and keys, and keeps everything else to itself. The sandbox's user
# could not write to a checkout; the hooks are about the machine's own packages.
APT_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::State "{directory}";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}";
"""


def missing(
    machine: str,
    distribution: str,
    root: bool,
    which: Callable[[str], str | None] = shutil.which,
) -> str | None:
    """Returns a sentence about the first missing requirement of this machine, or None.

    Args:
        machine: Value of `platform.machine()`.
        distribution: `ID` of /etc/os-release.
        root: Whether this is the user root.
        which: Finds a program on PATH.
    """
    if machine not in ("x86_64", "AMD64"):
        return (
            f"Expected an x86-64 machine to emulate arm64 on. Received: {machine}. "
            "On an arm64 machine `make test` runs the files without emulation."
        )
    if distribution != "debian":
        return (
            "Expected Debian, whose packages the arm64 Python is made of. "
            f"Received: {distribution}. Use a Debian machine or container."
        )
    for tool in TOOLS:
        if which(tool) is None:
            return (
                f"Expected Debian's {tool} on PATH. Received: none. "
                "Install Debian's packages apt and dpkg, or mend PATH."
            )
    if which(QEMU) is None and not root:
        return (
            f"Expected the user root, since {QEMU_PACKAGE} has to be installed. "
            f"Received: another user. Run as root, or have `apt-get install {QEMU_PACKAGE}` run."
        )
    return None


def require_machine() -> None:
    """Raises OSError unless arm64 can be emulated here."""
    try:
        distribution = platform.freedesktop_os_release()["ID"]
    except OSError:
        distribution = platform.system()
    message = missing(platform.machine(), distribution, os.geteuid() == 0)
    if message:
        raise OSError(message)


def arm64_python(directory: Path, litert: str) -> list[str]:
    """Returns the command of an arm64 Python with NumPy and ai-edge-litert, set up on first use.

    Args:
        directory: Directory that keeps the installation for the next call.
        litert: Version of ai-edge-litert.

    Raises:
        OSError: If the machine lacks a requirement; see `missing`.
        RuntimeError: If packages can't be fetched or don't run.
    """
    require_machine()
    if shutil.which(QEMU) is None:
        _fetch(["apt-get", *UPDATE], "package lists")
        install = ["apt-get", "-qq", "--yes", "--no-install-recommends", "install", QEMU_PACKAGE]
        _fetch(install, QEMU_PACKAGE)
    directory.mkdir(exist_ok=True)
    root, unfinished = directory / "root", directory / "unfinished"
    made_of = {
        "debian": platform.freedesktop_os_release()["VERSION_ID"],
        "ai-edge-litert": litert,
        "setup": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_made_of(root, made_of):
            for remains in (unfinished, root):
                shutil.rmtree(remains, ignore_errors=True)
            unfinished.mkdir()
            _unpack_debian(unfinished, unfinished / "apt")
            _install_litert(unfinished, litert)
            (unfinished / STAMP).write_text(json.dumps(made_of), encoding="utf-8")
            unfinished.rename(root)  # the directory is complete only after this step
    return _command(root)


def qemu_version() -> str:
    """Returns the version of the emulator, with Debian's version of the package."""
    output = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return output.splitlines()[0].removeprefix("qemu-aarch64 version ")


def _is_made_of(root, made_of) -> bool:
    stamp = root / STAMP
    return stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == made_of


def _command(root) -> list[str]:
    # With -I, because the packages in the environment and next to the script are not for arm64.
    return [shutil.which(QEMU), "-cpu", CORE, "-L", str(root), str(root / PYTHON), "-I"]


def _unpack_debian(root, apt):
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    configuration = apt / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(directory=apt), encoding="utf-8")
    get = ["apt-get", "-c", str(configuration)]
    _fetch([*get, *UPDATE], "package lists for arm64")
    _fetch([*get, "-qq", "--yes", "--download-only", "install", *PACKAGES], "packages for arm64")
    for package in sorted((apt / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)])
    if not (root / "lib").exists():  # from Debian 13 on, where base-files makes the link
        (root / "lib").symlink_to("usr/lib")
    for name, content in HARDWARE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    shutil.rmtree(apt)


def _install_litert(root, litert):
    """Unpacks wheels into the directory where Debian's Python looks for packages of pip."""
    question = "import os, sys; print(*sys.version_info[:2], os.confstr('CS_GNU_LIBC_VERSION'))"
    major, minor, _, glibc = _run([*_command(root), "-c", question]).split()
    glibcs = range(OLDEST_GLIBC, int(glibc.split(".")[1]) + 1)
    target = root / "usr" / "local" / "lib" / f"python{major}.{minor}" / "dist-packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    command += [f"--python-version={major}.{minor}", f"--target={target}"]
    command += [f"--platform=manylinux_2_{oldest}_aarch64" for oldest in glibcs]
    command += ["--platform=manylinux2014_aarch64"]
    _fetch([*command, "numpy", f"ai-edge-litert=={litert}"], "wheels for arm64")
    _run([*_command(root), "-c", "import numpy, ai_edge_litert.interpreter"])


def _fetch(command, what):
    try:
        _run(command)
    except RuntimeError as error:
        raise RuntimeError(
            f"Expected to fetch {what}. Received: {error} Check the network, the apt sources and "
            "pip's index."
        ) from error


def _run(command: Sequence[str]) -> str:
    """Returns the output of a command, or raises RuntimeError with its last line."""
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if process.returncode:
        lines = (process.stderr.strip() or process.stdout.strip()).splitlines()
        last = lines[-1].rstrip(".") if lines else "no output"
        name = Path(command[0]).name
        raise RuntimeError(f"exit code {process.returncode} of {name}: {last}.")
    return process.stdout


if __name__ == "__main__":
    try:
        require_machine()
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
