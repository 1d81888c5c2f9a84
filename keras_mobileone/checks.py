"""Checks of the environment that several modules share."""

import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_mobileone.errors import InputValueError


def require_channels_last() -> None:
    """Raises ValueError if Keras is set to channels first."""
    if keras.config.image_data_format() != "channels_last":
        raise InputValueError(
            "MobileOne needs the data format channels_last. Received: image_data_format="
            f"{keras.config.image_data_format()!r}. "
            'Call keras.config.set_image_data_format("channels_last").'
        )


def require_same_settings(
    before: Mapping[str, Any], settings: Mapping[str, Any], path: str | os.PathLike
) -> None:
    """Raises ValueError unless a run is resumed with the settings that it began with.

    Args:
        before: The stored settings.
        settings: Those of this call.
        path: The file of the stored settings, for the message.
    """
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputValueError(
                f"Resuming needs the settings of the first run. Received: {name} {value}, where "
                f"{path} has {before.get(name)}. Use the same settings, or another file."
            )
