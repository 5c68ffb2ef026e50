"""The console pages of the brakes and the kill switch, under `/lifecycle/brakes`."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from reclaim.common.db import Database
from reclaim.common.errors import Invalid, NotFound
from reclaim.common.routing import Router
from reclaim.lifecycle import brake_gate, brake_store
from reclaim.lifecycle.brake_api import MOST, found_trip, overview, usage
from reclaim.lifecycle.brakes import Limits, Scope, same_person
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

CAPS: Final = {"run": "The latest run", "day": "24 hours", "month": "30 days", "canary": "First live batch"}
SCOPES: Final[dict[str, Scope]] = {"global": "global", "connection": "connection", "rule": "rule"}

Reason = Annotated[str, Form(min_length=1, max_length=2000)]
Number = Annotated[int, Form(ge=0, le=MOST)]
Share = Annotated[int, Form(ge=1, le=100)]


def router(database: Database, defaults: Limits) -> Router:
    """Return the routes of the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/brakes", dependencies=[Depends(require("viewer"))])
    async def brakes(request: Request) -> HTMLResponse:
        async with database.reading() as db:
            found = await overview(db, defaults, database)
            engaged = [one for one in await brake_store.switches(db) if one.released_at is None]
            names = await _names(db)
        return templates.render(
            request, "lifecycle/brakes.html", **found, engaged=engaged, names=names, caps=CAPS, most=MOST
        )

    @pages.get("/brakes/limits/{connection_id}", dependencies=[Depends(require("viewer"))])
    async def limits_form(request: Request, connection_id: str) -> HTMLResponse:
        async with database.reading() as db:
            names = {row.id: row.name for row in await brake_store.connections(db)}
            if connection_id not in names:
                raise NotFound(f"There is no connection {connection_id} here. Look it up on the page Brakes.")
            found = await usage(db, connection_id, names[connection_id], defaults, database)
        return templates.render(request, "lifecycle/brake_limits.html", connection=found, most=MOST)

    @pages.post("/brakes/limits/{connection_id}")
    async def set_limits(
        connection_id: str,
        operator: Annotated[Operator, Depends(require("admin"))],
        run_most: Number,
        run_share: Share,
        day_most: Number,
        day_share: Share,
        month_most: Number,
        month_share: Share,
        canary: Number,
        reason: Reason,
    ) -> RedirectResponse:
        figures = {
            "run_most": run_most,
            "run_share": run_share,
            "day_most": day_most,
            "day_share": day_share,
            "month_most": month_most,
            "month_share": month_share,
            "canary": canary,
        }
        async with database.unit() as unit:
            await brake_gate.set_limits(unit, connection_id, figures, by=operator.name, reason=reason)
        return _to("/lifecycle/brakes")

    @pages.get("/brakes/trips/{trip_id}")
    async def trip_page(
        request: Request, trip_id: str, operator: Annotated[Operator, Depends(require("viewer"))]
    ) -> HTMLResponse:
        async with database.reading() as db:
            trip = await found_trip(db, trip_id)
            names = await _names(db)
        waiting = next((one for one in trip["overrides"] if one["waiting"]), None)
        own = waiting is not None and same_person(waiting["asked_by"], operator.name)
        return templates.render(
            request, "lifecycle/brake_trip.html", trip=trip, names=names, caps=CAPS, waiting=waiting, own=own
        )

    @pages.post("/brakes/trips/{trip_id}/retry")
    async def retry(trip_id: str, operator: Annotated[Operator, Depends(require("operator"))]) -> RedirectResponse:
        async with database.unit() as unit:
            await brake_gate.retry_within_limits(unit, trip_id, by=operator.name)
        return _to("/lifecycle/brakes")

    @pages.post("/brakes/trips/{trip_id}/overrides")
    async def ask(
        trip_id: str, operator: Annotated[Operator, Depends(require("operator"))], reason: Reason
    ) -> RedirectResponse:
        async with database.unit() as unit:
            await brake_gate.ask_override(unit, trip_id, by=operator.name, reason=reason)
        return _to(f"/lifecycle/brakes/trips/{trip_id}")

    @pages.post("/brakes/trips/{trip_id}/overrides/{override_id}/approve")
    async def approve(
        trip_id: str, override_id: str, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> RedirectResponse:
        async with database.unit() as unit:
            await brake_gate.approve_override(unit, trip_id, override_id, defaults, by=operator.name)
        return _to(f"/lifecycle/brakes/trips/{trip_id}")

    @pages.post("/brakes/canaries/{rule_id}/{version}/confirm")
    async def confirm(
        rule_id: str, version: int, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> RedirectResponse:
        async with database.unit() as unit:
            await brake_gate.confirm_canary(unit, rule_id, version, by=operator.name)
        return _to("/lifecycle/brakes")

    @pages.get("/brakes/kill-switch", dependencies=[Depends(require("viewer"))])
    async def kill_switch(request: Request) -> HTMLResponse:
        async with database.reading() as db:
            switches = await brake_store.switches(db)
            waiting = await brake_store.count_waiting(db)
            names = await _names(db)
            connections = await brake_store.connections(db)
            rules = await brake_store.rules(db)
        options = [("global", "Everything")]
        options += [(f"connection:{row.id}", f"The connection {row.name}") for row in connections]
        options += [(f"rule:{rule_id}", f"The rule {name}") for rule_id, name in sorted(rules.items())]
        return templates.render(
            request,
            "lifecycle/kill_switch.html",
            engaged=[one for one in switches if one.released_at is None],
            released=[one for one in switches if one.released_at is not None],
            waiting=waiting,
            names=names,
            options=options,
        )

    @pages.post("/brakes/kill-switch")
    async def engage(
        operator: Annotated[Operator, Depends(require("operator"))],
        what: Annotated[str, Form(max_length=300)],
        reason: Reason,
    ) -> RedirectResponse:
        scope, _, target = what.partition(":")
        if scope not in SCOPES or (scope == "global") != (target == ""):
            raise Invalid("Choose what to stop from the list.", field="what")
        async with database.unit() as unit:
            await brake_gate.engage(unit, SCOPES[scope], target, by=operator.name, reason=reason)
        return _to("/lifecycle/brakes/kill-switch")

    @pages.get("/brakes/kill-switch/{switch_id}", dependencies=[Depends(require("viewer"))])
    async def release_form(request: Request, switch_id: str) -> HTMLResponse:
        async with database.reading() as db:
            found = await brake_store.switch(db, switch_id)
            names = await _names(db)
        if found is None:
            raise NotFound(f"There is no kill switch {switch_id}. Look it up on the page Kill switch.")
        return templates.render(request, "lifecycle/kill_switch_release.html", switch=found, names=names)

    @pages.post("/brakes/kill-switch/{switch_id}/release")
    async def release(
        switch_id: str, operator: Annotated[Operator, Depends(require("admin"))], reason: Reason
    ) -> RedirectResponse:
        async with database.unit() as unit:
            await brake_gate.release(unit, switch_id, by=operator.name, reason=reason)
        return _to("/lifecycle/brakes/kill-switch")

    return pages


async def _names(db: Any) -> dict[str, str]:
    """Return what connections and rules are called, by id; the empty id is everything."""
    connections = {row.id: row.name for row in await brake_store.connections(db)}
    return {"": "Everything", **await brake_store.rules(db), **connections}


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)
