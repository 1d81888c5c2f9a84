"""A configuration that travels with a Keras model, into its `.keras` file too."""

from typing import Protocol

import keras

CONFIG_KEY = "image_config"  # in the configuration of a Keras model, and so in a .keras file


class Attachable(Protocol):
    """What can be attached: see `data.image_config.ImageConfig`."""

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        ...


def attach(model: keras.Model, value: Attachable) -> None:
    """Attaches `value` to `model`, whose `get_config` returns it among the rest from now on.

    Keras passes over the additional key when it loads a file, so that a model of stock layers still
    loads where this package is not installed.
    """
    setattr(model, CONFIG_KEY, value)
    if not isinstance(model.get_config, _ConfigWithAttachment):
        model.get_config = _ConfigWithAttachment(model)


def attached(model: keras.Model) -> Attachable | None:
    """What was attached to `model` last, or None."""
    return getattr(model, CONFIG_KEY, None)


def copy_attachment(source: keras.Model, target: keras.Model) -> keras.Model:
    """Attaches to `target` what `source` has, if anything, and returns `target`."""
    value = attached(source)
    if value is not None:
        attach(target, value)
    return target


class _ConfigWithAttachment:
    """`get_config` of one model, with what is attached to it."""

    def __init__(self, model: keras.Model) -> None:
        self._model, self._get_config = model, model.get_config

    def __call__(self) -> dict:
        return {**self._get_config(), CONFIG_KEY: attached(self._model).to_dict()}
