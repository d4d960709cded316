"""Settings of the processes: environment variables ``TIDEGATE_*``, or a ``.env`` file; see docs/operations.md."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.errors import Fatal
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.drift.settings import DAY, Cadence, DriftSettings
from lifecycle.model_keys import ModelKey, TrustedKeys
from lifecycle.webhook_secrets import SecretBox, new_key
from stream.kafka import KafkaConnection

__all__ = ["Settings"]

log = structlog.get_logger(__name__)

MEMORY_BESIDE_STATE_MB = 512
"""What a worker needs beside entity state: tests/system/test_backlog.py measures it, with a backlog."""


class Settings(BaseSettings):
    """Everything a process needs to know about its surroundings. Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", env_file=".env", extra="ignore")

    pipeline: Path = Field(default=Path("examples/payments/pipeline.yaml"), description="The pipeline file.")
    kafka_bootstrap: str = Field(default="127.0.0.1:9092", description="Kafka's bootstrap servers.")
    kafka_extra: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="JSON with further client settings: security.protocol, sasl.*, ssl.*.",
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"), description="Redis, Valkey, or a cluster."
    )
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="Unique per worker and stable over its restarts; names its transactions.",
    )
    privacy_key: SecretStr | None = Field(
        default=None, description="Secret of 16 to 64 characters under which sensitive fields are hashed."
    )
    state_dir: Path = Field(
        default=Path("~/.local/state/tidegate"),
        description="Files of a single machine: generated key, embedded services.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="Database of models: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; default: a file in "
        "state_dir.",
    )
    model_key: SecretStr | None = Field(
        default=None, description="Private key under which models are signed: 64 hexadecimal digits."
    )
    model_trusted: str = Field(
        default="",
        description="Public keys (64 hexadecimal digits each, commas between) of those whose trained models are run.",
    )
    dask: str | None = Field(
        default=None,
        description="Scheduler of a Dask cluster that does the parts of trainings (tls://HOST:8786); none: the trainer "
        "does them. Needs tidegate[dask] here and on its workers.",
    )
    api_host: str = Field(
        default="127.0.0.1",
        description="Address of the API; one that is not loopback needs authentication (or TIDEGATE_API_OPEN).",
    )
    api_port: int = Field(default=8080, ge=0, le=65535)
    api_auth: bool = Field(
        default=False,
        description="Ask for a key on loopback, too; implied by TIDEGATE_API_KEY and TIDEGATE_OIDC_ISSUER.",
    )
    api_open: bool = Field(
        default=False,
        description="Let everybody do anything, wherever the API listens: something before it keeps strangers out.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="A key that may do everything, for the first start: `tidegate keys root`."
    )
    api_rate: float = Field(
        default=1_000.0, gt=0, description="Requests a second of a key or person without a rate of their own."
    )
    oidc_issuer: str | None = Field(default=None, description="Issuer (iss) whose tokens are believed.")
    oidc_audience: str | None = Field(default=None, description="Audience (aud) that tokens must be for.")
    oidc_jwks: str | None = Field(
        default=None, description="The issuer's public keys (JWKS): a file, or an https URL."
    )
    oidc_algorithms: str = Field(
        default="RS256,ES256", description="Algorithms of signatures that are believed, commas between."
    )
    oidc_roles_claim: str = Field(
        default="roles", description="Where a token names roles; dots lead inwards: realm_access.roles."
    )
    oidc_roles: dict[str, str] = Field(
        default_factory=dict,
        description="JSON from the issuer's roles to viewer, analyst, admin. "
        'Default: "PIPELINE:viewer" means viewer of this pipeline, and so on.',
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address of /metrics of the processes but the API."
    )
    metrics_port: int = Field(default=0, ge=0, le=65535, description="0: no metrics server.")
    max_batch: int = Field(default=1000, ge=1, le=20_000, description="Most events in one transaction.")
    max_entities: int = Field(
        default=200_000, ge=1_000, description="Entities of each kind that a worker keeps in memory."
    )
    memory_mb: int = Field(
        default=1_024,
        ge=MEMORY_BESIDE_STATE_MB + 8,
        description=f"Memory a worker stays below: {MEMORY_BESIDE_STATE_MB} MB for code, records under way and "
        "detectors, the rest for entity state (the least recently used lies in Redis only).",
    )
    flush_seconds: float = Field(default=0.5, gt=0, description="How often committed state goes to Redis.")
    snapshot_seconds: float = Field(default=10.0, gt=0, description="How often detectors go to Redis.")
    hot_hours: float = Field(default=24.0, gt=0, description="How long verdicts can be asked for.")
    hot_verdicts: int = Field(default=1_000_000, ge=1_000, description="How many verdicts can be asked for.")

    webhook_key: SecretStr | None = Field(
        default=None,
        description="Key under which secrets of webhooks are sealed: 64 hexadecimal digits; the same for API, command "
        "line and dispatcher.",
    )
    webhook_private: str = Field(
        default="",
        description="Networks (CIDR, commas between) that webhooks may be delivered to though they are not public.",
    )
    webhook_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities that receivers' certificates are checked against.",
    )
    webhook_days: float = Field(
        default=30.0,
        ge=4,
        description="How long messages and their delivery log are kept; the retries take 3.2 days.",
    )

    offline_url: str | None = Field(
        default=None,
        description="Where the offline store lies: a folder, or an object store (s3://, abfss://, gs://). "
        "Default: the folder offline in TIDEGATE_STATE_DIR.",
    )
    offline_options: dict[str, str] = Field(
        default_factory=dict, repr=False, description="JSON with deltalake's storage options, such as keys."
    )
    offline_seconds: float = Field(
        default=10.0, gt=0, description="How often collected verdicts and labels go to the offline store."
    )
    offline_days: float | None = Field(
        default=None, gt=0, description="Events older than this leave the offline store; none: they stay."
    )
    offline_version_days: float = Field(
        default=30.0, gt=0, le=30, description="How long old versions of the offline store can be read."
    )
    drift_false_alarms: float = Field(
        default=1.0, gt=0, description="False drift alarms allowed in 30 days, over all columns and monitors."
    )
    drift_reference_days: int = Field(
        default=28, ge=8, le=140, description="Days of event time that drift monitors compare with."
    )
    drift_warm_up_days: int = Field(
        default=7, ge=1, le=140, description="Days before those, in which features fill up."
    )
    drift_cool_down_days: float = Field(
        default=7.0, ge=0, description="How long after a drift alarm its column raises no other."
    )
    drift_label_maturity_days: float = Field(
        default=7.0, ge=0, description="Days after which an event's label is taken to be known."
    )
    drift_simulations: int = Field(
        default=200, ge=20, le=5_000, description="Resampled months from which drift thresholds come."
    )

    @property
    def state_bytes(self) -> int:
        """What ``memory_mb`` leaves for entity state."""
        return (self.memory_mb - MEMORY_BESIDE_STATE_MB) << 20

    def drift(self, pipeline: Pipeline) -> DriftSettings:
        """How drift is monitored. Raises Fatal for days that do not go together."""
        try:
            return DriftSettings(
                traffic=Cadence.hourly(
                    reference_days=self.drift_reference_days, warm_up_days=self.drift_warm_up_days
                ),
                labels=Cadence.daily(
                    reference_days=self.drift_reference_days, warm_up_days=self.drift_warm_up_days
                ),
                per_month=self.drift_false_alarms,
                simulations=self.drift_simulations,
                cool_down=round(self.drift_cool_down_days * DAY),
                maturity=round(self.drift_label_maturity_days * DAY),
                lateness=pipeline.event.max_lateness,
                seed=pipeline.seed,
            )
        except ValueError as error:
            raise Fatal(
                f"the settings TIDEGATE_DRIFT_* do not go together: {error}",
                remedy="leave them at their defaults, or see docs/drift.md",
            ) from error

    def kafka(self) -> KafkaConnection:
        """How clients connect to Kafka."""
        return KafkaConnection(self.kafka_bootstrap, self.kafka_extra)

    def protector(self) -> Protector:
        """Hashes sensitive fields; without a configured key, under one kept in ``state_dir``.

        Raises Fatal when the key is too short or too long.
        """
        given = self.privacy_key
        try:
            return Protector(self._machine_key() if given is None else given.get_secret_value().encode())
        except ValueError as error:
            raise Fatal(
                "TIDEGATE_PRIVACY_KEY must have 16 to 64 bytes",
                remedy="openssl rand -hex 32, the same for all processes of a deployment",
            ) from error

    def database(self) -> str:
        """URL of the database of models."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.state_dir.expanduser() / 'tidegate.sqlite'}"

    def signing_key(self) -> ModelKey:
        """Signs models; without a configured key, one kept in ``state_dir``. Raises Fatal when it is no key."""
        if self.model_key is not None:
            return ModelKey.parse(self.model_key.get_secret_value())
        made = self._machine_file("model.key", lambda: ModelKey.generate().secret(), "TIDEGATE_MODEL_KEY")
        return ModelKey.parse(made, "model.key in TIDEGATE_STATE_DIR")

    def webhook_box(self) -> SecretBox:
        """Seals secrets of webhooks; without a configured key, under one kept in ``state_dir``. Raises Fatal."""
        if self.webhook_key is not None:
            return SecretBox.parse(self.webhook_key.get_secret_value())
        made = self._machine_file("webhook.key", new_key, "TIDEGATE_WEBHOOK_KEY")
        return SecretBox.parse(made, "webhook.key in TIDEGATE_STATE_DIR")

    def trusted_models(self) -> TrustedKeys:
        """Whose models are run; without configured keys, those signed on this machine. Raises Fatal."""
        if self.model_trusted.strip():
            return TrustedKeys.parse(self.model_trusted)
        return TrustedKeys.parse(self.signing_key().public)

    def _machine_key(self) -> bytes:
        return self._machine_file(
            "privacy.key", lambda: secrets.token_hex(16), "TIDEGATE_PRIVACY_KEY"
        ).encode()

    def _machine_file(self, name: str, make: Callable[[], str], setting: str) -> str:
        """A secret kept in ``state_dir``; made when it is asked for first, by whoever is first."""
        path = self.state_dir.expanduser() / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            # whole or not at all: another process may read it at this moment
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{name}-") as file:
                file.write(make())
                file.flush()
                try:
                    os.link(file.name, path)
                except FileExistsError:
                    pass
                else:
                    log.info(f"made a {name} for this machine; set {setting} in a cluster", path=str(path))
        return path.read_text().strip()
