"""Who pays whom, and four ways in which thieves join in: the invented world behind the traffic generator.

Everything here is made up: no real person, account or shop. Amounts are in one unnamed currency. Each
scenario is a function from a seeded random generator, a population and a start to a :class:`Campaign`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["COUNTRIES", "SCENARIOS", "Campaign", "Population"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FAVOURITES = 6
"""Shops in which an account leaves most of its money."""

COUNTRIES = ("DE", "FR", "NL", "ES", "PL", "SE")

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Campaign:
    """Payments of one fraud, in order of time: seconds on the simulated clock, who, where, how much."""

    scenario: str
    times: Floats
    accounts: Ints
    merchants: Ints
    amounts: Floats
    abroad: float
    """Chance of each payment to come from another country than the account's own."""


@dataclass(frozen=True, slots=True)
class Population:
    """Accounts and shops with their habits.

    activity    float64[accounts], how often each account pays, adding up to 1
    level       float64[accounts], logarithm of the account's typical amount
    favourites  int64[accounts, FAVOURITES], the shops it goes to, most visited first
    popularity  float64[merchants], how many visitors each shop gets, adding up to 1
    price       float64[merchants], logarithm of how dear the shop is compared with the average
    home        int64[accounts], the country of the account, an index into COUNTRIES
    """

    activity: Floats
    level: Floats
    favourites: Ints
    popularity: Floats
    price: Floats
    home: Ints

    @classmethod
    def make(cls, rng: np.random.Generator, accounts: int, merchants: int) -> Population:
        """Draw a population; a few accounts and shops are busy, most are not."""
        activity = rng.gamma(1.5, size=accounts)
        popularity: Floats = 1.0 / (np.arange(merchants, dtype=np.float64) + 5.0)
        popularity /= popularity.sum()
        return cls(
            activity=activity / activity.sum(),
            level=rng.normal(3.2, 0.6, accounts),
            favourites=rng.choice(merchants, (accounts, FAVOURITES), p=popularity),
            popularity=popularity,
            price=rng.normal(0.0, 0.35, merchants),
            home=rng.choice(len(COUNTRIES), accounts, p=[0.5, 0.2, 0.1, 0.08, 0.06, 0.06]),
        )

    def strange_shops(self, rng: np.random.Generator, account: int, count: int) -> Ints:
        """Shops where ``account`` is not a regular."""
        candidates = rng.integers(0, len(self.price), 4 * count + FAVOURITES)
        strange = candidates[~np.isin(candidates, self.favourites[account])]
        return np.resize(strange if len(strange) else candidates, count)


def card_testing(rng: np.random.Generator, people: Population, start: float) -> Campaign:
    """A list of stolen accounts is tried out at one shop with tiny amounts, within minutes."""
    count = int(rng.integers(15, 40))
    accounts = rng.choice(len(people.level), count)
    merchant = int(rng.integers(0, len(people.price)))
    return Campaign(
        "card_testing",
        start + np.sort(rng.random(count)) * 10 * MINUTE,
        accounts,
        np.full(count, merchant),
        rng.uniform(0.5, 2.5, count),
        abroad=0.8,
    )


def account_takeover(rng: np.random.Generator, people: Population, start: float) -> Campaign:
    """Somebody else holds the account: many times the usual amount, at shops it never saw, in a few hours."""
    count = int(rng.integers(4, 12))
    account = int(rng.integers(0, len(people.level)))
    return Campaign(
        "account_takeover",
        start + np.sort(rng.random(count)) * 3 * HOUR,
        np.full(count, account),
        people.strange_shops(rng, account, count),
        np.exp(people.level[account]) * rng.uniform(5.0, 15.0, count),
        abroad=0.5,
    )


def compromised_merchant(rng: np.random.Generator, people: Population, start: float) -> Campaign:
    """A shop's terminal is in wrong hands for a day: its regulars are charged again, and more."""
    merchant = int(rng.choice(len(people.popularity), p=people.popularity))
    regulars = np.flatnonzero((people.favourites == merchant).any(axis=1))
    count = int(rng.integers(20, 60))
    accounts = rng.choice(regulars if len(regulars) else np.arange(len(people.level)), count)
    return Campaign(
        "compromised_merchant",
        start + np.sort(rng.random(count)) * DAY,
        accounts,
        np.full(count, merchant),
        np.exp(people.level[accounts] + people.price[merchant]) * rng.uniform(2.0, 4.0, count),
        abroad=0.0,
    )


def slow_drain(rng: np.random.Generator, people: Population, start: float) -> Campaign:
    """The patient thief: a little above the usual amount, at new shops, over days."""
    count = int(rng.integers(15, 30))
    account = int(rng.integers(0, len(people.level)))
    return Campaign(
        "slow_drain",
        start + np.sort(rng.random(count)) * 4 * DAY,
        np.full(count, account),
        people.strange_shops(rng, account, count),
        np.exp(people.level[account]) * rng.uniform(1.5, 2.5, count),
        abroad=0.1,
    )


SCENARIOS: tuple[tuple[Callable[[np.random.Generator, Population, float], Campaign], float], ...] = (
    (card_testing, 27.0),
    (account_takeover, 7.5),
    (compromised_merchant, 39.5),
    (slow_drain, 22.0),
)
"""The scenarios with their mean number of payments; each gets the same share of fraudulent payments."""
