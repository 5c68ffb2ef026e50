"""Wiring of the lifecycle service."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from reclaim.common.inbox import bind
from reclaim.common.routing import Router
from reclaim.common.service import MEASURED_EVERY, Job, Runtime, Service
from reclaim.connectors.ports import Connectors
from reclaim.connectors.registry import Registry
from reclaim.lifecycle import (
    api,
    attention,
    audit_api,
    brake_api,
    brake_pages,
    bulk,
    checkpoints,
    console,
    drift_pages,
    fulfilment,
    handlers,
    jobs,
    out_of_reach,
    pages,
    store,
)
from reclaim.lifecycle.actions import CONNECTIONS_AT_ONCE, Actions
from reclaim.lifecycle.drift import Comparison
from reclaim.lifecycle.settings import LifecycleSettings


def build(
    runtime: Runtime, *, connectors: Connectors | None = None, settings: LifecycleSettings | None = None
) -> Service:
    """Return the service on the given runtime; the keyword arguments are for tests."""
    settings = settings or LifecycleSettings()
    limits = settings.limits()
    reached = connectors or Registry(runtime.clock, runtime.settings.outgoing())
    actions = Actions(runtime.database, reached, runtime.sealer, runtime.clock, limits)
    comparison = Comparison(runtime.database, reached, runtime.sealer, runtime.clock)
    router = Router()
    router.include_router(api.router(runtime.database))
    router.include_router(brake_api.router(runtime.database, limits))
    router.include_router(brake_pages.router(runtime.database, limits))
    # Asked for when it is needed: it may have to be made, and building a service writes nothing.
    notary = cache(runtime.settings.notary)
    router.include_router(audit_api.router(runtime.database, notary))
    router.include_router(attention.router(runtime.database))
    router.include_router(console.router(runtime.database))
    for part in (fulfilment, drift_pages, out_of_reach):
        router.include_router(part.api_routes(runtime.database))
        router.include_router(part.page_routes(runtime.database))
    router.include_router(pages.router(runtime.database, runtime.clock))
    return Service(
        name="lifecycle",
        metadata=store.metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(handlers.SUBSCRIPTIONS, None),
        jobs=(
            Job("act", actions.run, every=1.0),
            *(Job(f"act-{lane + 1}", partial(actions.run, lane), every=1.0) for lane in range(1, CONNECTIONS_AT_ONCE)),
            Job("timers", partial(jobs.fire_timers, runtime.database, jobs.Heard(runtime.catch_up)), every=1.0),
            Job("drift", comparison.run, every=600.0),
            Job("erase", partial(jobs.erase_personal, runtime.database, settings.personal_days), every=3600),
            Job(
                "checkpoint",
                partial(checkpoints.take_when_due, runtime.database, notary, settings.checkpoint_entries),
                every=60,
            ),
            Job("batches", partial(bulk.forget, runtime.database), every=3600),
            Job("attention", partial(attention.measure, runtime.database), every=MEASURED_EVERY),
        ),
        router=router,
        close=actions.close,
    )
