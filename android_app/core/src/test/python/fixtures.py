"""Writes the numbers that the Kotlin tests of the Android app compare with: those of this package.

    python fixtures.py MODELS DIRECTORY

MODELS is a directory of TFLite files. DIRECTORY is made if it does not exist, and gets:

- statistics.json: rounds and latencies of given runs
- result.json: a result as `Benchmark.save` writes it
- logits/: inputs and outputs of each model as float32, and index.json with what its metadata say
- crops/: photographs as RGB bytes, what the evaluation transform and the normalization make of them
- files/: small TFLite files, usable ones and others
"""

import io
import json
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from keras_mobileone.about import About
from keras_mobileone.benchmarking.results import (
    Benchmark,
    Failure,
    latency_of,
    percentile,
    ratio,
    round_of,
)
from keras_mobileone.cli.prediction import probabilities
from keras_mobileone.data.image_config import ImageConfig
from keras_mobileone.data.images import evaluation_crop, example_path, load_image
from keras_mobileone.litert import flatbuffer, metadata
from keras_mobileone.litert.runner import to_stored

RNG = np.random.default_rng(18)


def main(models: str, directory: str) -> None:
    """Writes all files."""
    target = Path(directory)
    for name in ("logits", "crops", "files"):
        (target / name).mkdir(parents=True, exist_ok=True)
    write_statistics(target)
    write_result(target / "result.json")
    write_logits(sorted(Path(models).glob("*.tflite")), target / "logits")
    write_crops(target / "crops")
    write_files(target / "files")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_statistics(target: Path) -> None:
    """Runs of even and odd numbers, with outliers, and few enough that nothing is trimmed."""
    files = []
    for name, count in (("a.tflite", 50), ("b.tflite", 50), ("c.tflite", 7), ("d.tflite", 3)):
        rounds = []
        for _ in range(4):
            runs = RNG.gamma(3, 2, count)
            runs[RNG.integers(count)] *= 20
            rounds.append({"runs": runs.tolist(), "initialization": float(RNG.uniform(1, 90))})
        found = [round_of(r["runs"], r["initialization"]) for r in rounds]
        latency = latency_of(name, 1000 + count, found)
        files.append(
            {"rounds": rounds, "found": [asdict(r) for r in found], "latency": asdict(latency)}
        )
    latencies = [latency_of("", 0, [round_of(**r) for r in f["rounds"]]) for f in files]
    ordered = sorted(RNG.uniform(0, 9, 11).tolist())
    percents = [0, 10, 50, 90, 95, 99, 100]
    write_json(
        target / "statistics.json",
        {
            "files": files,
            "ratios": [[ratio(a, b) for b in latencies] for a in latencies],
            "ordered": ordered,
            "percentiles": [[p, percentile(ordered, p)] for p in percents],
        },
    )


def write_result(path: Path) -> None:
    """A result with everything that may be missing, and names that have to be escaped."""
    rounds = [[round_of(RNG.uniform(1, 9, 20).tolist(), 3.5) for _ in range(3)] for _ in range(2)]
    latencies = [
        latency_of("a.tflite (cpu, 4 threads)", 4_000_000_000, rounds[0]),
        latency_of('größe "b", \\ 模型 🐈.tflite', 12, rounds[1]),
    ]
    conditions = {"target": "android-app", "threads": [1, 4], "before": {"headroom": None}}
    conditions |= {"small": 1e-7, "large": 1.5e300, "charging": False, "empty": {}, "none": []}
    Benchmark(latencies, conditions, [Failure("x.tflite", "Expected a\nfile.")]).save(path)


def write_logits(models: list[Path], target: Path) -> None:
    """Outputs of ai-edge-litert for the photograph in the package and for random pixels."""
    index = []
    for path in models:
        content = path.read_bytes()
        config = metadata.require_file_config(content)
        size = config.image_size[0]
        crop = evaluation_crop(load_image(example_path()), size, config.crop_fraction)
        pixels = {"cat": crop, "noise": RNG.integers(0, 256, crop.shape, np.uint8)}
        cases = []
        for name, image in pixels.items():
            values = config.normalize(image)[None]
            found = run(content, values)
            values.astype("<f4").tofile(target / f"{path.stem}-{name}.input")
            found.astype("<f4").tofile(target / f"{path.stem}-{name}.output")
            best = np.argsort(-probabilities(found)[0], kind="stable")[:5]
            cases.append(
                {
                    "name": name,
                    "top": [config.labels[i] if config.labels else str(i) for i in best],
                    "probabilities": probabilities(found)[0][best].tolist(),
                }
            )
        inputs, outputs = flatbuffer.inputs_and_outputs(content)
        index.append(
            {
                "file": path.name,
                "cases": cases,
                "inputs": [tensor._asdict() for tensor in inputs],
                "outputs": [tensor._asdict() for tensor in outputs],
                "config": config.to_dict(),
                "operators": sum(flatbuffer.operator_counts(content).values()),
                "flatbuffer": content.rfind(b"PK\3\4") if config.labels else len(content),
            }
        )
    write_json(target / "index.json", index)


