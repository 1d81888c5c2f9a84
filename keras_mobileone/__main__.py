"""Runs the command line as `python -m keras_mobileone`."""

from keras_mobileone.cli import main

main()
