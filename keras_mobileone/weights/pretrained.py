"""Finds pretrained weights in this package, in a directory of the user, in a cache or online."""

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import keras

from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write, keras_home
from keras_mobileone.variants import S0, S1, S2, S3, S4, Variant

DIRECTORY_VARIABLE = "KERAS_MOBILEONE_WEIGHTS"
HUB_VARIABLE = "HF_ENDPOINT"  # the variable with which Hugging Face's tools select a mirror
HUB = "https://huggingface.co"
TIMEOUT = 30  # seconds without any data


@dataclass(frozen=True)
class PretrainedFile:
    """A file with the authors' train-time ImageNet weights of one variant, as timm publishes it.

    Attributes:
        variant: Name of the variant.
        revision: Commit of the repository. It is `"main"` if only the beginning of the commit is
            known; the checksum then pins the content.
        sha256: Checksum of the file. It is None if it is not known; the commit then pins the
            content.
        megabytes: Size of the file, for messages.
    """

    variant: str
    revision: str
    sha256: str | None
    megabytes: float

    @property
    def url(self) -> str:
        """Address of the file, on the hub or the mirror that `HF_ENDPOINT` names."""
        hub = os.environ.get(HUB_VARIABLE) or HUB
        repository = f"timm/{self.variant}.apple_in1k"
        return f"{hub.rstrip('/')}/{repository}/resolve/{self.revision}/model.safetensors"

    @property
    def filename(self) -> str:
        """Name of the file in the cache and in a directory of the user."""
        return f"{self.variant}.apple_in1k.safetensors"


PRETRAINED = {
    file.variant: file
    for file in (
        PretrainedFile(
            S0.name,
            "95d8df5c6f15f61b6891514f26871e3ae957b4b4",
            "b624d5ab2a210791dff05fd4ec734b3ad271a47c2b053db625c5a5783eacb8bf",
            21.7,
        ),
        PretrainedFile(
            S1.name,
            "main",
            "5d6c420683128b11cc5ea28fa9b7ce7857eaf579af9bf0dd38d6295af24c703a",
            19.6,
        ),
        PretrainedFile(
            S2.name,
            "main",
            "21d333af83f23dfd7d4f71648b50bbaf785cde48fb48181eb928c9da3179ae7a",
            31.9,
        ),
        PretrainedFile(
            S3.name,
            "7a23ab2571c0c8039a4c0ea8da0da749ef6e16d9",
            "9340b9e332591b2c83579ce71d9f149eb7e7bec4a520ed60a26d52819f9f55bd",
            41.2,
        ),
        PretrainedFile(S4.name, "4a76b9fcd26ec02d2cb7958dacb6bdb14f30e21c", None, 60.4),
    )
}

# Names of weight files that are looked for in a directory: those of timm, and those of the authors
# (unfused, fused, and both as safetensors).
TRAIN_NAMES = ("{}.apple_in1k.safetensors", "{}_unfused.safetensors", "{}_unfused.pth.tar")
FUSED_NAMES = ("{}_apple_fused.safetensors", "{}_fused.safetensors", "{}.pth.tar")


def find_weights(name: str, variant: Variant, deploy: bool) -> Path:
    """Finds pretrained weights by their name, and downloads them if necessary.

    Args:
        name: `"imagenet"` or `"imagenette"`.
        variant: The architecture that the weights are for.
        deploy: Whether fused weights are also accepted.

    Returns:
        Path of the weight file.

    Raises:
        ValueError: If there are no such weights for `variant`, or the downloaded file does not have
            the expected checksum.
        FileNotFoundError: If the weights are not found and cannot be downloaded.

    Examples:
        >>> from keras_mobileone.weights.pretrained import find_weights
        >>> find_weights("imagenette", keras_mobileone.get_variant("s0"), deploy=True).name
        'mobileone_s0_imagenette_deploy.safetensors'
    """
    if name == "imagenet":
        return find_imagenet_weights(variant, deploy)
    if variant.name != S0.name:
        raise InputValueError(
            f"Imagenette weights exist for {S0.name} only. Received: {variant.name!r}. "
            "Pass weights=None or the path of a file."
        )
    return bundled_path(deploy)


def bundled_path(deploy: bool) -> Path:
    """Returns the path of the Imagenette weights of S0 that come with this package.

    They were trained by benchmarks/imagenette.py.

    Args:
        deploy: Whether to return the fused weights instead of the train-time weights.
    """
    form = "deploy" if deploy else "train"
    name = f"{S0.name}_imagenette_{form}.safetensors"
    return Path(str(resources.files("keras_mobileone") / "assets" / name))


