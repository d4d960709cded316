"""Seeded payments with known fraud: traffic for the demo, for tests and for benchmarks.

The same settings give the same events, whatever happens around; the first ``n`` of a longer run are the same
too. Events come in order of time on a simulated clock, on which a day has quiet nights and busy afternoons.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.clock import Clock, from_micros
from domain.errors import Reject
from stream.generator_bad import spoil
from stream.generator_scenarios import COUNTRIES, DAY, FAVOURITES, SCENARIOS, Campaign, Population

__all__ = ["HONEST", "Traffic", "TrafficEvent", "TrafficSettings"]

HONEST = "honest"
_CHUNK = 2_048
"""Honest payments drawn at a time; part of what a seed means, so changing it changes the traffic."""
_CHANNELS = np.array(["card", "online", "transfer"])

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """What traffic to make.

    ``start`` is the simulated time of the first event, UTC microseconds. Shares are of all records that come
    out: fraudulent payments, malformed records, and repeats as a retrying producer sends them.
    ``payments_per_day`` is how often a mean account pays: with ``accounts`` it sets the simulated rate.
    """

    seed: int = 1
    start: int = 1_767_225_600_000_000
    accounts: int = 5_000
    merchants: int = 800
    payments_per_day: float = 4.0
    fraud_share: float = 0.01
    bad_share: float = 0.0
    duplicate_share: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.fraud_share, self.bad_share, self.duplicate_share)
        if min(shares) < 0 or sum(shares) > 0.9:
            raise ValueError(
                "shares of fraud, bad records and duplicates must be 0 or more, at most 0.9 in all"
            )
        if self.accounts < 1 or self.merchants <= FAVOURITES or self.payments_per_day <= 0:
            raise ValueError(f"at least 1 account, {FAVOURITES + 1} merchants, and some payments a day")


@dataclass(frozen=True, slots=True)
class TrafficEvent:
    """One record for the topic, and what is known about it.

    ``payload`` is the JSON as sent; ``record`` the same as a dict (None where it is not one on purpose).
    ``label`` is True for fraud, None for a malformed record; ``reject`` the reason code it must get then.
    ``repeated``: the same record was sent before.
    """

    id: str
    key: str
    payload: bytes
    record: dict[str, Any] | None
    time: int
    label: bool | None
    scenario: str
    reject: Reject | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Payments:
    """Payments in order of time, as columns; ``scenarios`` indexes ``names``."""

    times: Floats
    accounts: Ints
    merchants: Ints
    amounts: Floats
    abroad: Floats
    scenarios: Ints

    def take(self, rows: Any) -> _Payments:
        return _Payments(
            self.times[rows],
            self.accounts[rows],
            self.merchants[rows],
            self.amounts[rows],
            self.abroad[rows],
            self.scenarios[rows],
        )


_NAMES = (HONEST, *(make.__name__ for make, _ in SCENARIOS))


def _columns(campaign: Campaign) -> _Payments:
    n = len(campaign.times)
    return _Payments(
        campaign.times,
        campaign.accounts,
        campaign.merchants,
        campaign.amounts,
        np.full(n, campaign.abroad),
        np.full(n, _NAMES.index(campaign.scenario)),
    )


def _join(parts: list[_Payments]) -> _Payments:
    return _Payments(*(np.concatenate([getattr(p, f) for p in parts]) for f in _Payments.__slots__))


class Traffic:
    """An endless, repeatable stream of payments; iterate it as often as you like.

    >>> events = iter(Traffic(TrafficSettings(seed=7)))
    >>> next(events).payload == next(iter(Traffic(TrafficSettings(seed=7)))).payload
    True
    """

    def __init__(self, settings: TrafficSettings, *, clock: Clock | None = None) -> None:
        """With a ``clock`` each event is dated by it at the moment it is taken (for live traffic)."""
        self._settings = settings
        self._clock = clock

    def __iter__(self) -> Iterator[TrafficEvent]:
        settings = self._settings
        rng = np.random.default_rng(settings.seed)
        people = Population.make(rng, settings.accounts, settings.merchants)
        good = 1.0 - settings.bad_share - settings.duplicate_share
        bad, again = settings.bad_share / good, settings.duplicate_share / good
        retries: deque[tuple[int, TrafficEvent]] = deque()
        number, broken = 0, 0
        for payments in self._payments(rng, people):
            luck = rng.random((2, len(payments.times)))
            delays = rng.integers(1, 20, len(payments.times))
            for row, event in enumerate(self._events(rng, people, payments, number)):
                stamped = self._stamped(event)
                yield stamped
                number += 1
                if luck[0, row] < bad:
                    yield _malformed(self._stamped(event), broken)
                    broken += 1
                if luck[1, row] < again:
                    retries.append((number + int(delays[row]), stamped))
                while retries and retries[0][0] <= number:
                    yield replace(retries.popleft()[1], repeated=True)

    def take(self, count: int) -> Iterator[TrafficEvent]:
        """The first ``count`` records."""
        for _, event in zip(range(count), self, strict=False):
            yield event

    def _stamped(self, event: TrafficEvent) -> TrafficEvent:
        if self._clock is None or event.record is None:
            return event
        now = self._clock.now()
        record = {**event.record, "event_time": _rfc3339(now)}
        return replace(event, time=now, record=record, payload=_json(record))

    def _payments(self, rng: np.random.Generator, people: Population) -> Iterator[_Payments]:
        """Honest payments chunk by chunk, with the fraud that falls into each chunk's time."""
        settings = self._settings
        per_second = settings.accounts * settings.payments_per_day / DAY
        share = settings.fraud_share / (1.0 - settings.bad_share - settings.duplicate_share)
        wanted = _CHUNK * share / (1.0 - share)
        pending: list[_Payments] = []
        work, now = 0.0, 0.0
        while True:
            gaps = rng.exponential(1.0 / per_second, _CHUNK)
            times = _by_daily_rhythm(work + np.cumsum(gaps))
            work += float(gaps.sum())
            for make, size in SCENARIOS:
                for _ in range(rng.poisson(wanted / len(SCENARIOS) / size)):
                    start = now + rng.random() * (float(times[-1]) - now)
                    pending.append(_columns(make(rng, people, start)))
            now = float(times[-1])
            waiting = _join([_honest(rng, people, times), *pending])
            due = waiting.times <= now
            pending = [waiting.take(~due)] if not due.all() else []
            ready = waiting.take(due)
            yield ready.take(np.argsort(ready.times, kind="stable"))

    def _events(
        self, rng: np.random.Generator, people: Population, payments: _Payments, first: int
    ) -> Iterator[TrafficEvent]:
        n = len(payments.times)
        home = people.home[payments.accounts]
        moved = (home + rng.integers(1, len(COUNTRIES), n)) % len(COUNTRIES)
        abroad = rng.random(n) < payments.abroad
        countries = np.array(COUNTRIES)[np.where(abroad, moved, home)].tolist()
        channels = _CHANNELS[rng.choice(3, n, p=[0.7, 0.25, 0.05])].tolist()
        amounts = np.round(np.clip(payments.amounts, 0.01, 25_000.0), 2).tolist()
        # Whole milliseconds: what most producers send.
        times = self._settings.start + np.round(payments.times * 1_000).astype(np.int64) * 1_000
        texts = np.datetime_as_string(times.astype("datetime64[us]"), unit="ms").tolist()
        accounts, merchants = payments.accounts.tolist(), payments.merchants.tolist()
        scenarios, times_list = payments.scenarios.tolist(), times.tolist()
        for i in range(n):
            key = f"account-{accounts[i]:06d}"
            record = {
                "transaction_id": f"t{self._settings.seed}-{first + i:09d}",
                "event_time": f"{texts[i]}Z",
                "account_id": key,
                "merchant_id": f"merchant-{merchants[i]:05d}",
                "amount": amounts[i],
                "country": countries[i],
                "channel": channels[i],
            }
            yield TrafficEvent(
                id=record["transaction_id"],
                key=key,
                payload=_json(record),
                record=record,
                time=times_list[i],
                label=scenarios[i] > 0,
                scenario=_NAMES[scenarios[i]],
            )


