"""Description, author and license stored in a model file."""

from dataclasses import dataclass

REFERENCE = "MobileOne: An Improved One millisecond Mobile Backbone, arXiv 2206.04040"


@dataclass(frozen=True)
class About:
    """What a model's file says of itself, in Xcode, Android Studio and MediaPipe.

    Attributes:
        description: None: the model's name and the paper.
        author, license, version: Left out if empty.
    """

    description: str | None = None
    author: str = ""
    license: str = ""
    version: str = ""

    def text(self, name: str) -> str:
        """The description, of a model called `name` if there is none."""
        return f"{name}. {REFERENCE}." if self.description is None else self.description
