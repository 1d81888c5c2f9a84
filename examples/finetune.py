"""Fine-tunes MobileOne on photographs of your own, fuses it and exports it to int8.

    python examples/finetune.py --data photos/ --output runs/photos

`photos/` has one folder of images for each class. Without --data the example draws pictures of two
classes, rings and stripes, and starts from the weights that come with the package: nothing is
downloaded.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import keras_mobileone

PICTURES = 24  # of each class


def draw_pictures(directory: Path) -> Path:
    """Class folders with pictures of rings and of stripes in random colors."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    for name, field in {"rings": np.hypot(x, y), "stripes": x}.items():
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(PICTURES):
            wave = 0.5 + 0.5 * np.sin(rng.uniform(8, 20) * field + rng.uniform(0, 6))
            picture = wave[..., None] * rng.uniform(80, 255, 3)
            Image.fromarray(picture.astype(np.uint8)).save(folder / f"{index}.png")
    return directory


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Class folders of images.")
    parser.add_argument("--output", type=Path, help="Directory of the run, new or empty.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=160)
    options = parser.parse_args()
    output = options.output or Path(tempfile.mkdtemp()) / "run"
    data = options.data or draw_pictures(Path(tempfile.mkdtemp()))

    recipe = keras_mobileone.get_recipe("finetune").with_epochs(options.epochs)
    phases = (keras_mobileone.Phase(0, options.image_size),)
    recipe = dataclasses.replace(recipe, batch_size=options.batch_size, phases=phases)
    weights = "imagenet" if options.data else "imagenette"
    report = keras_mobileone.finetune(data, output, weights=weights, recipe=recipe)
    print(f"{report.classes} classes, {report.training_images} images, {report.steps} steps")

    model = keras.models.load_model(output / "deploy.keras")
    path = output / "deploy_int8.tflite"
    labels = (output / "classes.txt").read_text(encoding="utf-8").splitlines()
    export = keras_mobileone.export_tflite(model, path, "int8", calibration=data, labels=labels)
    print(f"{path}: {export.bytes / 1e6:.2f} MB; largest difference from Keras {export.error:.3f}")


if __name__ == "__main__":
    main()