def _honest(rng: np.random.Generator, people: Population, times: Floats) -> _Payments:
    n = len(times)
    accounts = rng.choice(len(people.level), n, p=people.activity)
    habit = np.minimum(rng.geometric(0.4, n) - 1, FAVOURITES - 1)
    elsewhere = rng.choice(len(people.price), n, p=people.popularity)
    merchants = np.where(rng.random(n) < 0.88, people.favourites[accounts, habit], elsewhere)
    amounts = np.exp(people.level[accounts] + people.price[merchants] + rng.normal(0.0, 0.5, n))
    return _Payments(times, accounts, merchants, amounts, np.full(n, 0.01), np.zeros(n, dtype=np.int64))


def _by_daily_rhythm(work: Floats) -> Floats:
    """Seconds on the simulated clock at which ``work`` (seconds at the mean rate) is done.

    The rate is 1 - 0.8 cos(2 pi (t - 3h) / day): least at 3 o'clock, most at 15. Its integral over a table of
    minutes, inverted by interpolation.
    """
    minute = np.arange(1_441) * 60.0
    phase = 2.0 * np.pi / DAY
    done = minute - 0.8 / phase * (np.sin(phase * (minute - 10_800.0)) + np.sin(phase * 10_800.0))
    days, rest = np.divmod(work, DAY)
    result: Floats = days * DAY + np.interp(rest, done, minute)
    return result


def _rfc3339(micros: int) -> str:
    return from_micros(micros).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _malformed(event: TrafficEvent, kind: int) -> TrafficEvent:
    reject, payload, key = spoil(event.record or {}, event.key, kind)
    return TrafficEvent(
        id=f"{event.id}-bad",
        key=key,
        payload=payload,
        record=None,
        time=event.time,
        label=None,
        scenario="malformed",
        reject=reject,
    )
