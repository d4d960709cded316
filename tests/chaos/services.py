"""A broker that can be reached around a proxy and refuse writes, and the servers that scenarios break."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.chaos.proxy import KafkaProxy
from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.process import free_port
from tidegate.embedded.redis import EmbeddedRedis

__all__ = ["ChaosKafka", "Services"]

_MORE = """\
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
"""
# Without any ACL everybody may do everything, so the authorizer changes nothing until a scenario denies something.


class ChaosKafka(EmbeddedKafka):
    """The product's broker, settings and all, with a second listener that says it is at the proxy's address."""

    def __init__(self, directory: Path, proxy: KafkaProxy) -> None:
        super().__init__(directory)
        self._proxy = proxy

    def _choose_ports(self) -> None:
        known = self._kept.exists()
        super()._choose_ports()
        if known:
            return
        inner = free_port()
        self._proxy.target = ("127.0.0.1", inner)
        ours = _MORE.format(
            port=self.port, controller=self._controller_port, inner=inner, proxy=self._proxy.port
        )
        replaced = {line.partition("=")[0] for line in ours.splitlines()}
        lines = self._properties.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.partition("=")[0] not in replaced]
        self._properties.write_text("".join(kept) + ours)


@dataclass
class Services:
    """Servers shared by scenarios that leave them whole; a scenario that breaks one gets its own."""

    directory: Path
    kafka: ChaosKafka
    redis: EmbeddedRedis
    proxy: KafkaProxy
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start a proxy, a broker behind it and beside it, and an append-only Redis."""
        with ExitStack() as stack:
            proxy = stack.enter_context(KafkaProxy())
            kafka = stack.enter_context(ChaosKafka(directory / "kafka", proxy))
            redis = stack.enter_context(EmbeddedRedis(directory / "redis", appendonly=True))
            return cls(directory, kafka, redis, proxy, stack.pop_all())

    def close(self) -> None:
        """End what was started here."""
        self._stack.close()

    def own(self, directory: Path, *, kafka: bool, redis: bool) -> Services:
        """These services, with fresh ones for those named; close the answer."""
        with ExitStack() as stack:
            enter: Callable[..., object] = stack.enter_context
            used_proxy, used_kafka, used_redis = self.proxy, self.kafka, self.redis
            if kafka:
                used_proxy = KafkaProxy()
                used_kafka = ChaosKafka(directory / "kafka", used_proxy)
                enter(used_proxy)
                enter(used_kafka)
            if redis:
                used_redis = EmbeddedRedis(directory / "redis", appendonly=True)
                enter(used_redis)
            return Services(directory, used_kafka, used_redis, used_proxy, stack.pop_all())
