"""Configurations that are attached to a Keras model and saved in its `.keras` file."""

from typing import Protocol

import keras

# Keys in the configuration of a Keras model, which Keras writes into the `.keras` file: how the
# model takes images, and what a model other than a classifier computes.
CONFIG_KEY = "image_config"
TASK_KEY = "task_config"
KEYS = (CONFIG_KEY, TASK_KEY)


class Attachable(Protocol):
    """A value that can be attached, such as `data.image_config.ImageConfig`."""

    def to_dict(self) -> dict:
        """Converts the value to plain data for JSON."""
        ...


def attach(model: keras.Model, value: Attachable, key: str = CONFIG_KEY) -> None:
    """Attaches `value` to `model` and adds it to the result of `model.get_config()` under `key`.

    Keras ignores the additional key when it loads a file, so that a model of stock layers still
    loads where this package is not installed.
    """
    setattr(model, key, value)
    if not isinstance(model.get_config, _ConfigWithAttachment):
        model.get_config = _ConfigWithAttachment(model)


def attached(model: keras.Model, key: str = CONFIG_KEY) -> Attachable | None:
    """Returns the value that was last attached to `model` under `key`, or None."""
    return getattr(model, key, None)


def copy_attachment(source: keras.Model, target: keras.Model) -> keras.Model:
    """Attaches the values of `source`, if any, to `target`, and returns `target`."""
    for key in KEYS:
        value = attached(source, key)
        if value is not None:
            attach(target, value, key)
    return target


class _ConfigWithAttachment:
    """Replacement for the `get_config` of one model that adds the attached values."""

    def __init__(self, model: keras.Model) -> None:
        self._model, self._get_config = model, model.get_config

    def __call__(self) -> dict:
        config = self._get_config()
        for key in KEYS:
            value = attached(self._model, key)
            if value is not None:
                config = {**config, key: value.to_dict()}
        return config
