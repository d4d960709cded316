"""Talking to Redis: connection settings, scripts that survive SCRIPT FLUSH, and errors an operator can use.

Every command sent through this module may be repeated without harm (reads, compare-and-sets of absolute
values, deletions), which is what makes a retry after an unknown outcome right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoPermissionError, NoScriptError
from redis.retry import Retry

from domain.errors import Fatal, ServiceMissing, StateMismatch, StoreUnavailable

__all__ = ["Client", "Script", "ScriptCall", "answers", "connect", "run_commands", "run_scripts"]

Client = redis.Redis | redis.RedisCluster
"""A single server (or the primary behind a proxy or sentinel), or a Redis Cluster."""

TIMEOUT = 2.0
"""Seconds for connecting and for each answer. A healthy Redis needs under 50 ms for the largest round trip
we send; two seconds ride out a fork for persistence, and stay below the pause an operator would notice."""
HEALTH_CHECK_SECONDS = 30
"""A connection idle for longer is tried with PING first: firewalls drop idle connections without a word."""

_RAISE_MEMORY = (
    "raise maxmemory, or give this pipeline a Redis of its own; nothing was lost, the worker waits"
)
_REMEDIES = {
    "OOM": _RAISE_MEMORY,
    "READONLY": "point the URL at the primary; this server is a replica",
    "LOADING": "wait until Redis has loaded its data set",
    "BUSY": "a long script blocks Redis: find it with SLOWLOG GET, end it with SCRIPT KILL",
    "MISCONF": "Redis can not save to its disk: free space, then look at its log",
    "NOREPLICAS": "bring replicas back, or lower min-replicas-to-write",
    "CLUSTERDOWN": "bring the missing cluster nodes back",
    "MASTERDOWN": "bring the primary back, or promote the replica",
    "TRYAGAIN": "wait until the slot migration is over",
    "UNKILLABLE": "restart the server; a script that wrote does not end",
}


def connect(url: str, *, timeout: float = TIMEOUT, cluster: bool = False) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://`` (no connection is made yet).

    One retry, and only when a connection breaks (the server restarted, a pooled connection went stale):
    redis-py would retry ten times, also after timeouts, and so hold a batch for half a minute. Repeating
    is harmless because all we send is idempotent. hiredis parses the answers.
    """
    # a timeout is a ConnectionError in no version of redis-py, so timeouts are not retried
    retry = Retry(ExponentialBackoff(cap=0.1, base=0.02), 1, supported_errors=(redis.ConnectionError,))
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "decode_responses": False,
        "client_name": "tidegate",
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    if cluster:
        return redis.RedisCluster.from_url(url, retry=retry, **options)
    return redis.Redis.from_url(url, retry=retry, **options)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the hash under which Redis remembers it."""

    source: str
    sha: str

    @classmethod
    def packaged(cls, name: str) -> Script:
        """The script ``featurestore/scripts/<name>.lua``."""
        source = resources.files("featurestore").joinpath(f"scripts/{name}.lua").read_text(encoding="utf-8")
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One call: all ``keys`` lie in one hash slot."""

    keys: Sequence[str]
    args: Sequence[bytes | str | int]


def run_scripts(client: Client, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
    """Answers of ``calls`` in order; one round trip, or two where the server had forgotten the script.

    The calls run in order, but when scripts are missing all that lack one run after all that do not: calls
    of one batch must not depend on each other. An error of any call is raised after all calls ran.
    """
    replies = _send(client, [("EVALSHA", script.sha, len(c.keys), *c.keys, *c.args) for c in calls])
    forgotten = [i for i, answer in enumerate(replies) if isinstance(answer, NoScriptError)]
    if forgotten:
        again = [calls[i] for i in forgotten]
        repeated = _send(client, [("EVAL", script.source, len(c.keys), *c.keys, *c.args) for c in again])
        for i, answer in zip(forgotten, repeated, strict=True):
            replies[i] = answer
    return _checked(replies)


def run_commands(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Answers of ``commands`` in order, one round trip; the first error among them is raised."""
    return _checked(_send(client, commands))


def _send(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if len(commands) == 1 or isinstance(client, redis.RedisCluster):
        return [_one(client, command) for command in commands]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    return list(pipeline.execute(raise_on_error=False))


def _one(client: Client, command: tuple[Any, ...]) -> Any:
    # redis-py refuses EVALSHA in the pipelines of its cluster client, so there it is a call at a time
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        return error


def _checked(replies: list[Any]) -> list[Any]:
    for answer in replies:
        if isinstance(answer, Exception):
            raise answer
    return replies


@contextmanager
def answers(doing: str) -> Iterator[None]:
    """Turn errors of redis-py into ours; ``doing`` completes the sentence "while ...".

    Raises StoreUnavailable for whatever passes by itself or by bringing Redis back, ServiceMissing for
    refused credentials, StateMismatch for keys that hold something else than our values.
    """
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.AuthorizationError, NoPermissionError) as error:
        raise ServiceMissing(
            f"Redis refused us while {doing}: {_code(error)}",
            remedy="check user and password in the Redis URL, and that its ACL allows what "
            "docs/redis-format.md lists",
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, redis.RedisClusterException, OSError) as error:
        raise StoreUnavailable(
            f"Redis did not answer while {doing}: {error or type(error).__name__}",
            remedy="start Redis, or check its URL and the network; the worker waits and goes on by itself",
        ) from error
    except redis.ResponseError as error:
        code = _code(error)
        if code in _REMEDIES:
            raise StoreUnavailable(
                f"Redis can not work now ({code}) while {doing}", remedy=_REMEDIES[code]
            ) from error
        if code == "WRONGTYPE" or "struct" in str(error) or "data string too short" in str(error):
            raise StateMismatch(
                f"a key of ours holds something that we did not write, found while {doing}: {error}",
                remedy="let no other program use keys under fs: or wk:; then `tidegate state reset`",
            ) from error
        raise Fatal(
            f"Redis refused a command while {doing}: {error}",
            remedy="check that this is Redis 6.2 or newer, or Valkey, without renamed commands",
        ) from error


def _code(error: redis.RedisError) -> str:
    """The error code Redis gave, also where an old server wraps it in the message of the script."""
    code = getattr(error, "status_code", None)
    if code and code != "ERR":
        return str(code)
    text = str(error)
    first = text.partition(" ")[0]
    if first in _REMEDIES or first == "WRONGTYPE":
        return first
    for known in (*_REMEDIES, "WRONGTYPE"):
        if f"-{known} " in text:
            return known
    return str(code or "ERR")
