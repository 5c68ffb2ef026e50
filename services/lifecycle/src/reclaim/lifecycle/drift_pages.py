"""What the daily comparison found, as JSON under `/lifecycle/api/drift` and as a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Database
from reclaim.common.routing import Router
from reclaim.lifecycle import drift_store
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages


async def _shown(db: AsyncConnection, *, cleared: bool) -> dict[str, Any]:
    found = await drift_store.drifts(db, cleared=cleared)
    return {
        "drift": [{**asdict(each.drift), "found_at": each.found_at, "cleared_at": each.cleared_at} for each in found],
        "connections": await drift_store.runs(db),
    }


async def _ask(database: Database) -> None:
    async with database.unit() as unit:
        await drift_store.ask(unit.db, unit.now)
        unit.wake("drift")


def api_routes(database: Database) -> Router:
    """Return the routes of the API."""
    api = Router(prefix="/api", tags=["lifecycle"])

    @api.get("/drift", dependencies=[Depends(require("viewer"))])
    async def list_drift(cleared: bool = False) -> dict[str, Any]:
        async with database.reading() as db:
            return await _shown(db, cleared=cleared)

    @api.post("/drift/compare", status_code=202)
    async def compare(_operator: Annotated[Operator, Depends(require("operator"))]) -> dict[str, Any]:
        await _ask(database)
        return {"asked": True}

    return api


def page_routes(database: Database) -> Router:
    """Return the routes of the page."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/drift", dependencies=[Depends(require("viewer"))])
    async def drift(request: Request) -> HTMLResponse:
        async with database.reading() as db:
            shown = await _shown(db, cleared=False)
        return templates.render(request, "lifecycle/drift.html", **shown)

    @pages.post("/drift/compare")
    async def compare(_operator: Annotated[Operator, Depends(require("operator"))]) -> RedirectResponse:
        await _ask(database)
        return RedirectResponse("/lifecycle/drift", status_code=303)

    return pages
