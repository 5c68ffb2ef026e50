"""The audit trail over HTTP: verify it, export it, sign it, erase personal data in it, and its page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.db import Database
from reclaim.common.errors import Conflict, Forbidden, Invalid
from reclaim.common.routing import Router
from reclaim.common.security import Notary
from reclaim.lifecycle import audit_store, checkpoints, erasure, export
from reclaim.lifecycle.audit_store import Checkpoint
from reclaim.lifecycle.checkpoints import Report
from reclaim.lifecycle.export import Format, Selection
from reclaim.web.auth import require
from reclaim.web.operators import PERSONAL_ROLE, Operator
from reclaim.web.pages import Pages


class VerificationIn(BaseModel):
    """Checkpoints that were kept elsewhere, as `GET …/audit/checkpoints` gave them."""

    model_config = ConfigDict(extra="forbid")

    checkpoints: list[dict[str, Any]] = Field(default=[], max_length=1000)


class ErasureIn(BaseModel):
    """Whose address and browser are erased, and who asked for it."""

    model_config = ConfigDict(extra="forbid")

    actor: str = Field(min_length=1, max_length=320)
    reason: str = Field(min_length=1, max_length=2000)


def router(database: Database, notary: Callable[[], Notary]) -> Router:
    """Return the routes of the API and the page; `notary` is asked for what signs and verifies."""
    routes = Router()
    routes.include_router(_api(database, notary))
    routes.include_router(_pages(database, notary))
    return routes


def _api(database: Database, notary: Callable[[], Notary]) -> Router:
    api = Router(prefix="/api/audit", tags=["audit"])

    @api.get("/verify", dependencies=[Depends(require("viewer"))])
    async def verify() -> dict[str, Any]:
        return _shown(await _verified(database, notary()))

    @api.post("/verify", dependencies=[Depends(require("viewer"))])
    async def verify_against(given: VerificationIn) -> dict[str, Any]:
        try:
            outside = msgspec.convert(given.checkpoints, list[Checkpoint])
        except msgspec.ValidationError as error:
            raise Invalid(f"This is no checkpoint of an audit trail: {error}", field="checkpoints") from error
        return _shown(await _verified(database, notary(), *outside))

    @api.get("/checkpoints", dependencies=[Depends(require("viewer"))])
    async def list_checkpoints() -> dict[str, Any]:
        async with database.reading() as db:
            found = await audit_store.checkpoints(db)
        return {"checkpoints": [msgspec.to_builtins(one) for one in reversed(found)]}

    @api.post("/checkpoints", dependencies=[Depends(require("operator"))])
    async def take_checkpoint() -> dict[str, Any]:
        checkpoint = await checkpoints.take(database, notary())
        if checkpoint is None:
            raise Conflict("The audit trail has no entries yet: there is nothing to sign.")
        shown: dict[str, Any] = msgspec.to_builtins(checkpoint)
        return shown

    @api.get("/keys", dependencies=[Depends(require("viewer"))])
    async def public_keys() -> dict[str, Any]:
        keys = [
            {"key_id": key_id, "algorithm": "Ed25519", "public_key": key}
            for key_id, key in notary().public_keys().items()
        ]
        return {"keys": keys}

    @api.get("/export")
    async def export_entries(
        operator: Annotated[Operator, Depends(require("viewer"))],
        form: Annotated[Format, Query(alias="format")] = "csv",
        since: Annotated[str, Query(alias="from", max_length=40, description="a date, or an instant")] = "",
        until: Annotated[str, Query(alias="to", max_length=40, description="a date is included")] = "",
        case_id: Annotated[str, Query(max_length=100)] = "",
        personal: Annotated[bool, Query(description="with address and browser; for administrators")] = False,
    ) -> StreamingResponse:
        if personal and not operator.may(PERSONAL_ROLE):
            raise Forbidden(
                f"Addresses and browsers need the role {PERSONAL_ROLE}; {operator.name} has the role {operator.role}."
            )
        selection = Selection(
            export.instant(since, "from"), export.instant(until, "to", whole_day=True), case_id or None, personal
        )
        return StreamingResponse(
            export.lines(database, form, selection),
            media_type=export.MEDIA_TYPES[form],
            headers={"Content-Disposition": f'attachment; filename="audit.{form}"'},
        )

    @api.post("/erase")
    async def erase(
        wanted: ErasureIn, operator: Annotated[Operator, Depends(require(PERSONAL_ROLE))]
    ) -> dict[str, Any]:
        erased = await erasure.erase(database, wanted.actor, by=operator.name, reason=wanted.reason)
        return {"actor": wanted.actor, "entries": erased}

    return api


def _pages(database: Database, notary: Callable[[], Notary]) -> Router:
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/audit", dependencies=[Depends(require("viewer"))])
    async def audit(request: Request) -> HTMLResponse:
        found = await _verified(database, notary())
        return templates.render(
            request, "lifecycle/audit.html", found=found, keys=notary().public_keys(), personal_role=PERSONAL_ROLE
        )

    @pages.post("/audit/checkpoint", dependencies=[Depends(require("operator"))])
    async def take_checkpoint() -> RedirectResponse:
        await checkpoints.take(database, notary())
        return RedirectResponse("/lifecycle/audit", status_code=303)

    return pages


async def _verified(database: Database, notary: Notary, *outside: Checkpoint) -> Report:
    async with database.reading() as db:
        return await checkpoints.verify(db, notary, outside)


def _shown(report: Report) -> dict[str, Any]:
    return {
        "entries": report.entries,
        "verified": report.verified,
        "head": report.head,
        "fault": report.fault,
        "checkpoints": report.checkpoints,
        "newest_checkpoint": msgspec.to_builtins(report.newest),
    }
