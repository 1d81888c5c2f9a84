"""Packaging of keras-mobileone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "keras_mobileone" / "__init__.py").read_text()
).group(1)

EXTRAS = {
    "plot": ["matplotlib>=3.9"],
    "torch": ["torch>=2.4"],
    "photos": ["scikit-image>=0.24"],
    "jax": ["jax>=0.4.35"],
    "qat": ["tensorflow-model-optimization>=0.8.1", "tf-keras>=2.21"],
    "tensorboard": ["tensorboard>=2.20"],
    # Palettization needs scikit-learn, of which coremltools 9.0 refuses later versions.
    "coreml": ["coremltools>=9.0", "scikit-learn>=1.1,<=1.5.1"],
    # tensorflow-datasets 4.9 imports importlib-resources, but requires it for Python 3.8 alone.
    "tfds": ["tensorflow-datasets>=4.9", "importlib-resources"],
}
# All but torch, which is large: its tests skip.
EXTRAS["test"] = ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.8"] + [
    requirement
    for extra in ("plot", "photos", "jax", "qat", "tfds", "tensorboard", "coreml")
    for requirement in EXTRAS[extra]
]

setup(
    name="keras-mobileone",
    version=VERSION,
    description="MobileOne for Keras 3: train many branches, deploy one, export to phones",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The keras_mobileone developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["keras", "tensorflow", "tflite", "litert", "mobileone", "mobile", "imagenet"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["keras_mobileone", "keras_mobileone.*"]),
    package_data={"keras_mobileone": ["assets/*"]},
    install_requires=[
        "keras>=3.15",
        "tensorflow>=2.21",
        "numpy>=1.26",
        "safetensors>=0.4",
        "ai-edge-litert>=2.1",
        "Pillow>=10",
        "click>=8.1",
        "rich>=13",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-mobileone = keras_mobileone.cli:main"]},
)
