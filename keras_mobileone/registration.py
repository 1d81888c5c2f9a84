"""Makes the classes of this package known to Keras without importing Keras.

`keras.models.load_model` finds the class of a layer in a registry and imports no modules other than
those of Keras itself. A module of this package enters its classes into the registry when it is
imported, but it imports Keras to do so, which takes seconds. Therefore the modules are imported
either at once, if Keras has been imported already, or right after Keras.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

KERAS = "keras"
# The modules that hold `@keras.saving.register_keras_serializable`.
MODULES = (
    "keras_mobileone.layers.block",
    "keras_mobileone.models.network",
    "keras_mobileone.training.optimizer",
)


def register_classes() -> None:
    """Registers the classes now if Keras has been imported, else as soon as it has been."""
    if KERAS in sys.modules:
        import_modules()
    else:
        sys.meta_path.insert(0, KerasFinder())


def import_modules() -> None:
    """Imports the modules whose classes Keras must know."""
    for name in MODULES:
        importlib.import_module(name)


class KerasFinder(MetaPathFinder):
    """Finds Keras as Python would have, and has the classes registered after its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the specification of Keras with another loader, and None for other modules."""
        if fullname != KERAS:
            return None
        sys.meta_path.remove(self)  # one import is enough, and the next line must not end up here
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


class RegisteringLoader(Loader):
    """Loads Keras by its own loader, then registers the classes.

    Args:
        loader: The loader of Keras, which answers everything that is not asked for here.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Creates the module of Keras."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the code of Keras, then imports the modules whose classes it must know."""
        self._loader.exec_module(module)
        import_modules()
