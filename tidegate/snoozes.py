"""Whether anybody wants to hear of an alert: entities that people have snoozed, by the topic ``lists``."""

from __future__ import annotations

import numpy as np

from domain.list_records import SNOOZED
from domain.verdict import Alert
from stream.lists_follower import ListsFollower

__all__ = ["Snoozes"]


class Snoozes:
    """Asks the lists as they stand when it is asked; one thread at a time."""

    def __init__(self, lists: ListsFollower) -> None:
        self._lists = lists

    def __call__(self, alert: Alert) -> bool:
        """Whether one of its entities is snoozed at the time of its event. Raises Retriable when Kafka is away."""
        self._lists.begin()
        self._lists.poll()
        at = np.array([alert.event_time], dtype=np.int64)
        view = self._lists.lists
        return any(
            bool(view.contains(SNOOZED, field, [value], at)[0]) for field, value in alert.entities.items()
        )

    def close(self) -> None:
        """Give the connection back."""
        self._lists.close()
