"""The console's pages of the gateway, under `/itsm-gateway`."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse

from reclaim.common.routing import Router
from reclaim.itsm_gateway import delivery_store, store, ticket_store
from reclaim.itsm_gateway.api import request_and_timeline
from reclaim.itsm_gateway.handlers import Deps
from reclaim.web.auth import require
from reclaim.web.pages import Pages, TimelineEntry

PAGE_SIZE: Final = 50
MOST_TROUBLES: Final = 5


def router(deps: Deps) -> Router:
    """Return the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.itsm_gateway")
    viewer = [Depends(require("viewer"))]

    @pages.get("/", dependencies=viewer)
    async def requests(
        request: Request, show: str = "open", before: Annotated[int | None, Query(ge=1, lt=2**63)] = None
    ) -> HTMLResponse:
        open_only = show != "all"
        async with deps.database.reading() as db:
            found = await store.requests(db, open_only=open_only, before=before, limit=PAGE_SIZE + 1)
            failed = (await delivery_store.counts(db))["failed"]
            desk = await ticket_store.asking(db)
            tickets = await ticket_store.of_cases(db, {one.case_id for one in found})
            troubles = await ticket_store.troubles(db, MOST_TROUBLES)
        listed = found[:PAGE_SIZE]
        show = "open" if open_only else "all"
        older = f"/itsm-gateway/?show={show}&before={listed[-1].number}" if len(found) > PAGE_SIZE else None
        return templates.render(
            request,
            "ticket-requests.html",
            requests=listed,
            show=show,
            older=older,
            failed=failed,
            desk=desk,
            tickets=tickets,
            troubles=troubles,
        )

    @pages.get("/requests/{case_id}", dependencies=viewer)
    async def one_request(request: Request, case_id: str) -> HTMLResponse:
        found, steps = await request_and_timeline(deps, case_id)
        async with deps.database.reading() as db:
            ticket = (await ticket_store.of_cases(db, {case_id})).get(case_id)
            its_task = (await ticket_store.of_cases(db, {case_id}, "task")).get(case_id)
        entries = [TimelineEntry(at=at, title=text) for at, text in steps]
        return templates.render(
            request, "ticket-request.html", one=found, timeline=entries, ticket=ticket, its_task=its_task
        )

    return pages
