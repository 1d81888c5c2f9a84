"""Finds LiteRT.js, the runtime of the page, in a directory of the user, in a cache, or through npm.

The packages are pinned by the checksums that npm publishes (`dist.integrity`). They are not part of
this package: the builds for WebAssembly take 11.8 MB.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write, keras_cache

DIRECTORY_VARIABLE = "KERAS_MOBILEONE_LITERTJS"
SECONDS = 300  # limit for npm
# Where a phone finds the runtime, relative to the page.
FOLDER = "litert"
BUILDS = ("", "threaded_", "compat_")  # the fourth one, jspi_, is not needed


@dataclass(frozen=True)
class NpmPackage:
    """A version of a package of npm.

    Attributes:
        name: Name of the package.
        version: The version.
        sha512: Checksum of its archive in base64, as npm writes it.
    """

    name: str
    version: str
    sha512: str

    @property
    def filename(self) -> str:
        """Name of the archive as `npm pack` writes it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


CORE = NpmPackage(
    "@litertjs/core",
    "2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
)
WASM_UTILS = NpmPackage(
    "@litertjs/wasm-utils",
    "2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
)
NAME = f"LiteRT.js {CORE.version}"


def runtime_files() -> dict[str, bytes]:
    """Returns the files of LiteRT.js by their addresses relative to the page.

    The archives are looked for in the directory that `KERAS_MOBILEONE_LITERTJS` names, and in the
    cache below that of Keras. Otherwise npm fetches them into the cache once.

    Raises:
        FileNotFoundError: If the archives are not found and can't be fetched, or if
            `KERAS_MOBILEONE_LITERTJS` does not name a directory.
        ValueError: If an archive does not have the expected checksum.
    """
    core, utils = find_package(CORE), find_package(WASM_UTILS)
    glue = [f"litert_wasm_{build}internal" for build in BUILDS]
    found = _members(core, [f"wasm/{name}{end}" for name in glue for end in (".js", ".wasm")])
    (script,) = _members(core, ["dist/index.js"]).values()
    (helpers,) = _members(utils, ["dist/index.js"]).values()
    # Import maps do not reach workers, so that the one import is written out.
    imported = f'"{WASM_UTILS.name}"'.encode()
    found["core.js"] = script.replace(imported, b'"./wasm-utils.js"')
    found["wasm-utils.js"] = helpers
    return {f"{FOLDER}/{name}": content for name, content in found.items()}


def find_package(package: NpmPackage) -> Path:
    """Returns the path of a package's archive, which npm fetches into the cache if it is missing.

    Raises:
        FileNotFoundError: If the archive is not found and can't be fetched.
        ValueError: If it does not have the expected checksum.
    """
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory:
        path = Path(directory) / package.filename
        if not path.is_file():
            raise FileNotFoundError(
                f"The environment variable {DIRECTORY_VARIABLE} must name a directory with "
                f"{package.filename}. Received: {directory}, which lacks it. Get it by `npm pack "
                f"{package.name}@{package.version}`, or unset the variable."
            )
        _check(path, package)
        return path
    path = keras_cache("litertjs") / package.filename
    if not path.is_file():
        _fetch(package, path)
    _check(path, package)
    return path


def _fetch(package: NpmPackage, path: Path) -> None:
    """Lets npm fetch an archive, which gets its name only after its checksum has been checked."""
    npm = shutil.which("npm")
    named = f"{package.name}@{package.version}"
    if npm is None:
        raise _unreachable(package, path, "the command npm is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        command = [npm, "pack", "--silent", "--pack-destination", directory, named]
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, cwd=directory
            )
        except subprocess.TimeoutExpired as error:
            raise _unreachable(package, path, f"npm did not end in {SECONDS} s") from error
        archive = Path(directory) / package.filename
        if process.returncode or not archive.is_file():
            lines = (process.stderr or process.stdout).strip().splitlines()
            raise _unreachable(package, path, lines[0] if lines else "npm wrote nothing")
        _check(archive, package)
        with atomic_write(path) as temporary:
            shutil.copyfile(archive, temporary)


def _unreachable(package: NpmPackage, path: Path, reason: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"Expected {package.filename}, the runtime of the page (sha512 {package.sha512}). "
        f"Received: no such file in {path.parent}, and fetching it failed: {reason}. Install "
        f"Node.js with npm, or run `npm pack {package.name}@{package.version}` elsewhere and put "
        f"the file into a directory that {DIRECTORY_VARIABLE} names."
    )


def _check(path: Path, package: NpmPackage) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    found = base64.b64encode(digest).decode()
    if found != package.sha512:
        raise InputValueError(
            f"Expected the archive of {package.name} {package.version} with sha512 "
            f"{package.sha512}. Received: {path} with {found}. Remove the file and try again."
        )


def _members(path: Path, names: list[str]) -> dict[str, bytes]:
    """Reads members of an archive of npm, which all lie in the folder `package`."""
    found = {}
    with tarfile.open(path) as archive:
        for name in names:
            stream = archive.extractfile(f"package/{name}")
            if stream is not None:
                found[name] = stream.read()
    return found
