"""Several stores of verdicts asked one after the other."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from domain.errors import StoreUnavailable
from featurestore.verdict_finder import InTurn


class Store:
    def __init__(self, **kept: bytes) -> None:
        self.kept = kept
        self.asked: list[list[str]] = []
        self.away = False

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        self.asked.append(list(ids))
        if self.away:
            raise StoreUnavailable("away")
        return {id_: self.kept[id_] for id_ in ids if id_ in self.kept}


def test_the_first_that_keeps_it_answers_and_the_rest_is_asked_of_the_next() -> None:
    near, far = Store(a=b"near"), Store(a=b"far", b=b"far")
    assert InTurn((near, far)).find(["a", "b", "c"]) == {"a": b"near", "b": b"far"}
    assert far.asked == [["b", "c"]]
    assert InTurn((near, far)).find(["a"]) == {"a": b"near"}
    assert len(far.asked) == 1


def test_one_that_does_not_answer_is_not_taken_for_one_that_has_nothing() -> None:
    near, far = Store(a=b"near"), Store()
    far.away = True
    with pytest.raises(StoreUnavailable):
        InTurn((near, far)).find(["a", "b"])
