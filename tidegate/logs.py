"""Logging: readable lines on a terminal, JSON lines elsewhere; always to standard error."""

from __future__ import annotations

import logging
import sys

import structlog

__all__ = ["set_up_logging"]


def set_up_logging(level: str = "INFO") -> None:
    """Configure structlog for this process."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # looked up at each message: whoever captured standard error meanwhile may have closed what it was
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
