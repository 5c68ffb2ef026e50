"""How savings is put together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from reclaim.common.inbox import bind
from reclaim.common.routing import Router
from reclaim.common.service import Job, Runtime, Service
from reclaim.savings import api, jobs, pages, store
from reclaim.savings.handlers import SUBSCRIPTIONS, Deps


def build(runtime: Runtime) -> Service:
    """Return the service."""
    deps = Deps(database=runtime.database, clock=runtime.clock)
    router = Router()
    router.include_router(api.router(deps))
    router.include_router(pages.router(deps))
    return Service(
        name="savings",
        metadata=store.metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(SUBSCRIPTIONS, deps),
        jobs=[Job(jobs.REBUILD, partial(jobs.rebuild_step, deps), every=5.0)],
        router=router,
    )
