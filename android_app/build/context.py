"""What every part of a build needs: directories, libraries, and the record of finished steps."""

from functools import cached_property
from pathlib import Path

import maven
import project
from steps import Steps, cache_directory


class Build:
    """One run of the build.

    Args:
        out: directory of everything that is made from the sources.
        models: directory whose `*.tflite` files go into the APK, or None for an APK without models.
    """

    def __init__(self, out: Path, models: Path | None = None):
        self.root = project.APP_DIRECTORY
        self.out = out.resolve()
        self.models = models.resolve() if models else None
        self.cache = cache_directory()
        self.steps = Steps(self.out / "stamps")
        self.cache_steps = Steps(self.cache / "stamps")
        self._libraries: dict[str, list[Path]] = {}

    @cached_property
    def catalog(self) -> dict[str, project.Library]:
        return project.read_catalog()

    @cached_property
    def plugin_version(self) -> str:
        """Version of Maven's dependency plugin."""
        return project.read_versions()["maven-dependency-plugin"]

    def fetch(self, *names: str) -> None:
        """Fetches sets of libraries that later steps ask for, all at once."""

        def action():
            found = maven.fetch(self.cache, self.catalog, self.plugin_version, list(names))
            self._libraries.update(found)

        self.steps.always("fetch libraries", action)

    def libraries(self, *names: str) -> list[Path]:
        """Class files of sets of libraries that were fetched before: of AARs, the jar in them."""
        return [
            maven.classes(path, self.cache) if path.suffix == ".aar" else path
            for path in self.archives(*names)
        ]

    def archives(self, *names: str) -> list[Path]:
        """Files of sets of libraries as Maven has them."""
        return [path for name in names for path in self._libraries[name]]

    def library(self, name: str) -> Path:
        """The only file of a set."""
        (path,) = self.libraries(name)
        return path

    @cached_property
    def modules(self) -> list[project.Module]:
        """Modules that have sources, in the order in which they are compiled."""
        return [m for m in project.MODULES if m.source_directories(self.root)]

    @property
    def program_libraries(self) -> list[Path]:
        """Class files of the libraries that the APK contains."""
        names = {name: None for module in self.modules for name in module.libraries}
        return self.libraries("kotlin-stdlib", *names)

    def module_jar(self, name: str) -> Path:
        """Where the classes of a module are."""
        return self.out / "classes" / f"{name}.jar"

    @property
    def resource_classes(self) -> Path:
        """Where the class R is, which aapt2 makes from the resources."""
        return self.out / "classes" / "R.jar"

    @property
    def apk(self) -> Path:
        return self.out / f"{project.APPLICATION_ID}-debug.apk"

    def model_files(self) -> list[Path]:
        return sorted(self.models.glob("*.tflite")) if self.models else []
