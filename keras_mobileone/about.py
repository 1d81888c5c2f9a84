"""Description, author and license stored in a model file."""

from dataclasses import dataclass

REFERENCE = "MobileOne: An Improved One millisecond Mobile Backbone, arXiv 2206.04040"


@dataclass(frozen=True)
class About:
    """Description, author and license to store in an exported file.

    Xcode, Android Studio and MediaPipe show them. Empty texts are left out of the file.

    Args:
        description: What the model does. If None, the name of the model and a reference to the
            paper are stored.
        author: Author of the model.
        license: License of the model.
        version: Version of the model.

    Examples:
        >>> about = keras_mobileone.about.About(author="Ada", license="Apache-2.0")
        >>> about.text("mobileone_s0")
        'mobileone_s0. MobileOne: An Improved One millisecond Mobile Backbone, arXiv 2206.04040.'
    """

    description: str | None = None
    author: str = ""
    license: str = ""
    version: str = ""

    def text(self, name: str) -> str:
        """Returns the description, or by default that of a MobileOne model called `name`."""
        return f"{name}. {REFERENCE}." if self.description is None else self.description
