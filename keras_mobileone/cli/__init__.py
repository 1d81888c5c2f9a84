"""The command `keras-mobileone`."""

from keras_mobileone.cli.commands import main

__all__ = ["main"]
