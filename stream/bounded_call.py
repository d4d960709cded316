"""A time limit for calls into a library that does not keep its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["CallHangs", "within"]


class CallHangs(Exception):
    """The call has not come back; its thread is left behind, and whatever it holds must not be used again."""


def within(seconds: float, call: Callable[[], object], name: str) -> None:
    """Run ``call`` in a thread of its own and wait for it; raises what it raises, CallHangs after ``seconds``.

    The thread is a daemon: one that never comes back does not keep the process from ending.

    >>> within(5.0, lambda: None, "nothing")
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # handed to the caller
            failure.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise CallHangs(f"{name} did not return within {seconds:.0f} s")
    if failure:
        raise failure[0]
