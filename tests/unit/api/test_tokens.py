"""Tokens of an identity provider: which are believed, whose keys, and what roles mean."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from api.access import EVERYTHING, ROLES, Scope
from api.tokens import REFRESH_SECONDS, OidcTokens, TokenRules
from domain.clock import ManualClock
from domain.errors import Fatal, Retriable
from tests.unit.api.entering import Gate, bearer
from tests.unit.api.fakes import EVENT, World

pytestmark = pytest.mark.anyio
NOW = 1_700_000_000
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def claims(**more: Any) -> dict[str, Any]:
    said = {
        "iss": "https://idp.example", "aud": "tidegate", "sub": "anna", "iat": NOW, "exp": NOW + 600,
        "roles": ["payments:analyst"],
    }  # fmt: skip
    return {name: value for name, value in {**said, **more}.items() if value is not ...}


def token(key: Any = EC, algorithm: str = "ES256", kid: str | None = "e1", **more: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


class Provider:
    """Its JWKS, and how often it was asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.document: Any = {"keys": list(keys)}
        self.error: Exception | None = None
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.document


def rules(**more: Any) -> TokenRules:
    given: dict[str, Any] = {
        "issuer": "https://idp.example", "audience": "tidegate", "algorithms": ["ES256", "RS256"],
        "claim": ["roles"], "roles": {}, "pipeline": "payments",
    }  # fmt: skip
    return TokenRules(**{**given, **more})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW * 1_000_000)


@pytest.fixture
def provider() -> Provider:
    return Provider(jwk(EC, "e1"), jwk(RSA, "r1", alg="RS256"))


async def test_tokens_of_the_provider_are_believed(clock: ManualClock, provider: Provider) -> None:
    tokens = OidcTokens(rules(), provider, clock)
    for one in (token(), token(RSA, "RS256", "r1"), token(aud=["other", "tidegate"])):
        found = await tokens.principal(one)
        assert found is not None
        assert (found.name, found.scopes) == ("user anna", ROLES["analyst"])
    assert provider.asked == 1


