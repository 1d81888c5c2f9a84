"""Draws the figure of the stored demo again from `results/demo/report.json`.

python benchmarks/demo.py

The report itself comes from `make demo` on an otherwise idle machine, with the ImageNet weights
and a directory of ImageNet photographs as `--calibration`.
"""

from pathlib import Path

from keras_mobileone.deployment.report import load_report, plot

REPORT = Path(__file__).parent / "results" / "demo" / "report.json"


def main() -> None:
    """Draws report.png next to report.json."""
    plot(load_report(REPORT), REPORT.with_suffix(".png"))


if __name__ == "__main__":
    main()