def find_imagenet_weights(variant: Variant, deploy: bool) -> Path:
    """Finds the ImageNet weights of a variant, and downloads them if necessary.

    The function searches the directory that `KERAS_MOBILEONE_WEIGHTS` names, then Keras' cache. If
    neither has the weights, they are downloaded into the cache.

    Args:
        variant: The architecture that the weights are for.
        deploy: Whether fused weights are also accepted.

    Returns:
        Path of the weight file.

    Raises:
        ValueError: If there are no published weights for `variant`, or the downloaded file does not
            have the expected checksum.
        FileNotFoundError: If the weights are not found and cannot be downloaded, or if
            `KERAS_MOBILEONE_WEIGHTS` does not name a directory.
    """
    if variant.name not in PRETRAINED:
        raise InputValueError(
            f"ImageNet weights exist for {', '.join(PRETRAINED)}. Received: {variant.name!r}. "
            "Pass weights=None or the path of a file."
        )
    directory, cache = os.environ.get(DIRECTORY_VARIABLE), _cache_directory()
    if directory and not Path(directory).is_dir():
        raise FileNotFoundError(
            f"The environment variable {DIRECTORY_VARIABLE} must name a directory that exists. "
            f"Received: {directory}. Create the directory, or unset the variable."
        )
    unusable = None
    for place in (directory, cache) if directory else (cache,):
        for name in FUSED_NAMES + TRAIN_NAMES if deploy else TRAIN_NAMES + FUSED_NAMES:
            path = Path(place) / name.format(variant.name)
            if not path.is_file():
                continue
            if deploy or name in TRAIN_NAMES:
                return path
            unusable = path
    try:
        return download(PRETRAINED[variant.name], cache)
    except OSError as error:
        message = _not_found(PRETRAINED[variant.name], directory, cache, unusable, error)
        raise FileNotFoundError(message) from error


def _not_found(
    wanted: PretrainedFile,
    directory: str | None,
    cache: Path,
    unusable: Path | None,
    error: OSError,
) -> str:
    """Writes the message about weights that were not found and could not be downloaded."""
    own = f"{DIRECTORY_VARIABLE}={directory} and " if directory else ""
    fused = (
        f" {unusable} exists, but it is fused and makes only a deploy model: pass deploy=True to "
        "use it."
    )
    return (
        f"No ImageNet weights for {wanted.variant} were found. Expected: {wanted.filename} "
        f"({wanted.megabytes} MB, sha256 {wanted.sha256 or 'not known'}). "
        f"Searched: {own}{cache}; the download from {wanted.url} failed: {error}. "
        f"Download the file manually and put it into {cache}, or into a directory that "
        f"{DIRECTORY_VARIABLE} names.{fused if unusable else ''}"
    )


def available_weights(variant: Variant) -> tuple[str, str | None]:
    """Chooses the best available weights for a demonstration.

    Args:
        variant: The architecture that the weights are for.

    Returns:
        `"imagenet"` and None if the ImageNet weights are found or downloaded. Otherwise
        `"imagenette"`, the weights of ten classes that come with this package, and the reason.

    Raises:
        FileNotFoundError: If the ImageNet weights are not available and the variant is not S0,
            which is the only one with weights in this package.
    """
    try:
        find_imagenet_weights(variant, deploy=True)
    except FileNotFoundError as error:
        if variant.name != S0.name:
            raise
        return "imagenette", str(error.__cause__ or error)
    return "imagenet", None


def download(file: PretrainedFile, directory: str | os.PathLike) -> Path:
    """Downloads a weight file with a progress bar and checks its checksum.

    If the download fails, no partial file remains, and an existing file does not change.

    Args:
        file: The file to download.
        directory: Directory to save it in. It is created if it does not exist.

    Returns:
        Path of the file.

    Raises:
        OSError: If the server cannot be reached, responds with an error or closes the connection.
        ValueError: If the checksum differs.
    """
    # `keras.utils.get_file(…, file_hash=…)` is not used, since it writes directly to the target, so
    # that a killed process leaves a partial file under the final name. It also has no timeout,
    # keeps a file with a wrong hash, and raises a bare `Exception` on HTTP errors.
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / file.filename
    with atomic_write(target) as temporary:
        _fetch(file.url, temporary)
        if file.sha256:
            _check(temporary, file)
    return target


def _fetch(url: str, target: Path) -> None:
    """Downloads a URL to `target` with a progress bar."""
    request = urllib.request.Request(url, headers={"User-Agent": "keras-mobileone"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, open(target, "wb") as out:
        length = answer.headers.get("Content-Length")
        total = int(length) if length else None
        print(f"Downloading {url}")
        progress = keras.utils.Progbar(total, unit_name="byte")
        received = 0
        while chunk := answer.read(1 << 16):
            out.write(chunk)
            received += len(chunk)
            progress.update(received)
    if total is not None and received < total:
        raise ConnectionError(f"the connection was closed after {received} of {total} bytes")


def _check(path: Path, file: PretrainedFile) -> None:
    """Raises ValueError if the content of `path` does not have the checksum of `file`."""
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise InputValueError(
            f"The file downloaded from {file.url} must have sha256 {file.sha256}. "
            f"Received: {found}. The file was removed. Try again, or check the mirror."
        )


def _cache_directory() -> Path:
    """Returns Keras' directory for weights: `models` in `KERAS_HOME`, or in `~/.keras`."""
    return keras_home() / "models"