def unsigned(algorithm: str) -> str:
    def part(value: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': algorithm, 'kid': 'e1', 'typ': 'JWT'})}.{part(claims())}."


def signed_with_the_public_key() -> str:
    """The old confusion of algorithms: HMAC under what everybody may read."""
    public = RSAAlgorithm.to_jwk(RSA.public_key()).encode()
    head = unsigned("HS256").rpartition(".")[0]
    mac = hmac.new(public, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


FORGED = {
    "nothing": "",
    "no token": "x",
    "dots": "..",
    "not ASCII": "\xff.\xff.\xff",
    "of an unknown key": token(OTHER, kid="e2"),
    "signed by another": token(OTHER, kid="e1"),
    "with a key of another kind": token(RSA, "RS256", "e1"),
    "not signed": unsigned("none"),
    "not signed, oddly": unsigned("nOnE"),
    "not signed, but says so": unsigned("ES256"),
    "by HMAC under the public key": signed_with_the_public_key(),
    "of another algorithm": token(RSA, "RS512", "r1"),
    "without the key's id": token(kid=None),
    "of another issuer": token(iss="https://evil.example"),
    "of no issuer": token(iss=...),
    "for another audience": token(aud="other"),
    "for no audience": token(aud=...),
    "of nobody": token(sub=...),
    "of a strange name": token(sub="a\nb"),
    "of a long name": token(sub="a" * 201),
    "expired": token(exp=NOW - 31),
    "without an end": token(exp=...),
    "endless": token(exp=1e400),
    "ending true": token(exp=True),
    "ending in words": token(exp="never"),
    "not yet valid": token(nbf=NOW + 31),
    "of the future": token(iat=NOW + 31),
    "cut": token()[:-5],
    "deep": base64.urlsafe_b64encode(b"[" * 3_000).decode() + ".e30.x",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_tokens_that_are_not_believed(clock: ManualClock, provider: Provider, forged: str) -> None:
    tokens = OidcTokens(rules(), provider, clock)
    assert await tokens.principal(forged) is None


async def test_symmetric_and_encryption_keys_of_a_jwks_are_not_used(clock: ManualClock) -> None:
    secret = base64.urlsafe_b64encode(b"k" * 32).rstrip(b"=").decode()
    provider = Provider(
        {"kty": "oct", "k": secret, "kid": "s", "alg": "HS256"}, jwk(OTHER, "e", use="enc"), {"kty": "?"},
        jwk(EC, "e1"),
    )  # fmt: skip
    tokens = OidcTokens(rules(), provider, clock)
    assert await tokens.principal(token(b"k" * 32, "HS256", "s")) is None
    assert await tokens.principal(token(OTHER, kid="e")) is None
    # the only usable key needs no id
    assert await tokens.principal(token(kid=None)) is not None


@pytest.mark.parametrize(
    ("algorithms", "roles", "what"),
    [
        (["HS256"], {}, "HS256"),
        (["none"], {}, "none"),
        ([], {}, "none"),
        (["ES256"], {"boss": "king"}, "king"),
    ],
)
def test_rules_that_would_open_the_door_are_refused(
    algorithms: list[str], roles: dict[str, str], what: str
) -> None:
    with pytest.raises(Fatal, match=what):
        rules(algorithms=algorithms, roles=roles)


async def test_roles_are_of_one_pipeline_unless_mapped(clock: ManualClock, provider: Provider) -> None:
    async def scopes(said: Any, **more: Any) -> frozenset[Scope]:
        found = await OidcTokens(rules(**more), provider, clock).principal(token(roles=said))
        assert found is not None
        return found.scopes

    assert await scopes(["payments:viewer"]) == ROLES["viewer"]
    assert await scopes("payments:admin") == EVERYTHING
    assert await scopes(["payments:viewer", "payments:analyst", 7, None]) == ROLES["analyst"]
    for foreign in (["admin"], ["logins:admin"], ["payments:king"], {"admin": True}, None, 7):
        assert await scopes(foreign) == frozenset()
    mapped = {"fraud-team": "analyst"}
    assert await scopes(["fraud-team"], roles=mapped) == ROLES["analyst"]
    assert await scopes(["payments:admin"], roles=mapped) == frozenset()
    inner = await OidcTokens(rules(claim=["realm_access", "roles"]), provider, clock).principal(
        token(realm_access={"roles": ["payments:viewer"]})
    )
    assert inner is not None
    assert inner.scopes == ROLES["viewer"]


async def test_new_keys_are_looked_for_but_not_for_everybody_who_invents_one(
    clock: ManualClock, provider: Provider
) -> None:
    tokens = OidcTokens(rules(), provider, clock)
    assert await tokens.principal(token()) is not None
    provider.document["keys"].append(jwk(OTHER, "e2"))
    for number in range(20):
        assert await tokens.principal(token(OTHER, kid=f"x{number}")) is None
    assert provider.asked == 1
    clock.advance(31)
    assert await tokens.principal(token(OTHER, kid="e2")) is not None
    assert provider.asked == 2
    # a key that the provider withdraws ends here, too
    del provider.document["keys"][-1]
    clock.advance(REFRESH_SECONDS - 40)
    assert await tokens.principal(token(OTHER, kid="e2")) is not None
    clock.advance(41)
    assert await tokens.principal(token(OTHER, kid="e2", exp=NOW + 9_999)) is None


async def test_a_provider_that_is_away(clock: ManualClock, provider: Provider) -> None:
    tokens = OidcTokens(rules(), provider, clock)
    for trouble in (Retriable("away", remedy="x"), None):
        provider.error, provider.document = trouble, ["nonsense"]
        with pytest.raises(Retriable):
            await tokens.principal(token())
        clock.advance(31)
    provider.error, provider.document = None, {"keys": [jwk(EC, "e1")]}
    assert await tokens.principal(token()) is not None
    provider.error = Retriable("away", remedy="x")
    clock.advance(REFRESH_SECONDS + 1)
    assert await tokens.principal(token(exp=NOW + 9_999)) is not None


async def test_people_and_programs_use_the_same_door() -> None:
    world = World()
    now = world.clock.now() // 1_000_000
    provider = Provider(jwk(EC, "e1"))
    gate = Gate(world, tokens=OidcTokens(rules(), provider, world.clock))
    key = gate.key([Scope.SCORE])
    person = token(iat=now, exp=now + 60, roles=["payments:viewer"])
    async with gate.client() as client:
        assert (await client.get("/v1/verdicts", headers=bearer(person))).status_code == 200
        answer = await client.post("/v1/score", json=EVENT, headers=bearer(person))
        assert (answer.status_code, "user anna" in answer.json()["detail"]) == (403, True)
        assert (await client.post("/v1/score", json=EVENT, headers=bearer(key))).status_code == 200
        nobody = token(iat=now, exp=now + 60, roles=["logins:admin"])
        assert (await client.get("/v1/verdicts", headers=bearer(nobody))).status_code == 403
        assert (await client.get("/v1/verdicts", headers=bearer(person[:-4]))).status_code == 401
        # what begins as a key is never taken for a token
        assert (await client.get("/v1/verdicts", headers=bearer("tg_" + person))).status_code == 401
