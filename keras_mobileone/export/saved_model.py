"""`export_saved_model`: writes a Keras model as a SavedModel, compared with Keras in TensorFlow."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_mobileone.about import About
from keras_mobileone.export.formats import FORMATS
from keras_mobileone.export.network import Arrays, Files, Network, Runner, export_network
from keras_mobileone.export.report import ExportReport
from keras_mobileone.litert.metadata import LABELS_FILE

Tensor = Any  # a tensor of TensorFlow, which is imported late

# The directory that TensorFlow's SavedModel format reserves for the files of users.
EXTRA_DIRECTORY = "assets.extra"
METADATA_FILE = "metadata.json"
SIGNATURE = "serving_default"


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    *,
    normalize: bool | None = None,
    labels: Sequence[str] | None = None,
    about: About | None = None,
    images: Any = None,
    verify: bool = True,
) -> ExportReport:
    """Writes `model` as a TensorFlow SavedModel with a fixed batch of 1.

    It has the signature `"serving_default"`. Labels are in `assets.extra/labels.txt`; name,
    description and image configuration are in `assets.extra/metadata.json`.

    Args:
        model, precision, normalize, labels, about, images, verify: As in `keras_mobileone.export`.
        path: Directory to create.

    Returns:
        An `ExportReport`.

    Raises:
        FileExistsError: If `path` exists.
        ValueError, TypeError, ArithmeticError, OSError: As in `keras_mobileone.export`.

    Examples:
        >>> tiny = km.Variant("tiny", widths=(0.25,) * 4, depths=(1, 1, 1, 1))
        >>> model = km.MobileOne(
        ...     tiny, weights=None, input_shape=(32, 32, 3), classes=2, deploy=True
        ... )
        >>> report = export_saved_model(model, "saved", labels=["tench", "dog"])
        >>> report.inputs[0].name, report.error < 1e-4
        ('pixels', True)
    """
    return export_network(
        model,
        Path(path),
        FORMATS["saved_model"],
        Files(_write, _load),
        precision=precision,
        normalize=normalize,
        labels=labels,
        about=about,
        images=images,
        verify=verify,
    )


def _write(network: Network, path: Path, precision: str, about: About) -> dict[str, int]:
    """Writes the SavedModel with its labels and metadata.

    Keras 3.15's own export stores every variable twice, once for each of its two lists of them.
    """
    import tensorflow as tf

    model = network.model

    def serve(**inputs: Tensor) -> dict[str, Tensor]:
        (image, *others) = inputs.values()
        return model(inputs if others else image, training=False)

    module = tf.Module()
    # TensorFlow saves what the attributes of the module hold.
    module.variables_of_model = [variable.value for variable in model.variables]
    specs = {
        info.name: tf.TensorSpec(info.shape, info.dtype, name=info.name) for info in network.inputs
    }
    function = tf.function(serve).get_concrete_function(**specs)
    tf.saved_model.save(module, str(path), signatures={SIGNATURE: function})
    directory = path / EXTRA_DIRECTORY
    directory.mkdir()
    metadata = network.metadata(about)
    metadata.pop("labels", None)
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    (directory / METADATA_FILE).write_text(text, encoding="utf-8")
    if network.labels is not None:
        lines = "".join(f"{label}\n" for label in network.labels)
        (directory / LABELS_FILE).write_text(lines, encoding="utf-8")
    return {}


def _load(path: Path) -> Runner:
    """Returns a function that runs a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures[SIGNATURE]

    def run(inputs: Arrays) -> Arrays:
        outputs = serve(**{name: tf.constant(values) for name, values in inputs.items()})
        # The signature holds no reference to the variables; `loaded` keeps them.
        return {name: value.numpy() for name, value in outputs.items() if loaded is not None}

    return run
