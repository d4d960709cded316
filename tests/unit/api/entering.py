"""An API that asks for keys, for tests of who gets in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import httpx

from api.access import Scope
from api.app import create_app
from api.key_ring import KeyRing
from api.keys import KeyAccess, Rate, RootKey, Tokens
from lifecycle.database import Database
from lifecycle.keys import ApiKey, StoredKey, fingerprint, key_id_of, new_key
from tests.unit.api.fakes import World

__all__ = ["Gate", "bearer"]


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


class Gate:
    """The application over keys in a list; ``error`` is what reading them raises."""

    def __init__(
        self,
        world: World,
        *,
        root: str | None = None,
        tokens: Tokens | None = None,
        database: Callable[[], Database] | None = None,
        rate: Rate | None = None,
        known_seconds: float = 60.0,
    ) -> None:
        self.clock = world.clock
        self.keys: list[StoredKey] = []
        self.error: Exception | None = None
        self.reads = 0
        self.ring = KeyRing(self._load, world.clock, answer_seconds=60.0, known_seconds=known_seconds)
        self.access = KeyAccess(
            self.ring,
            world.clock,
            world.registry,
            root=None if root is None else RootKey(root),
            tokens=tokens,
            rate=Rate() if rate is None else rate,
        )
        deps = replace(world.deps, access=self.access, keys_changed=self.ring.forget, database=database)
        self.app = create_app(deps)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://test")

    def key(self, scopes: Iterable[str] = (Scope.SCORE,), **more: Any) -> str:
        """A key of one who may do ``scopes``."""
        text = new_key()
        made = ApiKey(
            id=key_id_of(text) or "", name="shop", scopes=tuple(scopes), created_at=self.clock.now(),
            created_by="ana", **more,
        )  # fmt: skip
        self.keys.append(StoredKey(made, fingerprint(text)))
        return text

    def _load(self) -> list[StoredKey]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return [stored for stored in self.keys if stored.key.live(self.clock.now())]
