"""Packaging of keras-mobileone; its metadata stand in pyproject.toml."""

from setuptools import setup

setup()
