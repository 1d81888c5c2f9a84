"""Copies the screenshots that the documentation shows from those that the app's tests made.

    python documented_screenshots.py SCREENSHOTS DIRECTORY

Each one is cut to one screen of the tests' phone and scaled to half its pixels.
"""

import sys
from pathlib import Path

from PIL import Image

SHOWN = ("models", "benchmark", "running", "result-measured", "classify", "models-night")
SCREEN = (822, 1782)


def main(screenshots: str, directory: str) -> None:
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        with Image.open(Path(screenshots) / f"{name}.png") as picture:
            screen = picture.convert("RGB").crop((0, 0, *SCREEN))
        smaller = screen.resize((SCREEN[0] // 2, SCREEN[1] // 2), Image.Resampling.LANCZOS)
        smaller.quantize(128, dither=Image.Dither.NONE).save(target / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
