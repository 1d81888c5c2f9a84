"""Checks of the environment that several modules share."""

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
