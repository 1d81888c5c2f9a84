"""The APK's own native libraries for x86-64 on this machine, compared with LiteRT for Python.

glibc loads libraries built for Android once their lists of needed libraries and of symbol versions
are taken out and a small preloaded library gives what only Android's C library has.
"""

import os
import struct
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import apk
from context import Build
from tools import BuildError, run, tool

LIBRARIES = apk.LIBRARIES
_SOURCES = Path(__file__).parent / "native_check"
_ABI = "x86_64"
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


def check_native(build: Build) -> None:
    """Runs each model through the libraries in the APK.

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
    directory = build.out / "native"
    preloaded, program = directory / "bionic.so", directory / "run_model"

    def compile_programs():
        directory.mkdir(parents=True, exist_ok=True)
        gcc, options = tool("gcc"), ("-O2", "-Wall", "-fno-builtin")
        run(gcc, *options, "-shared", "-fPIC", _SOURCES / "bionic.c", "-o", preloaded, "-ldl")
        run(
            gcc,
            *options,
            _SOURCES / "run_model.c",
            "-o",
            program,
            "-Wl,--no-as-needed",
            "-lm",
            "-ldl",
        )

    build.steps.run("gcc", compile_programs, [_SOURCES], [preloaded, program])

    def check():
        for name, steps in _RUNTIMES.items():
            library = directory / name
            with zipfile.ZipFile(build.apk) as archive:
                library.write_bytes(for_glibc(archive.read(f"lib/{_ABI}/{name}")))
            for model in models:
                _check_model(preloaded, program, library, model, steps)

    build.steps.run("native libraries", check, [build.apk, preloaded, program, *models])


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


def _check_model(preloaded: Path, program: Path, library: Path, model: Path, steps: int) -> None:
    """Compares the outputs of one model for one random input."""
    import numpy as np

    values, expected = _run_litert(model)
    paths = [library.parent / name for name in ("input", "output")]
    paths[0].write_bytes(values.tobytes())
    paths[1].unlink(missing_ok=True)
    done = subprocess.run(
        [program, library, model, *paths],
        env={**os.environ, "LD_PRELOAD": str(preloaded)},
        capture_output=True,
        text=True,
    )
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
        f"           {library.name} ({done.stdout.strip()}), {model.name}: "
        f"{int((differences > tolerance).sum())} of {expected.size} outputs differ, "
        f"at most by {differences.max():.2g}"
    )
    if not within:
        raise BuildError(f"{library.name} and LiteRT differ on {model.name}.")


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
