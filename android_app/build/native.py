"""The APK's own native libraries on this machine, compared with LiteRT for Python.

The libraries for x86-64 run directly and those for arm64 in qemu. glibc loads libraries built for
Android once their lists of needed libraries and of symbol versions are taken out and a small
preloaded library gives what only Android's C library has.
"""

import struct
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import apk
from context import Build
from tools import BuildError, run, tool

LIBRARIES = apk.LIBRARIES
_SOURCES = Path(__file__).parent / "native_check"
# Libraries with TFLite's C API, and by how many quantization steps an output may differ from that
# of LiteRT: kernels of an older generation round a few sums to the next integer. The third library,
# the GPU delegate's, needs a GPU driver.
_RUNTIMES = {"libjnitensorflowlite.so": 0, "libtensorflowlite_jni.so": 1}
_DYNAMIC = 2  # p_type of the program header of the dynamic section
# Tags of the dynamic section that name needed libraries and versions of symbols: DT_NEEDED,
# DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM.
_DROPPED = frozenset({1, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF})
# Float kernels add in different orders: largest difference, relative to the largest output.
_TOLERANCE = 1e-5
# The part of the outputs that may differ by a quantization step.
_ROUNDED = 0.01


# A core of phones. qemu before version 8.2 shows the host's /proc/cpuinfo, from which the libraries
# read the core, unless these files stand in for the host's.
_CORE = "cortex-a76"
_CORE_FILES = {
    "proc/cpuinfo": "processor\t: 0\n"
    "Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
    "dcpop asimddp\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\n"
    "CPU part\t: 0xd0b\nCPU revision\t: 1\n\n",
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
}
_CROSS_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")


class _Target(NamedTuple):
    """A processor: its name in the APK, its C compiler, and whether it is emulated."""

    abi: str
    compiler: str
    emulated: bool


_TARGETS = (
    _Target("x86_64", "gcc", emulated=False),
    _Target("arm64-v8a", "aarch64-linux-gnu-gcc", emulated=True),
)


class _Runner:
    """Runs models through the libraries of one target."""

    def __init__(self, build: Build, target: _Target):
        self.build, self.target = build, target
        self.directory = build.out / "native" / target.abi
        self.preloaded = self.directory / "bionic.so"
        self.program = self.directory / "run_model"

    def compile(self) -> None:
        """Compiles the program that runs a model, and what stands in for Android's C library."""
        compiler, options = tool(self.target.compiler), ("-O2", "-Wall", "-fno-builtin")
        bionic, run_model = _SOURCES / "bionic.c", _SOURCES / "run_model.c"
        libraries = ("-Wl,--no-as-needed", "-lm", "-ldl")

        def action():
            self.directory.mkdir(parents=True, exist_ok=True)
            run(compiler, *options, "-shared", "-fPIC", bionic, "-o", self.preloaded, "-ldl")
            run(compiler, *options, run_model, "-o", self.program, *libraries)

        name = f"{self.target.compiler} for {self.target.abi}"
        self.build.steps.run(name, action, [_SOURCES], [self.preloaded, self.program])

    def library(self, name: str) -> Path:
        """Writes a library of the APK as glibc loads it."""
        path = self.directory / name
        with zipfile.ZipFile(self.build.apk) as archive:
            path.write_bytes(for_glibc(archive.read(f"lib/{self.target.abi}/{name}")))
        return path

    def command(self, *arguments: Path) -> list[str]:
        """The command that runs the program with the preloaded library."""
        preload, program = f"LD_PRELOAD={self.preloaded}", [self.program, *arguments]
        if not self.target.emulated:
            return ["env", preload, *map(str, program)]
        root = self.directory / "root"
        for name, content in _CORE_FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
        if not (root / "lib").is_symlink():
            (root / "lib").symlink_to(_CROSS_LIBRARIES)
        emulator = [tool("qemu-aarch64-static"), "-cpu", _CORE, "-L", str(root), "-E", preload]
        return [*emulator, *map(str, program)]


def check_native(build: Build) -> None:
    """Runs each model through the libraries in the APK, for x86-64 and for arm64.

    Raises:
        BuildError: if outputs differ from those of LiteRT for Python.
    """
    if not find_spec("ai_edge_litert"):
        raise BuildError(
            "LiteRT for Python is missing: run this command with the project's Python."
        )
    apk.build_apk(build)
    models = build.model_files()
    if not models:
        raise BuildError(
            "The check of native libraries runs models: give a directory with --models."
        )
    for target in _TARGETS:
        runner = _Runner(build, target)
        runner.compile()

        def check(runner: _Runner = runner):
            for name, steps in _RUNTIMES.items():
                library = runner.library(name)
                for model in models:
                    _check_model(runner, library, model, steps)

        inputs = [build.apk, runner.preloaded, runner.program, *models]
        build.steps.run(f"native libraries for {target.abi}", check, inputs)


def for_glibc(library: bytes) -> bytes:
    """An ELF file without the names of needed libraries and the versions of symbols."""
    data = bytearray(library)
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [table + size * index for index in range(count)]
    (dynamic,) = [at for at in headers if struct.unpack_from("<I", data, at)[0] == _DYNAMIC]
    (offset,) = struct.unpack_from("<Q", data, dynamic + 8)
    (length,) = struct.unpack_from("<Q", data, dynamic + 32)
    entries = list(struct.iter_unpack("<QQ", data[offset : offset + length]))
    kept = [entry for entry in entries if entry[0] not in _DROPPED]
    kept += [(0, 0)] * (len(entries) - len(kept))
    data[offset : offset + length] = b"".join(struct.pack("<QQ", *entry) for entry in kept)
    return bytes(data)


def _check_model(runner: _Runner, library: Path, model: Path, steps: int) -> None:
    """Compares the outputs of one model for one random input."""
    import numpy as np

    values, expected = _run_litert(model)
    paths = [library.parent / name for name in ("input", "output")]
    paths[0].write_bytes(values.tobytes())
    paths[1].unlink(missing_ok=True)
    command = runner.command(library, model, *paths)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{library.name} did not run {model.name}: {done.stderr.strip()[-500:]}")
    output = np.frombuffer(paths[1].read_bytes(), expected.dtype).reshape(expected.shape)
    differences = np.abs(output.astype(np.float64) - expected)
    levels = np.unique(expected)
    tolerance = _TOLERANCE * float(np.abs(expected).max())
    if len(levels) <= 256:  # int8, perhaps converted to float
        rounded = float(np.diff(levels).min()) * steps + tolerance
        within = bool(
            (differences <= rounded).all() and (differences > tolerance).mean() <= _ROUNDED
        )
    else:
        within = bool((differences <= tolerance).all())
    print(
        f"           {runner.target.abi} {library.name} ({done.stdout.strip()}), {model.name}: "
        f"{int((differences > tolerance).sum())} of {expected.size} outputs differ, "
        f"at most by {differences.max():.2g}"
    )
    if not within:
        raise BuildError(
            f"{library.name} for {runner.target.abi} and LiteRT differ on {model.name}."
        )


def _run_litert(model: Path):
    """A random input of a model, and the first output that LiteRT for Python computes from it."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    random = np.random.default_rng(0)
    if details["dtype"] == np.float32:
        values = random.normal(size=details["shape"]).astype(np.float32)
    else:
        limits = np.iinfo(details["dtype"])
        values = random.integers(limits.min, limits.max + 1, details["shape"], details["dtype"])
    interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return values, interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
