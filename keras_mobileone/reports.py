"""The base class of all reports, which converts them to plain data and saves them as JSON."""

import json
import math
import os
from dataclasses import fields, is_dataclass
from typing import Any

from keras_mobileone.files import atomic_write


class Report:
    """Base class of the dataclasses that report what a function did.

    Fields declared with `repr=False` hold large contents, which `to_dict` leaves out.
    """

    def to_dict(self) -> dict[str, Any]:
        """Converts the report to dictionaries, lists, strings and numbers, ready for JSON.

        Infinity and NaN, which JSON does not have, become None.
        """
        return plain_data(self)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report to `path` as JSON. A file that exists is replaced in one step."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def plain_data(value: Any) -> Any:
    """Converts dataclasses, named tuples and paths, at any depth, to the types of JSON."""
    if is_dataclass(value):
        shown = [field.name for field in fields(value) if field.repr]
        return {name: plain_data(getattr(value, name)) for name in shown}
    if hasattr(value, "_asdict"):
        return plain_data(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
