"""The JSON API."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query
from pydantic import BaseModel

from reclaim.common.errors import NotFound
from reclaim.common.routing import Router
from reclaim.itsm_gateway import store
from reclaim.itsm_gateway.handlers import Deps
from reclaim.web.auth import require


class RequestOut(BaseModel):
    """What a ticket should ask, how far its case is, and why there is no ticket."""

    number: int
    case_id: str
    route: str
    connection_id: str
    product: str
    product_name: str
    holder_name: str
    holder_email: str | None
    department: str | None
    rule_id: str
    rule_name: str
    dry_run: bool
    flagged_at: datetime
    state: str
    outcome: str | None
    failure: str | None


class RequestsOut(BaseModel):
    """A page of requests, newest first. Ask for the next with `before=next_before`, until it is null."""

    requests: list[RequestOut]
    next_before: int | None


class StepOut(BaseModel):
    """One step that the ticket should be told."""

    at: datetime
    text: str


class RequestDetailOut(RequestOut):
    """A request with its timeline."""

    timeline: list[StepOut]


def router(deps: Deps) -> Router:
    """Return the endpoints."""
    api = Router(tags=["itsm-gateway"])
    viewer = [Depends(require("viewer"))]

    @api.get("/api/requests", dependencies=viewer)
    async def get_requests(
        open_only: bool = False,
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> RequestsOut:
        """Requests, newest first."""
        async with deps.database.reading() as db:
            found = await store.requests(db, open_only=open_only, before=before, limit=limit + 1)
        page = [RequestOut(**asdict(one)) for one in found[:limit]]
        return RequestsOut(requests=page, next_before=page[-1].number if len(found) > limit else None)

    @api.get("/api/requests/{case_id}", dependencies=viewer)
    async def get_request(case_id: str) -> RequestDetailOut:
        """The request of one case, with its timeline."""
        found, steps = await request_and_timeline(deps, case_id)
        return RequestDetailOut(**asdict(found), timeline=[StepOut(at=at, text=text) for at, text in steps])

    return api


async def request_and_timeline(deps: Deps, case_id: str) -> tuple[store.TicketRequest, list[tuple[datetime, str]]]:
    """Return a request and what its ticket should be told.

    Raises:
        NotFound: the case is not asked through a service desk.
    """
    async with deps.database.reading() as db:
        found = await store.request_of_case(db, case_id)
        if found is None:
            raise NotFound("No such case is asked through a service desk. The list of cases has all of them.")
        return found, await store.timeline(db, case_id)
