"""Wiring of the ITSM gateway."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import APIRouter

from reclaim.common.inbox import bind
from reclaim.common.service import Job, Runtime, Service
from reclaim.itsm_gateway import api, jobs, pages, store
from reclaim.itsm_gateway.handlers import SUBSCRIPTIONS, Deps
from reclaim.itsm_gateway.settings import ItsmGatewaySettings


def build(runtime: Runtime, *, settings: ItsmGatewaySettings | None = None) -> Service:
    """Return the service; `settings` replaces those of the environment in tests."""
    deps = Deps(runtime.database, settings or ItsmGatewaySettings())
    router = APIRouter()
    router.include_router(api.router(deps))
    router.include_router(pages.router(deps))
    return Service(
        name="itsm-gateway",
        metadata=store.metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(SUBSCRIPTIONS, deps),
        jobs=[Job("forget_webhooks", partial(jobs.forget_webhooks, deps), every=3600)],
        router=router,
    )
