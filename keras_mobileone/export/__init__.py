"""Exporting models to files: TFLite, Core ML, ONNX, OpenVINO and SavedModel.

`keras_mobileone.export` is at once this package and the function that exports to any format. Keras
keeps the two apart, since its public names stand in modules that are made for them, apart from
`keras.src`. Here the modules `keras_mobileone.export.tflite` and so on are public already, and the
import system binds the name `export` to the package whenever one of them is imported: a function of
that name would disappear then. So the package itself can be called.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_mobileone.export.report import ExportReport


class CallablePackage(ModuleType):
    """The package, which can be called; see `keras_mobileone.export.entry.export`."""

    def __call__(self, *args: Any, **kwargs: Any) -> "ExportReport":
        """Exports a model, see `keras_mobileone.export.entry.export`."""
        from keras_mobileone.export.entry import export

        return export(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        """The function, whose signature `inspect` and `help` show."""
        from keras_mobileone.export.entry import export

        return export


# Python's reference documents this way to change how a module behaves ("Customizing module
# attribute access").
sys.modules[__name__].__class__ = CallablePackage
