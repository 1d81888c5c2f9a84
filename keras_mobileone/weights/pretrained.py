"""Where pretrained weights come from: this package, a directory of yours, a cache, the network."""

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import keras

from keras_mobileone.errors import InputValueError
from keras_mobileone.files import atomic_write
from keras_mobileone.variants import S0, S1, S2, S3, S4, Variant

DIRECTORY_VARIABLE = "KERAS_MOBILEONE_WEIGHTS"
HUB_VARIABLE = "HF_ENDPOINT"  # Hugging Face's own name for the address of a mirror
HUB = "https://huggingface.co"
TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class PretrainedFile:
    """The authors' train-time ImageNet weights of one variant, as timm publishes them.

    Attributes:
        variant: The variant's name.
        revision: Commit of the repository. "main" where only the beginning of the commit is
            known: the checksum then pins the content.
        sha256: Checksum of the file, None where it is not known: the commit then pins it.
        megabytes: Size, for messages.
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
        """Name in the cache and in a directory of yours."""
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

# Names under which a directory of yours may hold the weights: as published by timm, and by the
# authors (unfused, fused, and the fused ones as safetensors).
TRAIN_NAMES = ("{}.apple_in1k.safetensors", "{}_unfused.safetensors", "{}_unfused.pth.tar")
FUSED_NAMES = ("{}_apple_fused.safetensors", "{}_fused.safetensors", "{}.pth.tar")


def find_weights(name: str, variant: Variant, deploy: bool) -> Path:
    """Path of the weights called `name`, `"imagenet"` or `"imagenette"`.

    Raises:
        ValueError: If there are none for `variant`; see `find_imagenet_weights` for the rest.
    """
    if name == "imagenet":
        return find_imagenet_weights(variant, deploy)
    if variant.name != S0.name:
        raise InputValueError(
            f"Imagenette weights exist for {S0.name}. Received: {variant.name!r}. "
            "Pass weights=None or the path of a file."
        )
    return bundled_path(deploy)


def bundled_path(deploy: bool) -> Path:
    """The file of Imagenette weights of S0 in this package, trained by benchmarks/imagenette.py."""
    form = "deploy" if deploy else "train"
    name = f"{S0.name}_imagenette_{form}.safetensors"
    return Path(str(resources.files("keras_mobileone") / "assets" / name))


def find_imagenet_weights(variant: Variant, deploy: bool) -> Path:
    """Path of the ImageNet weights of `variant`: looked up in three places, downloaded at last.

    In this order: the directory named by `KERAS_MOBILEONE_WEIGHTS`, Keras' cache, the pinned
    download. Fused files serve only a deploy model.

    Raises:
        ValueError: If there are no published weights for `variant`, or the download does not
            have the pinned checksum.
        FileNotFoundError: If nothing is found and the download fails; tells what was looked for,
            and where.
    """
    if variant.name not in PRETRAINED:
        raise InputValueError(
            f"ImageNet weights exist for {', '.join(PRETRAINED)}. Received: {variant.name!r}. "
            "Pass weights=None or the path of a file."
        )
    wanted = PRETRAINED[variant.name]
    directory, cache = os.environ.get(DIRECTORY_VARIABLE), _cache_directory()
    if directory and not Path(directory).is_dir():
        raise FileNotFoundError(
            f"{DIRECTORY_VARIABLE} must name a directory. Received: {directory}. "
            "Create it, or unset the variable."
        )
    unusable = None
    for place in filter(None, (directory, cache)):
        for name in FUSED_NAMES + TRAIN_NAMES if deploy else TRAIN_NAMES + FUSED_NAMES:
            path = Path(place) / name.format(variant.name)
            if not path.is_file():
                continue
            if deploy or name in TRAIN_NAMES:
                return path
            unusable = path
    try:
        return download(wanted, cache)
    except OSError as error:
        places = [f"{DIRECTORY_VARIABLE}={directory}"] if directory else []
        searched = ", ".join([*places, str(cache)])
        fused = (
            f" {unusable} is there, but it is fused and makes only a deploy model: "
            "pass deploy=True to use it."
            if unusable
            else ""
        )
        raise FileNotFoundError(
            f"No ImageNet weights for {variant.name}. Wanted: {wanted.filename} "
            f"({wanted.megabytes} MB, sha256 {wanted.sha256 or 'not known'}). "
            f"Searched: {searched}; downloaded from {wanted.url}: {error}. "
            f"Fetch it by hand and put it into {cache}, or into a directory that "
            f"{DIRECTORY_VARIABLE} names.{fused}"
        ) from error


def available_weights(variant: Variant) -> tuple[str, str | None]:
    """The best weights for a demonstration: ImageNet's, or those of ten classes in this package.

    Returns:
        `"imagenet"` and None, or `"imagenette"` and the reason why ImageNet's could not be had.

    Raises:
        FileNotFoundError: If the ImageNet weights can't be had and the variant is not S0, for which
            alone this package contains weights.
    """
    try:
        find_imagenet_weights(variant, deploy=True)
    except FileNotFoundError as error:
        if variant.name != S0.name:
            raise
        return "imagenette", str(error.__cause__ or error)
    return "imagenet", None


def download(file: PretrainedFile, directory: str | os.PathLike) -> Path:
    """Downloads `file` into `directory` with a progress bar; checks its sha256.

    Raises:
        OSError: If the server can't be reached, answers with an error or cuts the connection.
        ValueError: If the checksum differs.

    Nothing is left behind then.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / file.filename
    with atomic_write(target) as temporary:
        _fetch(file.url, temporary)
        if file.sha256:
            _check(temporary, file)
    return target


def _fetch(url, target):
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
        raise ConnectionError(f"the connection was cut after {received} of {total} bytes")


def _check(path, file):
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise InputValueError(
            f"The download {file.url} must have sha256 {file.sha256}. Received: {found}. "
            "It was removed; try again, or check the mirror."
        )


def _cache_directory() -> Path:
    """Keras' directory for weights, `~/.keras/models` unless `KERAS_HOME` says otherwise."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models"
