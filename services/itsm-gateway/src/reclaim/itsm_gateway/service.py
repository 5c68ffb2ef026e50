"""Wiring of the ITSM gateway."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import APIRouter

from reclaim.common.inbox import bind
from reclaim.common.service import Job, Runtime, Service
from reclaim.itsm_gateway import api, deliveries, delivery_api, delivery_pages, jobs, pages, store
from reclaim.itsm_gateway.handlers import SUBSCRIPTIONS, Deps
from reclaim.itsm_gateway.intake import HANDLE, PATH, Intake
from reclaim.itsm_gateway.keyring import Keyring
from reclaim.itsm_gateway.ports import Desks, NoDesks
from reclaim.itsm_gateway.settings import ItsmGatewaySettings


def build(runtime: Runtime, *, settings: ItsmGatewaySettings | None = None, desks: Desks | None = None) -> Service:
    """Return the service. In tests `settings` replaces those of the environment; `desks` are those connected."""
    database = runtime.database
    deps = Deps(database, settings or ItsmGatewaySettings())
    keyring = Keyring(database, runtime.sealer, deps.settings.secrets())
    taken = Intake(database, keyring)
    router = APIRouter()
    router.include_router(api.router(deps))
    router.include_router(delivery_api.router(database, keyring))
    router.include_router(delivery_pages.router(database, keyring))
    router.include_router(pages.router(deps))
    return Service(
        name="itsm-gateway",
        metadata=store.metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(SUBSCRIPTIONS, deps),
        jobs=[
            Job(HANDLE, deliveries.Handling(database, desks or NoDesks()).run, every=1.0),
            Job("forget_webhooks", partial(jobs.forget_webhooks, deps), every=3600),
            Job("forget_deliveries", partial(deliveries.forget, database), every=3600),
        ],
        router=router,
        doors={PATH: taken},
        close=taken.close,
    )
