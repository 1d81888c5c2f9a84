"""Measures images per second of the training transform, of decoding and of other pipelines.

    python benchmarks/input_pipeline.py --data DIR --output benchmarks/results/input_pipeline.json

DIR contains class folders. Every pipeline repeats the same files. Each round takes a number of
batches from each pipeline in turn, after a few batches that are not timed. Ratios refer to decoding
alone in the same round. Normalization is left out, since the trainer does it on the device. If
torch and torchvision are installed, torchvision's transforms in a DataLoader with one process for
each core are measured too.
"""

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from keras_mobileone.benchmarking import processor_name
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.pipeline import Augmentation, training_batches
from keras_mobileone.files import atomic_write

SIZE, BATCH = 224, 32
BATCHES = 40  # timed batches in a round
UNCOUNTED = 8  # batches before them, which may have been prefetched
DECODING = "decoding alone"


def main() -> None:
    """Measures in rounds and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    source = ClassFolders(arguments.data)
    pipelines = {
        DECODING: decoding(source),
        "plain tf.data": plain(source),
        "this package": ours(source, None),
        "this package, RandAugment": ours(source, "randaugment"),
        "this package, AutoAugment": ours(source, "autoaugment"),
    }
    missing = [name for name in ("torch", "torchvision") if importlib.util.find_spec(name) is None]
    if not missing:
        pipelines["torchvision, DataLoader"] = torchvision(arguments.data)
    rates = {name: [] for name in pipelines}
    iterators = {name: iter(pipeline) for name, pipeline in pipelines.items()}
    for iterator in iterators.values():
        consume(iterator, BATCHES)  # fills the file cache and lets the parallelism adapt
    for number in range(arguments.rounds):
        for name, iterator in iterators.items():
            consume(iterator, UNCOUNTED)
            rates[name].append(BATCHES * BATCH / consume(iterator, BATCHES))
        print(f"Round {number + 1} of {arguments.rounds}", flush=True)
    write(arguments, source, rates, missing)


def consume(iterator: Iterator, batches: int) -> float:
    """Returns the seconds that `batches` more batches take."""
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return time.perf_counter() - start


def decoding(source: Any) -> Any:
    """Returns the lower bound, a pipeline that only reads files and decodes whole JPEGs."""
    import tensorflow as tf

    def shape(element: Any) -> Any:
        return tf.shape(tf.io.decode_jpeg(element["encoded"], channels=3))

    return batched(source, shape)


def plain(source: Any) -> Any:
    """Returns the pipeline of TensorFlow's documentation: decode, sample, crop, resize, flip."""
    import tensorflow as tf

    def transform(element: Any) -> Any:
        image = tf.io.decode_jpeg(element["encoded"], channels=3)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.resize(tf.slice(image, begin, size), (SIZE, SIZE))
        return tf.image.random_flip_left_right(image), element["label"]

    return batched(source, transform)


def batched(source: Any, transform: Any) -> Any:
    """Returns batches of the source's images after `transform`, in parallel."""
    import tensorflow as tf

    mapped = source.stream(seed=0).map(transform, num_parallel_calls=tf.data.AUTOTUNE)
    return mapped.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def ours(source: Any, policy: Any) -> Any:
    """Returns `training_batches` with an augmentation policy."""
    return training_batches(source, Augmentation(SIZE, policy=policy), BATCH, seed=0)


def torchvision(directory: Path) -> Any:
    """Returns a pipeline of Pillow and torchvision's transforms in worker processes."""
    import torch
    from torchvision import datasets, transforms

    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    images = datasets.ImageFolder(directory, pipeline)
    loader = torch.utils.data.DataLoader(
        images,
        BATCH,
        shuffle=True,
        num_workers=os.cpu_count(),
        drop_last=True,
        persistent_workers=True,
    )
    return chain.from_iterable(repeat(loader))


def write(arguments: argparse.Namespace, source: Any, rates: Any, missing: Any) -> None:
    """Writes the medians and their conditions as JSON."""
    floor = rates[DECODING]
    rows = [
        {
            "pipeline": name,
            "images_per_second": statistics.median(found),
            "ratio": statistics.median(a / b for a, b in zip(found, floor, strict=True)),
            "rounds": found,
        }
        for name, found in rates.items()
    ]
    result = {
        "rows": rows,
        "conditions": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "images": source.images,
            "size": SIZE,
            "batch": BATCH,
            "rounds": arguments.rounds,
            "tensorflow": version("tensorflow"),
            "not_measured": [f"{name} is not installed" for name in missing],
        },
    }
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['pipeline']:28} {row['images_per_second']:8.1f} {row['ratio']:6.2f}")


if __name__ == "__main__":
    main()
