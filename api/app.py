"""The application: routes bound to ports. Nothing here knows Kafka or Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import openapi, problems
from api.convergence import ConvergenceWatch
from api.deps import ApiDeps
from api.guard import Guard
from api.metrics import ApiMetrics
from api.pressure import Pressure
from api.routes import (
    audit,
    case_changes,
    cases,
    drift,
    entities,
    erasures,
    health,
    keys,
    labels,
    lists,
    live,
    model_changes,
    models,
    rules,
    score,
    verdicts,
    webhooks,
)
from api.rules_watch import RulesWatch

__all__ = ["create_app"]

VERSION = "0.1.0"


def create_app(deps: ApiDeps) -> FastAPI:
    """The API of one pipeline. ``app.state.streams`` is the LiveStreams to end before the server stops.

    ``app.state.limits`` are those of connections, for the server.
    """
    metrics = ApiMetrics(deps.registry)
    streams = live.LiveStreams(deps.limits.streams)
    watch = ConvergenceWatch(deps)
    rules_watch = RulesWatch(deps)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await deps.start()
        watching = asyncio.create_task(watch.run())
        telling = asyncio.create_task(rules_watch.run())
        try:
            yield
        finally:
            watching.cancel()
            telling.cancel()
            streams.end()
            await deps.close()

    app = FastAPI(
        title=f"Tidegate: {deps.pipeline.name}",
        version=VERSION,
        description="Events in, explained verdicts out. Times in verdicts are UTC microseconds.",
        lifespan=lifespan,
        # their pages load scripts from other hosts; /openapi.json is enough for tools, and a route of ours
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.streams = streams
    app.state.limits = deps.limits
    problems.install(app)
    app.include_router(score.router(deps, metrics))
    app.include_router(labels.router(deps, metrics))
    app.include_router(live.router(deps, metrics, streams))
    app.include_router(verdicts.router(deps))
    # before the models: their {version} matches these paths too, and would answer which methods there are
    app.include_router(model_changes.router(deps))
    app.include_router(models.router(deps))
    app.include_router(audit.router(deps))
    app.include_router(webhooks.router(deps))
    app.include_router(rules.router(deps))
    app.include_router(lists.router(deps))
    app.include_router(entities.router(deps))
    app.include_router(cases.router(deps))
    app.include_router(case_changes.router(deps))
    app.include_router(erasures.router(deps))
    app.include_router(drift.router(deps))
    app.include_router(keys.router(deps))
    app.include_router(health.router(deps))
    openapi.install(app, deps)
    app.add_middleware(Pressure, limit=deps.limits.requests)
    app.add_middleware(Guard, metrics=metrics)
    return app
