"""Signing after Standard Webhooks 1.0 (https://www.standardwebhooks.com): the headers of one attempt."""

from __future__ import annotations

from collections.abc import Sequence

from standardwebhooks import Webhook

from domain.clock import from_micros

__all__ = ["signed_headers"]


def signed_headers(secrets: Sequence[bytes], message_id: str, now: int, body: bytes) -> dict[str, str]:
    """``webhook-id``, ``webhook-timestamp`` (whole seconds of ``now``, UTC microseconds) and ``webhook-signature``.

    One signature for each of ``secrets`` (raw bytes, at least one), with spaces between: while a secret is being
    rotated a receiver finds one that it can check. ``body`` is UTF-8. Raises ValueError without a secret, or for an
    id with a full stop, which is what separates the parts that are signed.
    """
    if not secrets:
        raise ValueError("a message can not be signed without a secret")
    if "." in message_id:
        raise ValueError("an id of a message must not contain a full stop")
    moment, text = from_micros(now), body.decode()
    signatures = (Webhook(secret).sign(message_id, moment, text) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now // 1_000_000),
        "webhook-signature": " ".join(signatures),
    }
