"""Small, seeded events for the pipeline in small_pipeline.yaml."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stream.replay import Sendable

__all__ = ["SMALL", "event", "events"]

SMALL = Path(__file__).with_name("small_pipeline.yaml")
_START = datetime(2024, 3, 1, tzinfo=UTC)


def event(id_: str, second: float, account: str = "acc-1", **fields: Any) -> Sendable:
    """One event, ``second`` seconds after the beginning of time; ``fields`` replace or (None) remove."""
    at = _START + timedelta(seconds=second)
    record = {"id": id_, "at": at.isoformat(), "account": account, "amount": 10.0, "shop": "s1", **fields}
    record = {name: value for name, value in record.items() if value is not None}
    return Sendable(str(record.get("account")).encode(), json.dumps(record).encode(), None)


def events(count: int, *, first: int = 0, seed: int = 1) -> list[Sendable]:
    """Events number ``first`` to ``first + count`` of a fixed stream: 40 accounts, a few odd amounts."""
    made = []
    for number in range(first, first + count):
        chance = random.Random(f"{seed}:{number}")
        odd = chance.random() < 0.03
        amount = round(chance.lognormvariate(3.0, 0.6) * (40 if odd else 1), 2)
        pieces = chance.randrange(9) if chance.random() < 0.9 else None
        shop = f"s{chance.randrange(30)}"
        account = f"acc-{chance.randrange(40)}"
        made.append(event(f"e{number}", number * 7.0, account, amount=amount, pieces=pieces, shop=shop))
    return made
