"""Breaking the product on purpose, inside the worker process of a self-test and nowhere else.

Each function takes one thing away on which exactly-once stands. A scenario that does not notice proves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from featurestore.online import RedisStateStore
from featurestore.redis_client import Script
from stream.committer import Committer, Outcome, StateWrites
from stream.outbox import Outbox
from stream.recovery import Recovery
from stream.session import Session

__all__ = ["commit_outside", "flush_before_commit", "no_fence", "no_rebuild", "no_rewind"]


def no_fence() -> None:
    """Redis takes every write: neither who wrote last nor how old a blob is counts."""
    original = RedisStateStore.__init__

    def init(self: RedisStateStore, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        source = self._flush.source
        fence, blobs = "return stored\n", "if #head < 8 or"
        assert fence in source, "the script has changed; so must its sabotage"
        assert blobs in source
        broken = source.replace(fence, "local ignored = stored\n").replace("return -2", "local absent = 1")
        broken = broken.replace(blobs, "if true or")
        self._flush = Script(broken, hashlib.sha1(broken.encode(), usedforsecurity=False).hexdigest())

    RedisStateStore.__init__ = init  # type: ignore[method-assign]


def no_rebuild() -> None:
    """Recovery begins at the committed offset and takes the state as it is."""

    def rebuild(self: Recovery, *_: Any) -> int:
        return 0

    Recovery._rebuild = rebuild  # type: ignore[method-assign,assignment]


def no_rewind() -> None:
    """After an aborted transaction the session reads on where it was."""

    def seek(self: Session, partition: int) -> None:
        return

    Session._seek = seek  # type: ignore[method-assign]


def flush_before_commit() -> None:
    """State goes to Redis first, then the transaction is committed."""
    original = Committer._commit

    def commit(self: Committer, batch: Any, group: Any, writes: StateWrites) -> Outcome:
        if writes:
            self.write(writes)
        return original(self, batch, group, writes)

    Committer._commit = commit  # type: ignore[method-assign]


class _OutsideOffsets:
    """A producer whose transactions hold no offsets; they are committed by the consumer, afterwards."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.offsets: Sequence[Any] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def send_offsets_to_transaction(self, offsets: Sequence[Any], *_: Any) -> None:
        self.offsets = offsets


def commit_outside() -> None:
    """Consumed offsets are committed by the consumer, after the transaction."""
    begin: Callable[..., None] = Session.__init__
    send = Outbox.send
    consumers: dict[int, Any] = {}

    def init(self: Session, *args: Any) -> None:
        begin(self, *args)
        self._outbox._producer = _OutsideOffsets(self._outbox._producer)  # type: ignore[assignment]
        consumers[id(self._outbox)] = self._consumer

    def send_then_commit(self: Outbox, *args: Any) -> dict[int, int]:
        ends = send(self, *args)
        producer: Any = self._producer
        consumers[id(self)].commit(offsets=list(producer.offsets), asynchronous=False)
        return ends

    Session.__init__ = init  # type: ignore[method-assign,assignment]
    Outbox.send = send_then_commit  # type: ignore[method-assign,assignment]
