"""Tasks for people: seats that Reclaim does not free itself, and the routes by which one says what became of it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.db import Database
from reclaim.common.routing import Router
from reclaim.lifecycle import console_store
from reclaim.lifecycle.api import command, shown
from reclaim.lifecycle.domain import Fulfilled, NotFulfilled, State
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

LISTED: Final = 100
"""Tasks on a page."""


class FulfilmentIn(BaseModel):
    """What became of a task: `done`, with what shows it; or not, and why."""

    model_config = ConfigDict(extra="forbid")

    done: bool
    note: str = Field(min_length=1, max_length=2000)


def api_routes(database: Database) -> Router:
    """Return the route of the API."""
    api = Router(prefix="/api", tags=["lifecycle"])

    @api.post("/cases/{case_id}/fulfilment")
    async def fulfil(
        case_id: str, told: FulfilmentIn, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, Any]:
        wanted = (Fulfilled if told.done else NotFulfilled)(operator.name, told.note)
        return shown(await command(database, case_id, operator, wanted, told.note))

    return api


def page_routes(database: Database) -> Router:
    """Return the routes of the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/tasks", dependencies=[Depends(require("viewer"))])
    async def tasks(request: Request, after: Annotated[str, Query(max_length=200)] = "") -> HTMLResponse:
        wanted = console_store.Filter(states=(State.AWAITING_FULFILMENT.value,))
        async with database.reading() as db:
            cases, older = await console_store.page(db, wanted, limit=LISTED, after=after or None)
        here = "/lifecycle/tasks"
        return templates.render(
            request,
            "lifecycle/tasks.html",
            cases=cases,
            first=here if after else None,
            older=f"{here}?{urlencode({'after': older})}" if older else None,
        )

    @pages.post("/cases/{case_id}/fulfilment")
    async def fulfil(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        outcome: Annotated[Literal["done", "failed"], Form()],
        note: Annotated[str, Form(min_length=1, max_length=2000)],
    ) -> RedirectResponse:
        wanted = (Fulfilled if outcome == "done" else NotFulfilled)(operator.name, note)
        await command(database, case_id, operator, wanted, note)
        return RedirectResponse(f"/lifecycle/cases/{case_id}", status_code=303)

    return pages
