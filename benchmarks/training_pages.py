"""Generated sections on training, for `results_pages.py`."""

import json
import statistics
from pathlib import Path

from keras_mobileone.deployment.report import markdown_table

RESULTS = Path(__file__).parent / "results"
IMAGENETTE = RESULTS / "imagenette"
BRANCHES = RESULTS / "branches.json"
FINETUNE = RESULTS / "finetune.json"
PIPELINE = RESULTS / "input_pipeline.json"
TRAIN_STEP = RESULTS / "train_step.json"


def finetune() -> str:
    """Returns the result of a fine-tuning run on Imagenette."""
    result = json.loads(FINETUNE.read_text(encoding="utf-8"))
    recipe, c = result["recipe"], result["conditions"]
    total = result["validation_images"]
    top1 = 100 * result["top1"]["deploy.keras"] / total
    pixels = recipe["phases"][-1]["image_size"]
    return (
        f"S0 from the authors' fused ImageNet weights, on Imagenette's "
        f"{result['training_images']:,} training images in {result['classes']} classes: "
        f"**{top1:.2f} %** of {total:,} validation images after {recipe['epochs']} epochs at "
        f"{pixels} pixels, {result['seconds'] / 60:.0f} min on {c['cores']} cores shared with "
        f"other work. Train-time and deploy model agree on {result['agreement']:,}."
    )


def imagenette(picture: str) -> str:
    """Returns how the weights in the package were trained, and their accuracy.

    Args:
        picture: Address of the curve.
    """
    r = json.loads((IMAGENETTE / "report.json").read_text(encoding="utf-8"))
    found, run = r["evaluation"], r["run"]
    images = found["images"]
    share = {name: f"{100 * right / images:.2f} %" for name, right in found["top1"].items()}
    sizes = [phase["image_size"] for phase in run["recipe"]["phases"]]
    megabytes = sum(r["bytes"].values()) / 1e6
    last = f"{100 * run['top1']['deploy.keras'] / images:.2f} %"
    text = (
        f"**{share['deploy']}** of {images:,} validation images at {found['size']} pixels, "
        f"{share['int8']} in int8, and {last} at {sizes[-1]} pixels; train-time and deploy model "
        f"agree on {found['agreement']['train time']:,}. {run['recipe']['epochs']} epochs at "
        f"{sizes[0]} to {sizes[-1]} pixels (`{run['recipe']['command']}`) on "
        f"{run['training_images']:,} images, "
        f"{run['seconds'] / 3600:.1f} h on {run['conditions']['cores']} cores. Both files "
        f"together: {megabytes:.1f} MB. Published for S0 on this dataset: 88.1 % at 224 pixels "
        "([Holocron](https://github.com/frgfm/Holocron))."
    )
    return f"{text}\n\n![Accuracy over the epochs]({picture})"


def branches() -> str:
    """Returns a comparison of one branch with four, over the seeds."""
    r = json.loads(BRANCHES.read_text(encoding="utf-8"))
    top1 = {(row["branches"], row["seed"]): 100 * row["top1"] for row in r["rows"]}
    counts, seeds = (sorted(set(keys)) for keys in zip(*top1, strict=True))
    rows = []
    for count in counts:
        values = [top1[count, seed] for seed in seeds]
        loss = statistics.mean(
            row["training_loss"] for row in r["rows"] if row["branches"] == count
        )
        spread = f"{min(values):.1f} … {max(values):.1f}"
        mean = f"{statistics.mean(values):.1f}"
        rows.append((f"k = {count}", str(len(seeds)), mean, spread, f"{loss:.3f}"))
    gains = [top1[counts[-1], seed] - top1[counts[0], seed] for seed in seeds]
    text = (
        f"S0 trained from scratch on Imagenette, {r['epochs']} epochs at {r['size']} pixels, from "
        f"the same seeds under one recipe; top-1 of {r['validation_images']:,} validation images. "
        f"Four branches against one: {statistics.mean(gains):+.1f} points; seed by seed "
        f"{', '.join(f'{gain:+.1f}' for gain in gains)}."
    )
    header = ("branches", "runs", "top-1, mean", "from … to", "training loss")
    return "\n\n".join([markdown_table(header, rows), text])


def pipeline() -> str:
    """Returns a comparison of the training transform with decoding alone and other pipelines."""
    result = json.loads(PIPELINE.read_text(encoding="utf-8"))
    rows = [
        (row["pipeline"], f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}")
        for row in result["rows"]
    ]
    c = result["conditions"]
    conditions = (
        f"At {c['size']} pixels, batches of {c['batch']}, {c['images']} photographs of ImageNet in "
        f"the file cache, median of {c['rounds']} interleaved rounds; ratio to decoding the whole "
        f"files alone. {c['processor']}, {c['cores']} cores, load "
        f"{c['load_average'][0]:.1f}; TensorFlow {c['tensorflow']}. {'; '.join(c['not_measured'])}"
    ).rstrip()
    return "\n\n".join([markdown_table(("", "images/s", "ratio"), rows), conditions])


def train_step() -> str:
    """Returns a comparison of branch by branch, one pass and plain network."""
    results = json.loads(TRAIN_STEP.read_text(encoding="utf-8"))["rows"]
    rows = [
        (
            row["variant"].upper(),
            row["method"],
            str(row["conditions"]["batch"]),
            f"{row['images_per_second']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['gibibytes']:.1f}",
        )
        for row in results
    ]
    c = results[0]["conditions"]
    onednn = {"0": "off", "1": "on"}.get(c["onednn"], c["onednn"])
    conditions = (
        f"{c['size']} pixels, {c['dtype']}; processes interleaved, {c['rounds']} rounds of "
        f"{c['steps']} steps; ratio to branch by branch of the same round. The plain network is "
        "the deploy topology with one batch normalization of Keras' for each convolution. GiB: of "
        f"the whole process, {results[0]['gibibytes_before']:.1f} before the first step. "
        f"{c['processor']}, {c['cores']} cores, oneDNN {onednn}; "
        f"TensorFlow {c['tensorflow']}, Keras {c['keras']}{against_pytorch(results)}."
    )
    header = ("", "", "batch", "images/s", "ratio", "GiB")
    return "\n\n".join([markdown_table(header, rows), conditions])


def against_pytorch(results: list[dict]) -> str:
    """Returns a comparison of one pass with the authors' code, paired within rounds."""
    rows = {(row["variant"], row["method"]): row for row in results}
    versions, ratios = set(), []
    for (variant, method), row in rows.items():
        if method == "authors' PyTorch":
            ours = rows[variant, "one pass"]["seconds_per_step"]
            pairs = zip(row["seconds_per_step"], ours, strict=True)
            ratio = statistics.median(theirs / own for theirs, own in pairs)
            ratios.append(f"{ratio:.2f} times with {variant.upper()}")
            versions.add(row["conditions"]["torch"])
    if not ratios:
        return ""
    return (
        f", PyTorch {', '.join(sorted(versions))}. One pass runs {', '.join(ratios)} as many "
        "images per second as the authors' code"
    )
