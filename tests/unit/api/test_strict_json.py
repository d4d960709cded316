"""Bodies that are almost JSON, or JSON to hurt: refused on every route that takes one, never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.access import routes_of
from api.strict_json import MAX_DEPTH, check
from domain.errors import EventRejected
from lifecycle.database import Database
from lifecycle.keys import new_key
from tests.unit.api.entering import Gate, bearer
from tests.unit.api.fakes import EVENT, World
from tests.unit.api.test_every_route import requests

LABEL = {"id": "t1", "label": 1, "source": "chargeback"}
KEY = {"name": "shop", "scopes": ["score"], "reason": "x", "rate": 5}
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a mark of byte order": b"\xef\xbb\xbf{}",
    "NaN": b'{"amount": NaN}',
    "Infinity": b'[{"label": -Infinity}]',
    "1e400": b'{"amount": 1e400, "rate": 1e400}',
    "many digits": b'{"amount": ' + b"9" * 3_000 + b"}",
    "a name twice": b'{"reason": "a", "reason": "b"}',
    "a name twice, spelled twice": b'{"reason": "a", "\\u0072eason": "b"}',
    "a name twice inside": b'[{"id": "t1", "id": "t2"}]',
    "half a surrogate pair": b'{"reason": "\\ud800", "name": "\\ud800", "id": "\\udfff"}',
    "half a pair as a name": b'{"\\ud800": 1}',
    "a raw surrogate": b'{"reason": "\xed\xa0\x80"}',
    "NUL": b'{"reason": "\\u0000", "id": "\\u0000"}',
    "deep arrays": b"[" * 4_000,
    "deep objects": b'{"a":' * 800,
    "deep and closed": b"[" * 2_000 + b"]" * 2_000,
    "an endless text": b'{"a": "' + b'\\"' * 1_900,
    "too much": b"{} {}",
    "a comment": b"{} // x",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_check_raises_nothing_else(body: bytes) -> None:
    with suppress(EventRejected):
        check(body)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"[" * 100_000, "nests"),
        (b"[" * 100_000 + b"]" * 100_000, "nests"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nests"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nests"),
        (b"[" + b"0," * 20_000 + b"0]", "more than 20,000 values"),
        (b"[" + b"[]," * 12_000 + b"[]]", "more than 20,000 values"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "twice"),
        (b'{"a": 1, "\\u0061": 2}', "twice"),
        (b'{"a": "\x01", "a": 2}', "twice"),
        (b'{"n": ' + b"9" * 100_000 + b', "n": 2}', "twice"),
        (b'{"a": 1', "not valid JSON"),
    ],
)
def test_what_hurts_is_named(body: bytes, what: str) -> None:
    with pytest.raises(EventRejected, match=what):
        check(body)


def test_brackets_in_texts_are_no_nesting() -> None:
    check(json.dumps({"a": '[{\\"' * 5_000, "b": "," * 50_000}).encode())
    check(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    check(b'[{"a": 1}, {"a": 1}]')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@settings(max_examples=25, deadline=None)
@given(VALUES)
def test_ordinary_json_passes(value: Any) -> None:
    check(json.dumps(value).encode())
    check(json.dumps(value, ensure_ascii=False).encode())


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.sqlite"
    with closing(Database(f"sqlite:///{path}")) as opened:
        yield opened


@pytest.mark.anyio
async def test_hostile_bodies_are_refused_by_every_route(world: World, database: Database) -> None:
    root = new_key()
    gate = Gate(world, root=root, database=lambda: database)
    headers = {**bearer(root), "Content-Type": "application/json"}
    tried = 0
    async with gate.client() as client:
        for route in routes_of(gate.app.routes):
            for method, path in requests(route):
                if method not in {"POST", "PUT", "PATCH"}:
                    continue
                tried += 1
                for name, body in HOSTILE.items():
                    answer = await client.request(method, path, content=body, headers=headers)
                    assert answer.status_code in {400, 404, 413, 422}, (path, name, answer.text)
                    assert answer.headers["content-type"] == "application/problem+json"
    assert tried >= 6
    assert world.gateway.seen == []
    assert world.labels.written == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "good", "changes"),
    [
        ("/v1/score", EVENT, {"amount": "12", "merchant_id": 7, "event_time": True}),
        ("/v1/labels", LABEL, {"label": "1", "id": 7, "known_at": "12"}),
        ("/v1/keys", KEY, {"rate": "12", "burst": 1.5, "expires_in": "12"}),
    ],
)
async def test_a_text_is_no_number_and_a_number_no_text(
    world: World, database: Database, path: str, good: dict[str, Any], changes: dict[str, Any]
) -> None:
    root = new_key()
    gate = Gate(world, root=root, database=lambda: database)
    async with gate.client() as client:
        for field, value in changes.items():
            answer = await client.post(path, json={**good, field: value}, headers=bearer(root))
            assert answer.status_code == 422, (field, answer.text)
        twice = json.dumps(good)[:-1] + ", " + json.dumps(good)[1:]
        headers = {**bearer(root), "Content-Type": "application/json"}
        answer = await client.post(path, content=twice, headers=headers)
        assert (answer.status_code, "twice" in answer.json()["detail"]) == (422, True)
        assert (await client.post(path, json=good, headers=bearer(root))).status_code < 300
