"""Settings of the identity provider, and reading its keys from a file and over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from api.tokens import OidcTokens
from domain.clock import ManualClock
from domain.errors import Fatal, Retriable
from tidegate import oidc
from tidegate.oidc import oidc_tokens
from tidegate.settings import Settings

ISSUER = {"oidc_issuer": "https://idp.example", "oidc_audience": "tidegate"}


def made(**settings: Any) -> OidcTokens | None:
    return oidc_tokens(Settings(**settings), "payments", ManualClock())


def test_settings_that_go_together(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text('{"keys": []}')
    assert made() is None
    for where in (str(keys), f"file://{keys}", "https://idp.example/jwks", "http://127.0.0.1:1/jwks"):
        assert made(**ISSUER, oidc_jwks=where) is not None
    for wrong, what in (
        ({**ISSUER}, "TIDEGATE_OIDC_JWKS"),
        ({**ISSUER, "oidc_audience": None, "oidc_jwks": str(keys)}, "TIDEGATE_OIDC_AUDIENCE"),
        ({**ISSUER, "oidc_jwks": str(keys) + "x"}, "no file"),
        ({**ISSUER, "oidc_jwks": "http://idp.example/jwks"}, "not encrypted"),
        ({**ISSUER, "oidc_jwks": str(keys), "oidc_algorithms": "HS256"}, "HS256"),
        ({**ISSUER, "oidc_jwks": str(keys), "oidc_roles": {"x": "king"}}, "king"),
    ):
        with pytest.raises(Fatal, match=what) as error:
            made(**wrong)
        assert error.value.remedy


class _Provider(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/jwks")
            self.end_headers()
            return
        bodies = {"/jwks": b'{"keys": [1]}', "/large": b" " * (oidc.MAX_JWKS + 1), "/deep": b"[" * 100_000}
        body = bodies.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Provider) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_keys_are_read_over_http_and_anything_odd_is_for_later(provider: str, tmp_path: Path) -> None:
    assert oidc._source(f"{provider}/jwks")() == {"keys": [1]}
    for path in ("/moved", "/absent", "/large", "/deep"):
        with pytest.raises(Retriable) as error:
            oidc._source(provider + path)()
        assert error.value.remedy
    file = tmp_path / "jwks.json"
    file.write_text('{"keys": [2]}')
    load = oidc._source(str(file))
    assert load() == {"keys": [2]}
    file.unlink()
    with pytest.raises(Retriable):
        load()
