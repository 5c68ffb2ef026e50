"""The pages about single seats: what is excluded, and why a seat is flagged or not. They work without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from reclaim.common.errors import ReclaimError
from reclaim.common.routing import Router
from reclaim.scanner import actions, exclusion_store, store
from reclaim.scanner.domain import Rejected
from reclaim.scanner.explain import Explained
from reclaim.scanner.finding import Several, explained
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

Viewer = Annotated[Operator, Depends(require("viewer"))]
Editor = Annotated[Operator, Depends(require("operator"))]

KINDS: Final = (
    ("person", "A person", "By the account's id or e-mail address."),
    ("group", "A group", "By its name; everybody who is in it on the connection that you choose."),
    ("department", "A department", "Everybody of whom a connection names it as theirs."),
    ("product", "A product", "By the licence's key or name."),
    ("connection", "A connection", "Nobody there is flagged."),
)

RESULTS: Final = {
    "flagged": ("Flagged", "notice"),
    "would_be_flagged": ("Would be flagged", "notice"),
    "left_alone": ("Left alone", "good"),
    "unknown": ("Not known", "bad"),
    "used": ("In use", "good"),
    "not_meant": ("Not meant", "neutral"),
}
OUTCOMES: Final = {"pass": "good", "skip": "notice", "warn": "notice", "unknown": "bad"}


def routes(deps: Deps, pages: Pages) -> Router:
    """Return the routes of these pages."""
    router = Router()

    async def exclusions_page(
        request: Request,
        *,
        past: bool = False,
        added: str = "",
        values: Mapping[str, str] | None = None,
        refused: ReclaimError | None = None,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            found = await exclusion_store.exclusions(db, deps.clock.now(), past=past)
            connections = await store.connections(db)
        new = [one for one in found if one.id == added]
        return pages.render(
            request,
            "exclusions.html",
            status_code=refused.status if refused else 200,
            exclusions=found,
            warning=await actions.protects_nobody(deps, new[0]) if new else None,
            past=past,
            kinds=KINDS,
            choices=[("", "All connections"), *((one.id, one.name) for one in connections)],
            values=values or {},
            errors=refused.by_field if isinstance(refused, Rejected) else {},
            refused=None if refused is None or isinstance(refused, Rejected) else str(refused),
        )

    @router.get("/exclusions")
    async def exclusions(
        request: Request,
        _operator: Viewer,
        past: bool = False,
        added: Annotated[str, Query(max_length=100)] = "",
        kind: Annotated[str, Query(max_length=20)] = "",
        value: Annotated[str, Query(max_length=200)] = "",
        connection_id: Annotated[str, Query(max_length=100)] = "",
    ) -> HTMLResponse:
        """Show what is excluded; the query may fill the form in, or name what was just added."""
        given = {"kind": kind, "value": value, "connection_id": connection_id}
        return await exclusions_page(request, past=past, added=added, values=given)

    @router.post("/exclusions")
    async def add_exclusion(request: Request, operator: Editor) -> Response:
        form = await request.form()
        values = {
            name: given if isinstance(given := form.get(name), str) else ""
            for name in ("kind", "value", "connection_id", "reason", "expires_at")
        }
        try:
            added, _withdrawn = await actions.add_exclusion(deps, values, author=operator.name)
        except ReclaimError as error:
            return await exclusions_page(request, values=values, refused=error)
        return RedirectResponse(f"/scanner/exclusions?added={added.id}", status_code=303)

    @router.post("/exclusions/{exclusion_id}/end")
    async def end_exclusion(exclusion_id: str, operator: Editor) -> Response:
        await actions.end_exclusion(deps, exclusion_id, by=operator.name)
        return RedirectResponse("/scanner/exclusions", status_code=303)

    @router.get("/explain")
    async def explain_seat(
        request: Request,
        _operator: Viewer,
        connection_id: Annotated[str, Query(max_length=100)] = "",
        holder: Annotated[str, Query(max_length=200)] = "",
    ) -> HTMLResponse:
        """Say why a seat is flagged or not; without a holder, ask for one, and of several let one be chosen."""
        async with deps.database.reading() as db:
            connections = await store.connections(db)
        found: Explained | None = None
        problem: ReclaimError | None = None
        several: Several | None = None
        if connection_id and holder.strip():
            try:
                found = await explained(deps, connection_id, holder)
            except Several as error:
                several = error
            except ReclaimError as error:
                problem = error
        return pages.render(
            request,
            "explain.html",
            status_code=problem.status if problem else 200,
            choices=[(one.id, one.name) for one in connections],
            connection_id=connection_id or None,
            holder=holder,
            found=found,
            several=several.holders if several else (),
            problem=None if problem is None else str(problem),
            results=RESULTS,
            outcomes=OUTCOMES,
        )

    return router
