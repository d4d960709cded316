"""The socket that the API listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from api.server import listening
from domain.errors import ServiceMissing

pytestmark = pytest.mark.anyio


async def test_answers_do_not_wait_for_acknowledgements() -> None:
    delayed = asyncio.get_running_loop().create_future()

    def came(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = writer.get_extra_info("socket")
        delayed.set_result(not there.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = listening("127.0.0.1", 0)
    async with await asyncio.start_server(came, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert not await delayed
        writer.close()
        await writer.wait_closed()


async def test_a_port_that_is_taken_names_the_remedy() -> None:
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ServiceMissing, match="choose another port"):
            listening("127.0.0.1", taken.getsockname()[1])
