"""The gateway without a Kafka behind it, and replies that say no."""

from __future__ import annotations

import asyncio
import socket

import pytest

from domain.errors import EventRejected, Reject
from stream.dead_letters import reply_body
from stream.gateway import GatewayUnavailableError, KafkaScoreGateway, _rejection


def test_without_kafka_a_request_is_refused_in_time_and_closing_works() -> None:
    async def scenario(port: int) -> None:
        conf = {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}
        gateway = KafkaScoreGateway(conf, "payments", "api-1")
        await gateway.start()
        with pytest.raises(GatewayUnavailableError, match="did not confirm"):
            await gateway.submit(b"{}", b"k", 0.05)
        await asyncio.wait_for(gateway.close(), 30)

    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        asyncio.run(scenario(bound_but_not_listening.getsockname()[1]))


def test_too_many_waiting_requests_are_refused_at_once() -> None:
    async def scenario() -> None:
        gateway = KafkaScoreGateway({}, "payments", "api-1", max_waiting=1)
        gateway._loop = asyncio.get_running_loop()
        gateway._ready = asyncio.Event()
        first = asyncio.create_task(gateway.submit(b"{}", b"k", 0.2))
        await asyncio.sleep(0)
        with pytest.raises(GatewayUnavailableError, match="1 requests wait already"):
            await gateway.submit(b"{}", b"k", 30)
        with pytest.raises(GatewayUnavailableError):
            await first

    asyncio.run(scenario())


def test_a_reply_of_the_worker_that_says_no() -> None:
    body, _ = reply_body(EventRejected(Reject.WRONG_KEY, "account_id", "no", remedy="do"))
    found = _rejection(body)
    assert isinstance(found, EventRejected)
    assert (found.reason, found.field, found.detail, found.remedy) == (
        Reject.WRONG_KEY,
        "account_id",
        "no",
        "do",
    )
    assert isinstance(_rejection(b"{}"), GatewayUnavailableError)
    assert isinstance(_rejection(b'{"reason":"invented"}'), GatewayUnavailableError)
