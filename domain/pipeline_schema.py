"""JSON Schema of the pipeline file, for editors and `tidegate pipeline schema`."""

from __future__ import annotations

from typing import Any

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """Placeholder"""
    return {}
