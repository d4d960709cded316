"""Parts that several processes are made of."""

from __future__ import annotations

import structlog

from domain.clock import SystemClock
from domain.pipeline import Pipeline
from featurestore.hot_verdicts import RedisHotVerdicts
from featurestore.hot_verdicts_port import HotLimits
from featurestore.redis_client import connect
from lifecycle.artefact import unseal
from lifecycle.model_keys import TrustedKeys
from stream.models_follower import ModelsFollower
from stream.rules_follower import RulesFollower
from tidegate.settings import Settings

__all__ = ["hot_verdicts", "models_follower", "rules_follower"]

log = structlog.get_logger(__name__)


def models_follower(settings: Settings, pipeline: Pipeline, client_id: str) -> ModelsFollower:
    """Follows the models in force; takes those that somebody trusted has signed for this pipeline."""
    try:
        trusted = settings.trusted_models()
    except OSError as error:
        # nobody said whose models to run, and there is no place for a key of this machine: then nobody's
        log.warning(
            "no model from the registry will be run: TIDEGATE_MODEL_TRUSTED is empty", error=str(error)
        )
        trusted = TrustedKeys.parse("")

    def opened(sealed: bytes) -> bytes:
        _, model = unseal(sealed, trusted, pipeline=pipeline.name)
        return model

    return ModelsFollower(settings.kafka(), pipeline, opened, SystemClock(), client_id=client_id)


def rules_follower(settings: Settings, pipeline: Pipeline, client_id: str) -> RulesFollower:
    """Follows the rules and lists in force."""
    return RulesFollower(settings.kafka(), pipeline, SystemClock(), client_id=client_id)


def hot_verdicts(settings: Settings, pipeline: Pipeline) -> RedisHotVerdicts:
    """Recent verdicts, under the settings' limits."""
    limits = HotLimits(count=settings.hot_verdicts, age=round(settings.hot_hours * 3.6e9))
    return RedisHotVerdicts(
        connect(settings.redis_url.get_secret_value()), pipeline.name, SystemClock(), limits
    )
