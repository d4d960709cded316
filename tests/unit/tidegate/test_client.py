"""The client against answers made up here: what it repeats, how long it waits, and what it raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from tests.contract.check_hot_verdicts import verdict
from tidegate.client import Client
from tidegate.client_errors import (
    Busy,
    ClientError,
    Conflict,
    Invalid,
    NotAllowed,
    NotFound,
    Refused,
    Unreachable,
)

Answer = httpx.Response | Exception
EVENT = {"transaction_id": "e1", "amount": 1.5}
VERDICT = msgspec.json.encode(verdict(1))


def problem(
    status: int, code: str = "x", headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    body = {"type": "urn:x", "title": "T", "status": status, "detail": "it is so", "code": code, **more}
    return httpx.Response(status, headers=headers, json=body)


class Server:
    """Gives one answer after the other, and remembers what it was asked and how long was waited."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.waited: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **more: Any) -> Client:
        transport = httpx.MockTransport(self)
        return Client(
            "http://127.0.0.1:1", transport=transport, sleep=self.waited.append, jitter=lambda: 1.0, **more
        )


def test_scoring_is_repeated_with_the_same_bytes_until_an_answer_comes() -> None:
    server = Server(
        httpx.ConnectError("no"), httpx.ReadError("half"), problem(503), httpx.Response(200, content=VERDICT)
    )
    with server.client(key="tg_a_b") as client:
        assert client.score(EVENT, deadline_ms=250).verdict == verdict(1)
    assert {request.content for request in server.asked} == {msgspec.json.encode(EVENT)}
    assert {request.headers["authorization"] for request in server.asked} == {"Bearer tg_a_b"}
    assert server.waited == [0.2, 0.4, 0.8]


def test_retry_after_is_obeyed_and_a_long_one_is_left_to_the_caller() -> None:
    server = Server(problem(429, headers={"retry-after": "7"}), httpx.Response(200, content=VERDICT))
    with server.client() as client:
        client.verdict("e1")
    assert server.waited == [7.0]
    server = Server(problem(429, "rate", headers={"retry-after": "3600"}))
    with server.client() as client, pytest.raises(Busy) as busy:
        client.verdict("e1")
    assert (busy.value.retry_after, server.waited) == (3600.0, [])


def test_attempts_end() -> None:
    server = Server(*[problem(503, "unavailable", remedy="later") for _ in range(3)])
    with server.client(attempts=3) as client, pytest.raises(Busy, match=r"unavailable.*Remedy: later"):
        client.score(EVENT)
    server = Server(*[httpx.ReadTimeout("slow") for _ in range(3)])
    with server.client(attempts=3) as client, pytest.raises(Unreachable, match="ReadTimeout"):
        client.score(EVENT)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.promote("m-1", reason="better"),
        lambda c: c.roll_back("m-1", reason="worse"),
        lambda c: c.call("PUT", "/v1/rules", {}),
    ],
)
@pytest.mark.parametrize("answer", [httpx.ReadError("half"), problem(503)])
def test_what_a_person_changes_is_sent_once(change: Callable[[Client], Any], answer: Answer) -> None:
    server = Server(answer)
    with server.client() as client, pytest.raises((Unreachable, Busy)):
        change(client)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (422, Invalid),
        (500, Refused),
    ],
)
def test_problems_are_exceptions_that_name_field_reason_and_remedy(status: int, kind: type[Refused]) -> None:
    answer = problem(status, "event-rejected", reason="out_of_range", field="amount", remedy="Send more.")
    server = Server(answer)
    with server.client() as client, pytest.raises(kind) as raised:
        client.score(EVENT)
    error = raised.value
    assert (error.status, error.code, error.reason, error.field) == (
        status, "event-rejected", "out_of_range", "amount",
    )  # fmt: skip
    assert str(error) == "event-rejected (amount) [out_of_range]: it is so Remedy: Send more."
    assert len(server.asked) == 1


def test_an_answer_that_is_not_the_apis_says_so() -> None:
    with Server(httpx.Response(502, text="<html>")).client() as client, pytest.raises(Refused, match="502"):
        client.verdict("e1")
    with (
        Server(httpx.Response(200, text="<html>")).client() as client,
        pytest.raises(ClientError, match="expects"),
    ):
        client.verdict("e1")


def test_a_key_goes_neither_to_strangers_in_plain_nor_after_a_redirect() -> None:
    with pytest.raises(ClientError, match="plain HTTP"):
        Client("http://fraud.example", key="tg_a_b")
    Client("https://fraud.example", key="tg_a_b").close()
    Client("http://fraud.example").close()
    server = Server(httpx.Response(307, headers={"location": "http://elsewhere.example/"}))
    with server.client(key="tg_a_b") as client, pytest.raises(ClientError):
        client.verdict("e1")
    assert len(server.asked) == 1


def test_pages_are_followed() -> None:
    one, two = verdict(1), verdict(2)
    server = Server(
        httpx.Response(200, content=msgspec.json.encode({"verdicts": [one], "next": "c"})),
        httpx.Response(200, content=msgspec.json.encode({"verdicts": [two], "next": None})),
    )
    with server.client() as client:
        assert list(client.verdicts(entity=("merchant_id", "m1"), page=1)) == [one, two]
    assert [r.url.params.get("cursor") for r in server.asked] == [None, "c"]


def test_a_verdict_is_waited_for_and_given_up() -> None:
    server = Server(problem(404), problem(404), httpx.Response(200, content=VERDICT))
    with server.client() as client:
        assert client.wait("a/b", 5.0) == verdict(1)
    assert server.asked[0].url.raw_path == b"/v1/verdicts/a%2Fb"
    with Server(problem(404), problem(404)).client() as client, pytest.raises(NotFound):
        client.wait("e1", 0.1)