def run(content: bytes, values: np.ndarray) -> np.ndarray:
    """Returns the first output of a TFLite file on one thread."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def write_crops(target: Path) -> None:
    """Photographs of several shapes and the model inputs that are made of them."""
    cat = load_image(example_path())
    photographs = {
        "cat": cat,
        "landscape": noise(640, 427),
        "portrait": noise(301, 800),
        "small": noise(90, 77),
        "wide": cat.resize((1000, 225), Image.Resampling.NEAREST),
        "gradient": gradient(517, 613),
    }
    index = []
    for number, (name, image) in enumerate(photographs.items()):
        size = (224, 96, 225)[number % 3]
        crop_fraction = (0.875, 0.9, 1.0)[number // 2 % 3]
        crop = evaluation_crop(image, size, crop_fraction)
        np.asarray(image).tofile(target / f"{name}.rgb")
        crop.tofile(target / f"{name}.crop")
        config = ImageConfig((size, size), crop_fraction=crop_fraction)
        values = config.normalize(crop)
        values.astype("<f4").tofile(target / f"{name}.float32")
        values.astype("<f2").tofile(target / f"{name}.float16")
        tensor = flatbuffer.TensorInfo("image", (1, size, size, 3), "int8", 0.0371, -14)
        to_stored(values, tensor).tofile(target / f"{name}.int8")
        described = {"name": name, "width": image.width, "height": image.height}
        index.append(described | {"config": config.to_dict(), "scale": 0.0371, "zero_point": -14})
    write_json(target / "index.json", index)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))


def gradient(width: int, height: int) -> Image.Image:
    """Another ramp in each channel, so that swapped channels and axes are noticed."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def write_files(target: Path) -> None:
    """Small files: two that work, one with the metadata of other tools, and unusable ones."""
    usable = {"add": small_file(), "quantize": small_file(quantize=True)}
    for name, content in usable.items():
        (target / f"{name}.tflite").write_bytes(content)
    about = About(description="It adds.", author="Ada", license="MIT", version="2.0")
    config = ImageConfig((2, 4), (9.0,) * 3, (5.0,) * 3)
    described = metadata.with_metadata(small_file(), "other", about, ["tench", "ox"], config)
    # Another tool writes no configuration of this package. It compresses the labels and counts the
    # places in the archive from the start of the archive.
    renamed = described.replace(metadata.CONFIG_FIELD.encode(), b"x" * len(metadata.CONFIG_FIELD))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("readme.txt", "first")
        file.writestr(metadata.LABELS_FILE, "tench\r\nox\r\n")
        file.comment = b"a comment"
    model = renamed[: renamed.index(b"PK\3\4")]
    (target / "other_tool.tflite").write_bytes(model + archive.getvalue())
    # Types by their numbers in the schema: string, complex64.
    refused = {"open": {"signature": (1, -1, 4, 3)}, "string": {"code": 5}, "complex": {"code": 8}}
    refused |= {"empty": {"shape": (1, 0, 4, 3)}, "huge": {"shape": (1, 40000, 40000, 3)}}
    refused |= {"overflow": {"shape": (65536, 65536, 65536, 3)}}
    for name, changes in refused.items():
        (target / f"{name}.tflite").write_bytes(small_file(**changes))
    (target / "custom.tflite").write_bytes(small_file(custom=b"FlexErf"))
    (target / "newer.tflite").write_bytes(small_file(version=99))
    (target / "outside.tflite").write_bytes(small_file(place=(1_000_000, 8)))
    (target / "negative.tflite").write_bytes(small_file(place=(8, 2**63)))
    (target / "no_code.tflite").write_bytes(small_file(opcode=1))
    (target / "no_buffer.tflite").write_bytes(small_file(buffer=1))


def small_file(
    shape: tuple[int, ...] = (1, 2, 4, 3),
    signature: tuple[int, ...] | None = None,
    code: int = 0,
    quantize: bool = False,
    custom: bytes | None = None,
    version: int = 1,
    place: tuple[int, int] = (0, 0),
    opcode: int = 0,
    buffer: int = 0,
) -> bytes:
    """A TFLite file of one operator: the sum of its two inputs, or its quantized only input.

    Args:
        shape: Shape of all tensors.
        signature: Shape of the first input with open sizes.
        code: Type of the first input by its number in the schema.
        quantize: Whether the operator quantizes.
        custom: Name of the operator if it is not one of TFLite's.
        version: Version of the operator.
        place: Offset and size of the only buffer, if it is to stand after the tables.
        opcode, buffer: Indices of the operator's code and of the output's buffer, which must be 0.
    """
    tensors = [tensor("first", shape, code, signature)]
    if not quantize:
        tensors.append(tensor("second", shape, 0))
    tensors.append(tensor("sum", shape, 9 if quantize else 0))
    if quantize:
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [0.5], [-3]
        tensors[-1].quantization = quantization
    tensors[-1].buffer = buffer
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode
    operator.inputs, operator.outputs = list(range(len(tensors) - 1)), [len(tensors) - 1]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [operator]
    graph.inputs, graph.outputs = operator.inputs, operator.outputs
    kind = schema.OperatorCodeT()
    builtin = schema.BuiltinOperator.QUANTIZE if quantize else schema.BuiltinOperator.ADD
    kind.builtinCode = schema.BuiltinOperator.CUSTOM if custom else builtin
    kind.deprecatedBuiltinCode, kind.customCode, kind.version = kind.builtinCode, custom, version
    if not quantize and not custom:
        operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
        operator.builtinOptions = schema.AddOptionsT()
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [kind]
    model.buffers = [schema.BufferT()]
    model.buffers[0].offset, model.buffers[0].size = place
    return flatbuffer.serialize(model)


def tensor(
    name: str, shape: tuple[int, ...], code: int, signature: tuple[int, ...] | None = None
) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, list(shape), code, 0
    made.shapeSignature = None if signature is None else list(signature)
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
