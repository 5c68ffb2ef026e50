"""What an operator says or does about an account that was out of the connection's reach: it was deleted, or is back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Form
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.db import Database
from reclaim.common.errors import Conflict
from reclaim.common.routing import Router
from reclaim.lifecycle import drift_store, queries
from reclaim.lifecycle.api import command, shown
from reclaim.lifecycle.domain import AccountDeleted, Case, Unfreeze
from reclaim.web.auth import local_path, require
from reclaim.web.operators import Operator


async def _unfreeze(database: Database, case_id: str, operator: Operator) -> Case:
    """Have a freeze undone that a case left behind.

    Raises:
        NotFound: there is no such case.
        Conflict: the case left none, or a later case of the seat has frozen or freed it since.
    """
    async with database.reading() as db:
        later = await drift_store.holds_seat_since(db, await queries.find(db, case_id))
    if later is not None:
        raise Conflict(drift_store.held_since(later))
    return await command(database, case_id, operator, Unfreeze(operator.name))


class DeletedIn(BaseModel):
    """How somebody knows that an account was deleted."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field(min_length=1, max_length=2000)


def api_routes(database: Database) -> Router:
    """Return the routes of the API."""
    api = Router(prefix="/api", tags=["lifecycle"])

    @api.post("/cases/{case_id}/deleted")
    async def deleted(
        case_id: str, told: DeletedIn, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, Any]:
        said = AccountDeleted(operator.name, told.note)
        return shown(await command(database, case_id, operator, said, told.note))

    @api.post("/cases/{case_id}/unfreeze")
    async def unfreeze(case_id: str, operator: Annotated[Operator, Depends(require("operator"))]) -> dict[str, Any]:
        return shown(await _unfreeze(database, case_id, operator))

    return api


def page_routes(database: Database) -> Router:
    """Return the routes of the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)

    @pages.post("/cases/{case_id}/deleted")
    async def deleted(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        note: Annotated[str, Form(min_length=1, max_length=2000)],
    ) -> RedirectResponse:
        await command(database, case_id, operator, AccountDeleted(operator.name, note), note)
        return RedirectResponse(f"/lifecycle/cases/{case_id}", status_code=303)

    @pages.post("/cases/{case_id}/unfreeze")
    async def unfreeze(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        back: Annotated[str, Form(max_length=200)] = "",
    ) -> RedirectResponse:
        await _unfreeze(database, case_id, operator)
        return RedirectResponse(local_path(back) if back else f"/lifecycle/cases/{case_id}", status_code=303)

    return pages
