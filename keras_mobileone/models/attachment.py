"""A configuration that is attached to a Keras model and saved in its `.keras` file."""

from typing import Protocol

import keras

# Key in the configuration of a Keras model, which Keras writes into the `.keras` file.
CONFIG_KEY = "image_config"


class Attachable(Protocol):
    """A value that can be attached, such as `data.image_config.ImageConfig`."""

    def to_dict(self) -> dict:
        """Converts the value to plain data for JSON."""
        ...


def attach(model: keras.Model, value: Attachable) -> None:
    """Attaches `value` to `model` and adds it to the result of `model.get_config()`.

    Keras ignores the additional key when it loads a file, so that a model of stock layers still
    loads where this package is not installed.
    """
    setattr(model, CONFIG_KEY, value)
    if not isinstance(model.get_config, _ConfigWithAttachment):
        model.get_config = _ConfigWithAttachment(model)


def attached(model: keras.Model) -> Attachable | None:
    """Returns the value that was last attached to `model`, or None."""
    return getattr(model, CONFIG_KEY, None)


def copy_attachment(source: keras.Model, target: keras.Model) -> keras.Model:
    """Attaches the value of `source`, if any, to `target`, and returns `target`."""
    value = attached(source)
    if value is not None:
        attach(target, value)
    return target


class _ConfigWithAttachment:
    """Replacement for the `get_config` of one model that adds the attached value."""

    def __init__(self, model: keras.Model) -> None:
        self._model, self._get_config = model, model.get_config

    def __call__(self) -> dict:
        value = attached(self._model)
        config = self._get_config()
        return config if value is None else {**config, CONFIG_KEY: value.to_dict()}
