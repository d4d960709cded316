"""What an endpoint may be, pacing, and the box of secrets."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import Fatal
from domain.verdict import DecisionName
from lifecycle.webhook_rules import allowed_now, check_settings, paced
from lifecycle.webhook_secrets import SecretBox, new_key
from lifecycle.webhooks import BadEndpoint, EndpointSettings, WebhookFilter

NOW = 1_700_000_000_000_000


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/a/b?c=d%20e",
        "https://hooks.example:8443",
        "http://10.0.0.1/x",
        "https://[2606:4700::1111]/",
        "https://xn--bcher-kva.example/",
    ],
)
def test_urls_that_pass(url: str) -> None:
    check_settings(EndpointSettings(url=url))


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example", "//hooks.example", "ftp://hooks.example", "file:///etc/passwd", "https://", "https:///x",
        "https://user@hooks.example", "https://user:t0psecret@hooks.example", "https://hooks.example/#t0psecret",
        "https://hooks.example:99999/", "https://hooks.example:0/", "https://hooks.example:x/", "https://[::1/",
        "https://hooks.example/a b", "https://hooks.example/\nx", "https://hooks.example\\@evil/", "https://bücher.example",
        "https://hooks.example/" + "t0psecret" * 300, "gopher://hooks.example", "\x00",
    ],
)  # fmt: skip
def test_urls_that_do_not_and_are_not_repeated(url: str) -> None:
    with pytest.raises(BadEndpoint) as refused:
        check_settings(EndpointSettings(url=url))
    assert refused.value.field == "url"
    assert "t0psecret" not in str(refused.value)


@given(st.text(max_size=80))
@settings(deadline=None)
def test_no_url_breaks_the_check(url: str) -> None:
    with suppress(BadEndpoint):
        check_settings(EndpointSettings(url=url))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"description": "x" * 201}, "description"),
        ({"description": "a\nb"}, "description"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 1e9}, "rate"),
        ({"filter": WebhookFilter(decisions=())}, "filter.decisions"),
        ({"filter": WebhookFilter(decisions=(DecisionName.ALLOW,))}, "filter.decisions"),
        ({"filter": WebhookFilter(min_score=1.5)}, "filter.min_score"),
        ({"filter": WebhookFilter(min_score=float("nan"))}, "filter.min_score"),
        ({"filter": WebhookFilter(reasons=("",))}, "filter.reasons"),
        ({"filter": WebhookFilter(reasons=("x",) * 51)}, "filter.reasons"),
    ],
)
def test_what_else_is_refused(changes: dict[str, object], field: str) -> None:
    good = EndpointSettings(url="https://hooks.example")
    with pytest.raises(BadEndpoint) as refused:
        check_settings(msgspec.structs.replace(good, **changes))
    assert refused.value.field == field


@given(
    st.floats(0.01, 200.0),
    st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 500)), min_size=1, max_size=40),
)
@settings(deadline=None)
def test_pacing_never_exceeds_its_rate_over_any_stretch(rate: float, asks: list[tuple[int, int]]) -> None:
    until, now, begun = 0, NOW, []
    for later, wanted in asks:
        now += later
        allowed = allowed_now(until, now, rate)
        assert allowed is not None
        count = min(allowed, wanted)
        if count:
            until = paced(until, now, rate, count)
        begun += [now] * count
    for first in range(0, len(begun), 7):
        for last in range(first, len(begun), 11):
            seconds = (begun[last] - begun[first]) / 1e6
            assert last - first + 1 <= rate * seconds + max(1.0, rate) + 1e-6


def test_pacing_lets_what_was_saved_up_begin_at_once_but_no_more() -> None:
    assert allowed_now(0, NOW, 5.0) == 5
    assert allowed_now(0, NOW, 0.1) == 1
    assert allowed_now(paced(0, NOW, 0.1, 1), NOW + 9_999_999, 0.1) == 0
    assert allowed_now(paced(0, NOW, 0.1, 1), NOW + 10_000_000, 0.1) == 1
    assert allowed_now(0, NOW, None) is None


def test_a_sealed_secret_opens_in_its_place_only() -> None:
    box = SecretBox.parse(new_key())
    secret = box.new_secret()
    sealed = box.seal(secret, "payments/we_1/ws_1")
    assert box.open(sealed, "payments/we_1/ws_1") == secret
    assert box.seal(secret, "payments/we_1/ws_1") != sealed
    for other, place, what in (
        (box, "payments/we_2/ws_1", sealed),
        (SecretBox.parse(new_key()), "payments/we_1/ws_1", sealed),
        (box, "payments/we_1/ws_1", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (box, "payments/we_1/ws_1", b""),
    ):
        with pytest.raises(Fatal, match="another key"):
            other.open(what, place)


def test_a_key_that_is_none_is_not_repeated() -> None:
    for text in ("t0psecret", "ab" * 31, ""):
        with pytest.raises(Fatal) as refused:
            SecretBox.parse(text)
        assert "t0psecret" not in str(refused.value)
