"""What an endpoint may be, and how fast it may be sent to: pure rules."""

from __future__ import annotations

import math
from urllib.parse import urlsplit

from domain.verdict import DecisionName
from lifecycle.webhooks import BadEndpoint, EndpointSettings

__all__ = ["MAX_ENDPOINTS", "MAX_SECRETS", "allowed_now", "check_settings", "paced", "shown_url"]

MAX_ENDPOINTS = 50
"""Of a pipeline: every alert is matched with every one of them."""
MAX_SECRETS = 5
"""Live ones of an endpoint: each adds a signature to every message."""
_MAX_URL = 2_000
_MAX_TEXT = 200
_MAX_REASONS = 50
_LEAST_RATE, _MOST_RATE = 0.001, 1_000.0


def check_settings(settings: EndpointSettings) -> None:
    """Raises BadEndpoint, which never repeats the URL: its path may be a secret."""
    _check_url(settings.url)
    text = settings.description
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise BadEndpoint(
            "description", f"must have at most {_MAX_TEXT} printable characters", remedy="shorten it"
        )
    rate = settings.rate
    if rate is not None and not _LEAST_RATE <= rate <= _MOST_RATE:
        raise BadEndpoint(
            "rate",
            f"must be between {_LEAST_RATE:g} and {_MOST_RATE:g} deliveries a second",
            remedy="leave it out for no limit",
        )
    wanted = settings.filter
    if not wanted.decisions or DecisionName.ALLOW in wanted.decisions:
        raise BadEndpoint(
            "filter.decisions", "must be review, block, or both", remedy="what is allowed raises no alert"
        )
    if wanted.min_score is not None and not 0.0 <= wanted.min_score <= 1.0:
        raise BadEndpoint("filter.min_score", "must be between 0 and 1", remedy="scores are")
    if len(wanted.reasons) > _MAX_REASONS or any(
        not code or len(code) > _MAX_TEXT or not code.isprintable() for code in wanted.reasons
    ):
        raise BadEndpoint(
            "filter.reasons",
            f"must be at most {_MAX_REASONS} codes of at most {_MAX_TEXT} printable characters",
            remedy="take codes as they are in alerts",
        )


def _check_url(url: str) -> None:
    def bad(why: str) -> BadEndpoint:
        return BadEndpoint("url", why, remedy="write https://host/path, without user, password or #fragment")

    if not 0 < len(url) <= _MAX_URL:
        raise bad(f"must have 1 to {_MAX_URL:,} characters")
    if not url.isascii() or not url.isprintable() or any(c in ' \\"<>^`{|}' for c in url):
        raise bad("must be plain ASCII with everything else percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise bad("is no URL") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise bad("must be an https URL with a host (http: for private networks that are allowed)")
    if "@" in parts.netloc or "#" in url:
        raise bad("must have neither user nor password nor fragment")
    if port == 0:
        raise bad("has an impossible port")


def shown_url(url: str) -> str:
    """``url`` for logs and the audit: without what may be a token in its path or query.

    >>> shown_url("https://hooks.example:8443/services/T0/B0/XXXX?key=1")
    'https://hooks.example:8443/…'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def allowed_now(paced_until: int, now: int, rate: float | None) -> int | None:
    """How many deliveries may begin ``now``; None: any number.

    A generic cell rate algorithm (ITU-T I.371): ``rate`` a second in the long run, up to a second's worth (one at
    least) at once. ``paced_until`` is what :func:`paced` gave last, 0 at first.
    """
    if rate is None:
        return None
    interval = 1e6 / rate
    burst = max(1, math.floor(rate))
    ahead = max(paced_until - now, 0)
    return max(0, math.floor(((burst - 1) * interval - ahead) / interval + 1e-9) + 1)


def paced(paced_until: int, now: int, rate: float, count: int) -> int:
    """``paced_until`` after ``count`` deliveries have begun ``now``."""
    return max(paced_until, now) + math.ceil(count * 1e6 / rate)
