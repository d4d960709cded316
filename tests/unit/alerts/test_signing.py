"""Signatures as receivers check them."""

from __future__ import annotations

import base64

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from alerts.signing import signed_headers
from domain.clock import SystemClock

OLD, NEW = b"o" * 32, b"n" * 32
BODY = '{"type":"alert","data":{"ä":1}}'.encode()


def test_the_reference_vector_of_the_specification() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, test of the reference library
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(
        [secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330_000_000, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_a_receiver_with_any_live_secret_accepts_and_others_refuse() -> None:
    headers = signed_headers([NEW, OLD], "msg_1", SystemClock().now(), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(BODY, headers) == {"type": "alert", "data": {"ä": 1}}
    with pytest.raises(WebhookVerificationError):
        Webhook(b"x" * 32).verify(BODY, headers)
    for changed in (
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(OLD).verify(BODY, headers | changed)


def test_without_a_secret_nothing_is_signed() -> None:
    with pytest.raises(ValueError, match="secret"):
        signed_headers([], "msg_1", 0, BODY)
    with pytest.raises(ValueError, match="full stop"):
        signed_headers([OLD], "msg.1", 0, BODY)
