"""Wiring: the scanner as the host runs it."""

from __future__ import annotations

from pathlib import Path

from reclaim.common.inbox import bind
from reclaim.common.routing import Router
from reclaim.common.service import Runtime, Service
from reclaim.connectors.ports import Connectors
from reclaim.connectors.registry import Registry
from reclaim.scanner import (
    api,
    catalog_api,
    catalog_pages,
    filters_api,
    filters_pages,
    imports_api,
    imports_pages,
    pages,
    profiles_api,
    sources_pages,
    usage_api,
)
from reclaim.scanner.handlers import SUBSCRIPTIONS
from reclaim.scanner.jobs import jobs
from reclaim.scanner.ports import Deps
from reclaim.scanner.settings import ScannerSettings
from reclaim.scanner.store import metadata


def build(
    runtime: Runtime, *, connectors: Connectors | None = None, settings: ScannerSettings | None = None
) -> Service:
    """Build the scanner; a test may give it other connectors than those that are installed."""
    deps = Deps(
        database=runtime.database,
        clock=runtime.clock,
        sealer=runtime.sealer,
        connectors=connectors or Registry(runtime.clock, runtime.settings.outgoing()),
        settings=settings or ScannerSettings(),
    )
    router = Router()
    router.include_router(api.routes(deps))
    router.include_router(pages.routes(deps))
    router.include_router(filters_api.routes(deps))
    router.include_router(filters_pages.routes(deps))
    router.include_router(imports_api.routes(deps))
    router.include_router(imports_pages.routes(deps))
    router.include_router(profiles_api.routes(deps))
    router.include_router(sources_pages.routes(deps))
    router.include_router(usage_api.routes(deps))
    router.include_router(catalog_api.routes(deps))
    router.include_router(catalog_pages.routes(deps))
    return Service(
        name="scanner",
        metadata=metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(SUBSCRIPTIONS, deps),
        jobs=jobs(deps),
        router=router,
    )
