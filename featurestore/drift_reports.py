"""What a pipeline's drift monitors say, kept in Redis for the API to answer with."""

from __future__ import annotations

from featurestore.online import encode_key_part
from featurestore.redis_client import Client, answers, run_commands

__all__ = ["DriftReports"]


class DriftReports:
    """The newest report under ``dr:{<pipeline>}``: a copy; what counts are the topics ``drift`` and ``drift.state``."""

    def __init__(self, client: Client, pipeline_name: str) -> None:
        self._client = client
        self._key = f"dr:{{{encode_key_part(pipeline_name)}}}"

    def put(self, report: bytes) -> None:
        """Replace the report (JSON of domain.drift_record.DriftState). Raises StoreUnavailable."""
        with answers("writing the drift report"):
            run_commands(self._client, [("SET", self._key, report)])

    def get(self) -> bytes | None:
        """The newest report; None when there never was one. Raises StoreUnavailable."""
        with answers("reading the drift report"):
            [found] = run_commands(self._client, [("GET", self._key)])
        return None if found is None else bytes(found)
