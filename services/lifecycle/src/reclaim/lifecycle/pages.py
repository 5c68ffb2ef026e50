"""A case's page, under `/lifecycle/cases`, and what an operator does there."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from reclaim.common.clock import Clock
from reclaim.common.db import Database
from reclaim.common.routing import Router
from reclaim.lifecycle import attention, console_store, drift_store, queries, store, timeline
from reclaim.lifecycle.api import command
from reclaim.lifecycle.domain import Decide, Reactivate, Retry
from reclaim.web.auth import local_path, require
from reclaim.web.operators import PERSONAL_ROLE, Operator
from reclaim.web.pages import Pages


def router(database: Database, clock: Clock) -> Router:
    """Return the routes of the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/cases/{case_id}")
    async def case_page(
        request: Request, case_id: str, operator: Annotated[Operator, Depends(require("viewer"))]
    ) -> HTMLResponse:
        async with database.reading() as db:
            case = await queries.find(db, case_id)
            moments = await store.history(db, case_id)
            steps = await console_store.steps(db, case_id)
            timers = await console_store.timers(db, case_id)
            later = await drift_store.holds_seat_since(db, case) if case.left_frozen else None
        now = clock.now()
        return templates.render(
            request,
            "lifecycle/case.html",
            case=case,
            entries=[timeline.entry_of(moment, personal=operator.may(PERSONAL_ROLE)) for moment in moments],
            ahead=timeline.ahead(case, steps, timers, now),
            offers=attention.offers(case, now),
            later=later,
        )

    @pages.post("/cases/{case_id}/decision")
    async def decide(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        decision: Annotated[Literal["keep", "revoke"], Form()],
        reason: Annotated[str, Form(min_length=1, max_length=2000)],
        back: Annotated[str, Form(max_length=200)] = "",
    ) -> RedirectResponse:
        wanted = Decide(decision, operator.name, "console", reason, clock.now())
        await command(database, case_id, operator, wanted, reason)
        return _back(case_id, back)

    @pages.post("/cases/{case_id}/retry")
    async def retry(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        back: Annotated[str, Form(max_length=200)] = "",
    ) -> RedirectResponse:
        await command(database, case_id, operator, Retry(operator.name))
        return _back(case_id, back)

    @pages.post("/cases/{case_id}/reactivate")
    async def reactivate(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        reason: Annotated[str, Form(min_length=1, max_length=2000)],
        back: Annotated[str, Form(max_length=200)] = "",
    ) -> RedirectResponse:
        await command(database, case_id, operator, Reactivate(operator.name, reason), reason)
        return _back(case_id, back)

    return pages


def _back(case_id: str, back: str) -> RedirectResponse:
    return RedirectResponse(local_path(back) if back else f"/lifecycle/cases/{case_id}", status_code=303)
