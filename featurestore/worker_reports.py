"""What each worker of a pipeline runs, kept in Redis for as long as it keeps saying so."""

from __future__ import annotations

from featurestore.online import encode_key_part
from featurestore.redis_client import Client, Script, ScriptCall, answers, run_commands, run_scripts

__all__ = ["WorkerReports"]


class WorkerReports:
    """Heartbeats under ``wk:{<pipeline>}:``; a worker that falls silent disappears after its ``ttl``."""

    def __init__(self, client: Client, pipeline_name: str) -> None:
        self._client = client
        self._prefix = f"wk:{{{encode_key_part(pipeline_name)}}}:"
        self._index = self._prefix + "workers"
        self._script = Script.packaged("report")

    def _key(self, worker_id: str) -> str:
        return f"{self._prefix}report:{encode_key_part(worker_id)}"

    def put(self, worker_id: str, report: bytes, ttl: float) -> None:
        """Keep ``report`` for ``ttl`` seconds. Raises StoreUnavailable."""
        milliseconds = max(1, round(ttl * 1000))
        call = ScriptCall([self._index, self._key(worker_id)], [worker_id, report, milliseconds])
        with answers("reporting what this worker runs"):
            run_scripts(self._client, self._script, [call])

    def all(self) -> list[bytes]:
        """Reports of the workers alive, ordered by worker id. Raises StoreUnavailable."""
        with answers("reading what the workers run"):
            [ids] = run_commands(self._client, [("ZRANGE", self._index, 0, -1)])
            if not ids:
                return []
            keys = [self._key(name) for name in sorted(i.decode() for i in ids)]
            [found] = run_commands(self._client, [("MGET", *keys)])
        return [report for report in found if report is not None]

    def remove(self, worker_id: str) -> None:
        """Forget a worker that stops in good order. Raises StoreUnavailable."""
        with answers("taking this worker's report back"):
            run_commands(self._client, [("ZREM", self._index, worker_id), ("UNLINK", self._key(worker_id))])
