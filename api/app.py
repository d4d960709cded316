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
from api.routes import audit, drift, erasures, health, labels, live, model_changes, models, score, verdicts

__all__ = ["create_app"]

VERSION = "0.1.0"


def create_app(deps: ApiDeps) -> FastAPI:
    """The API of one pipeline. ``app.state.streams`` is the LiveStreams to end before the server stops."""
    metrics = ApiMetrics(deps.registry)
    streams = live.LiveStreams(deps.limits.streams)
    watch = ConvergenceWatch(deps)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await deps.start()
        watching = asyncio.create_task(watch.run())
        try:
            yield
        finally:
            watching.cancel()
            streams.end()
            await deps.close()

    app = FastAPI(
        title=f"Tidegate: {deps.pipeline.name}",
        version=VERSION,
        description="Events in, explained verdicts out. Times in verdicts are UTC microseconds.",
        lifespan=lifespan,
        # their pages load scripts from other hosts; /openapi.json is enough for tools
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.streams = streams
    problems.install(app)
    app.include_router(score.router(deps, metrics))
    app.include_router(labels.router(deps, metrics))
    app.include_router(live.router(deps, metrics, streams))
    app.include_router(verdicts.router(deps))
    app.include_router(models.router(deps))
    app.include_router(model_changes.router(deps))
    app.include_router(audit.router(deps))
    app.include_router(erasures.router(deps))
    app.include_router(drift.router(deps))
    app.include_router(health.router(deps))
    openapi.install(app, deps.pipeline)
    app.add_middleware(Guard, metrics=metrics)
    return app
