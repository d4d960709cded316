"""Imported once by the fork server, so that its children have behind them what takes seconds."""

from __future__ import annotations

import sklearn.ensemble

import tests.system.worker_program

__all__ = ["sklearn", "tests"]
