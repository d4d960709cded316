"""The version of the code, as it stands in every verdict."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["CODE_VERSION"]

CODE_VERSION = version("tidegate")
