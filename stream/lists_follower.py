"""Following the topic ``lists``: an index in memory that only ever stands at a whole version."""

from __future__ import annotations

import msgspec
import structlog

from domain.clock import Clock
from domain.list_records import HEAD_KEY, ListEntry, ListsHead, entry_of_key
from domain.list_view import ListIndex, ListView
from stream.compacted_follower import CompactedFollower
from stream.kafka import KafkaConnection
from stream.topics import Topics

__all__ = ["ListsFollower", "ListsLog"]

log = structlog.get_logger(__name__)


class ListsLog:
    """Folds records of the topic, in order."""

    def __init__(self) -> None:
        self._index = ListIndex()
        self._put: dict[tuple[str, str, str], ListEntry] = {}
        self._removed: set[tuple[str, str, str]] = set()
        self._decode = msgspec.json.Decoder(ListEntry).decode
        self.unreadable = 0
        """Records that nobody can use."""

    @property
    def lists(self) -> ListView:
        """The lists as of the last head."""
        return self._index

    def __len__(self) -> int:
        """Entries."""
        return len(self._index)

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """The next record."""
        if key == HEAD_KEY:
            if value is not None:
                self._take_head(value)
        elif key is not None and (place := entry_of_key(key)) is not None:
            if value is None:
                self._put.pop(place, None)
                self._removed.add(place)
                return
            try:
                entry = self._decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._pass_over("an entry", error)
                return
            if (entry.list, entry.field, entry.value) != place:
                self._pass_over("an entry", "it is under another one's key")
                return
            self._removed.discard(place)
            self._put[place] = entry

    def _take_head(self, value: bytes) -> None:
        try:
            version = msgspec.json.decode(value, type=ListsHead).version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._pass_over("a head", error)
            return
        if version < self._index.version:
            log.warning(
                "older lists are passed over while newer ones are read again",
                version=version,
                newest=self._index.version,
            )
            return
        self._index.change(version, self._put.values(), self._removed)
        self._put, self._removed = {}, set()

    def _pass_over(self, what: str, why: object) -> None:
        self.unreadable += 1
        # without the record itself: nobody knows what is in it
        log.error("a record of lists is unreadable; it is passed over", what=what, error=str(why))


class ListsFollower:
    """The lists of ``pipeline``; one thread at a time."""

    def __init__(self, kafka: KafkaConnection, pipeline: str, clock: Clock, *, client_id: str) -> None:
        self._log = ListsLog()
        self._topic = CompactedFollower(
            kafka, Topics(pipeline).lists, self._log.take, clock, client_id=client_id
        )

    @property
    def lists(self) -> ListView:
        """The lists as of the newest head seen; changes with :meth:`poll`."""
        return self._log.lists

    @property
    def unreadable(self) -> int:
        """Records that were passed over."""
        return self._log.unreadable

    def __len__(self) -> int:
        """Entries."""
        return len(self._log)

    def begin(self) -> None:
        """Read everything there is; the second time nothing. Raises Retriable when Kafka is away."""
        self._topic.begin()

    def poll(self) -> bool:
        """Take what has come since; True when there is a new version. Does not wait."""
        before = self.lists.version
        self._topic.poll()
        return self.lists.version != before

    def close(self) -> None:
        """Give the connection back."""
        self._topic.close()
