"""Attempts against a real HTTP server."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from alerts.guard import AddressGuard, parse_networks
from alerts.sender import Outcome, Sender
from domain.clock import SystemClock
from tests.receiver import receiving

pytestmark = pytest.mark.anyio

HERE = AddressGuard(parse_networks("127.0.0.1"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Names:
    """A name server: answers in turn, the last for ever; counts."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def send(
    url: str,
    guard: AddressGuard = HERE,
    names: Names | None = None,
    seconds: float = 30.0,
    trust: ssl.SSLContext | None = None,
) -> Outcome:
    resolve = names or Names(["127.0.0.1"])
    async with Sender(
        guard, SystemClock(), user_agent="Tidegate/test", seconds=seconds, resolve=resolve, trust=trust
    ) as sender:
        return await sender.send(url, {"webhook-id": "msg_1"}, b'{"a":1}')


async def test_a_message_arrives_under_its_name_at_the_address_that_was_resolved() -> None:
    names = Names(["127.0.0.1"])
    with receiving() as receiver:
        outcome = await send(receiver.url("/hook?x=1", host="hooks.example"), names=names)
    assert (outcome.status, outcome.error) == (204, None)
    assert names.asked == [("hooks.example", receiver.port)]
    (got,) = receiver.received
    assert (got.path, got.body) == ("/hook?x=1", b'{"a":1}')
    assert got.headers["host"] == f"hooks.example:{receiver.port}"
    assert got.headers["webhook-id"] == "msg_1"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"] == "Tidegate/test"


async def test_an_address_within_is_refused_before_anything_is_sent() -> None:
    with receiving() as receiver:
        for guard, names in (
            (AddressGuard(), Names(["127.0.0.1"])),
            (HERE, Names(["127.0.0.1", "10.0.0.1"])),
        ):
            outcome = await send(receiver.url(host="hooks.example"), guard, names)
            assert (outcome.status, outcome.error) == (None, "private_address")
        assert receiver.received == []


async def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    # resolved once an attempt: the second answer of the first attempt is never asked for
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    with receiving() as receiver:
        assert (await send(receiver.url(host="rebinding.example"), names=names)).status == 204
        assert len(names.asked) == 1
        assert (await send(receiver.url(host="rebinding.example"), names=names)).error == "private_address"


async def test_the_system_resolver_knows_every_way_to_write_loopback() -> None:
    async with Sender(AddressGuard(), SystemClock(), user_agent="t") as sender:
        for host in (
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ):
            outcome = await sender.send(f"https://{host}:1/", {}, b"{}")
            assert outcome.error in {"private_address", "no_address", "bad_url"}, host


async def test_a_redirect_is_a_failure_and_nobody_follows_it() -> None:
    with receiving() as receiver:
        receiver.answer = lambda _: (307, {"location": "/elsewhere"}, b"")
        outcome = await send(receiver.url())
    assert (outcome.status, outcome.error) == (307, "redirect")
    assert [got.path for got in receiver.received] == ["/hook"]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"retry-after": "9"}, Outcome(200, None, 0.0)),
        (410, {}, Outcome(410, "status_410", 0.0, gone=True)),
        (500, {}, Outcome(500, "status_500", 0.0)),
        (500, {"retry-after": "9"}, Outcome(500, "status_500", 0.0, retry_after=9.0)),
        (429, {"retry-after": "9"}, Outcome(429, "status_429", 0.0, retry_after=9.0, slow_down=True)),
        (503, {"retry-after": "later"}, Outcome(503, "status_503", 0.0)),
    ],
)
async def test_what_answers_mean(status: int, headers: dict[str, str], expected: Outcome) -> None:
    with receiving() as receiver:
        receiver.answer = lambda _: (status, headers, b"body")
        found = await send(receiver.url())
    assert Outcome(found.status, found.error, 0.0, found.retry_after, found.slow_down, found.gone) == expected


async def test_an_endless_answer_is_not_read() -> None:
    with receiving() as receiver:
        receiver.answer = lambda _: (200, {"content-length": str(10**12)}, b"x" * 100_000)
        assert (await send(receiver.url())).error is None


async def test_who_never_comes_to_an_end_is_given_up() -> None:
    left = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def drip() -> None:
            # a byte now and then keeps every time-out between two reads quiet
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        dripping = asyncio.create_task(drip())
        await reader.read()
        dripping.cancel()
        writer.close()
        left.set()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    outcome = await send(f"http://127.0.0.1:{port}/", seconds=0.3)
    assert (outcome.status, outcome.error) == (None, "timeout")
    await left.wait()
    server.close()
    await server.wait_closed()


async def test_nobody_there() -> None:
    with receiving() as receiver:
        url = receiver.url()
    assert (await send(url)).error == "connect"


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        assert (await send(receiver.url())).status == 204
        assert (len(proxy.received), len(receiver.received)) == (0, 1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of hooks.example with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_certificates_are_checked_for_the_name_though_the_connection_goes_to_an_address(
    certificate: Path,
) -> None:
    asked: list[str | None] = []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    trust = ssl.create_default_context(cafile=str(certificate))
    with receiving(server) as receiver:

        async def outcome(host: str, trust: ssl.SSLContext | None = trust) -> Outcome:
            return await send(receiver.url(host=host, scheme="https"), trust=trust)

        assert (await outcome("hooks.example")).status == 204
        assert asked == ["hooks.example"]
        assert (await outcome("other.example")).error == "tls"
        assert (await outcome("hooks.example", None)).error == "tls"
    assert len(receiver.received) == 1
