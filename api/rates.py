"""How often somebody may ask: the generic cell rate algorithm (ITU-T I.371), one number for each who asks.

Every process counts for itself; with n replicas somebody may ask n times as often.
"""

from __future__ import annotations

from collections import OrderedDict

from domain.clock import Clock

__all__ = ["Rates"]

MAX_KNOWN = 10_000
"""Of those who asked last. Who asks too often is among them."""


class Rates:
    """Remembers for everybody when their allowance is whole again."""

    def __init__(self, clock: Clock, known: int = MAX_KNOWN) -> None:
        self._clock = clock
        self._known = known
        self._whole_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, who: str, rate: float, burst: int) -> float:
        """0 and one request less for ``who``; otherwise the seconds until there is one again.

        ``rate`` requests a second are given back, ``burst`` at most are at hand.
        """
        now = self._clock.monotonic()
        whole_at = max(self._whole_at.get(who, now), now)
        wait = whole_at - now - (burst - 1) / rate
        # an allowance that is whole but for a rounding error
        if wait > 1e-9:
            return wait
        self._whole_at[who] = whole_at + 1 / rate
        self._whole_at.move_to_end(who)
        if len(self._whole_at) > self._known:
            self._whole_at.popitem(last=False)
        return 0.0
