"""Registers the classes of this package with Keras without importing Keras.

`keras.models.load_model` looks up the class of a layer in a registry and imports no modules other
than those of Keras itself. A module of this package registers its classes when it is imported, but
it imports Keras to do so, which takes seconds. The modules are therefore imported immediately if
Keras has been imported already, and right after Keras otherwise. Keras itself is imported before
the first module of this package that imports it: otherwise that module would be only partly
initialized when the modules of the classes, which may need it, are imported.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

KERAS = "keras"
PACKAGE = __name__.partition(".")[0]
IMPORTS_KERAS = re.compile(r"^(import|from) keras\b", re.MULTILINE)
# The modules that hold `@keras.saving.register_keras_serializable`.
MODULES = (
    "keras_mobileone.layers.block",
    "keras_mobileone.models.network",
    "keras_mobileone.models.detection.network",
    "keras_mobileone.training.muon",
    "keras_mobileone.training.optimizer",
)


def register_classes() -> None:
    """Registers the classes now if Keras has been imported, and otherwise when it is imported."""
    if KERAS in sys.modules:
        import_modules()
    else:
        sys.meta_path.insert(0, KerasFinder())


def import_modules() -> None:
    """Imports the modules that register classes with Keras."""
    for name in MODULES:
        importlib.import_module(name)


class KerasFinder(MetaPathFinder):
    """Finds Keras as Python would, and registers the classes after Keras is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the specification of Keras with another loader, and None for other modules.

        For a module of this package that imports Keras, Keras is imported first.
        """
        if fullname.startswith(f"{PACKAGE}.") and imports_keras(fullname, path):
            importlib.import_module(KERAS)
        if fullname != KERAS:
            return None
        sys.meta_path.remove(self)  # otherwise the next line would call this method again
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


def imports_keras(name: str, path: Sequence[str] | None) -> bool:
    """Returns whether a module that has not been loaded yet imports Keras as it is loaded."""
    spec = PathFinder.find_spec(name, path)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        return False
    return IMPORTS_KERAS.search(spec.loader.get_source(name) or "") is not None


class RegisteringLoader(Loader):
    """Loads Keras by its own loader, then registers the classes.

    Args:
        loader: The loader of Keras. Attributes that this class does not define are those of
            `loader`.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Creates the module of Keras."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the code of Keras, then imports the modules that register classes."""
        self._loader.exec_module(module)
        import_modules()
