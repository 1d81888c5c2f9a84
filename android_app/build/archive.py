"""Writing an APK, and checking that Android can map its files into memory.

Android maps native libraries and models from the APK if they are stored, not compressed, and begin
at the boundary of a memory page: 16 KB on newer phones.
"""

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

LIBRARY_ALIGNMENT = 16384
MODEL_ALIGNMENT = 4096
RESOURCE_ALIGNMENT = 4
# Size of a zip entry's header before its name, and the tag of the extra field that pads it, which
# apksigner and zipalign know.
_HEADER = 30
_ALIGNMENT_TAG = 0xD935
_LOAD = 1  # p_type of a program header whose segment is mapped

# Built for pages of 4 KB: phones with pages of 16 KB load them in a compatibility mode or not at
# all. The other engine's libraries are not affected.
SMALL_PAGES = frozenset({"libtensorflowlite_jni.so", "libtensorflowlite_gpu_jni.so"})


def alignment(name: str) -> int:
    """Bytes to whose multiple the data of an entry must begin; 0 if it may be compressed."""
    if name.endswith(".so"):
        return LIBRARY_ALIGNMENT
    if name.endswith(".tflite"):
        return MODEL_ALIGNMENT
    return RESOURCE_ALIGNMENT if name == "resources.arsc" else 0


def write_apk(target: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Writes an APK without a signature. The same entries always give the same bytes."""
    with zipfile.ZipFile(target, "w") as apk:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            step = alignment(name)
            if step:
                start = apk.fp.tell() + _HEADER + len(name.encode()) + 6
                padding = -start % step
                info.extra = struct.pack("<HHH", _ALIGNMENT_TAG, 2 + padding, step) + bytes(padding)
            else:
                info.compress_type = zipfile.ZIP_DEFLATED
            apk.writestr(info, data)


def _offset(file, info: zipfile.ZipInfo) -> int:
    """Where the data of an entry begins."""
    file.seek(info.header_offset + _HEADER - 4)
    name_size, extra_size = struct.unpack("<HH", file.read(4))
    return info.header_offset + _HEADER + name_size + extra_size


def segment_alignment(library: bytes) -> int:
    """Smallest alignment of the segments that the loader maps from a 64-bit ELF file."""
    if library[:5] != b"\x7fELF\x02":
        raise ValueError("This is not a 64-bit ELF file.")
    (table,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    headers = [table + size * index for index in range(count)]
    return min(
        struct.unpack_from("<Q", library, header + 48)[0]
        for header in headers
        if struct.unpack_from("<I", library, header)[0] == _LOAD
    )


def alignment_faults(apk: Path) -> list[str]:
    """What Android could not map into memory: one sentence for each file."""
    faults = []
    with zipfile.ZipFile(apk) as archive, apk.open("rb") as file:
        for info in archive.infolist():
            step = alignment(info.filename)
            if step and info.compress_type != zipfile.ZIP_STORED:
                faults.append(f"{info.filename} is compressed.")
            elif step and _offset(file, info) % step:
                faults.append(f"{info.filename} does not begin at a multiple of {step} bytes.")
            if info.filename.endswith(".so"):
                faults += _segment_faults(info.filename, archive.read(info))
    return faults


def _segment_faults(name: str, library: bytes) -> list[str]:
    aligned = segment_alignment(library) % LIBRARY_ALIGNMENT == 0
    excepted = Path(name).name in SMALL_PAGES
    if aligned and excepted:
        return [f"{name} has pages of 16 KB: take it from SMALL_PAGES."]
    if not aligned and not excepted:
        return [f"{name} has segments that are not aligned to {LIBRARY_ALIGNMENT} bytes."]
    return []
