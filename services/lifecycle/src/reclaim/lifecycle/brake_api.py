"""The JSON API of the brakes and the kill switch, under `/lifecycle/api/brakes` and `/lifecycle/api/kill-switch`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Database
from reclaim.common.errors import NotFound
from reclaim.common.routing import Router
from reclaim.lifecycle import brake_gate, brake_store
from reclaim.lifecycle.brakes import STEPS, WINDOWS, Limits
from reclaim.web.auth import require
from reclaim.web.operators import Operator

MOST: Final = 1_000_000

Number = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[int, Field(ge=1, le=100, description="per cent of the connection's seats")]


class LimitsIn(BaseModel):
    """The limits of one connection; each holds for freezes and, apart from them, for reclaims."""

    model_config = ConfigDict(extra="forbid")

    run_most: Number
    run_share: Share
    day_most: Number
    day_share: Share
    month_most: Number
    month_share: Share
    canary: Number
    reason: str = Field(min_length=1, max_length=2000)

    def figures(self) -> dict[str, int]:
        """Return the limits without the reason."""
        return self.model_dump(exclude={"reason"})


class ReasonIn(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=2000)


class EngageIn(ReasonIn):
    """What to stop. `target` is a connection's or a rule's id, and empty for everything."""

    scope: Literal["global", "connection", "rule"]
    target: str = Field(default="", max_length=200)

    @model_validator(mode="after")
    def _names_what_it_is_about(self) -> EngageIn:
        if (self.scope == "global") != (self.target == ""):
            raise ValueError("target names the connection or the rule, and is empty for everything")
        return self


async def overview(db: AsyncConnection, defaults: Limits, database: Database) -> dict[str, Any]:
    """Return everything about the brakes: each connection's limits and usage, what has tripped, and the canaries."""
    return {
        "connections": [
            await usage(db, row.id, row.name, defaults, database) for row in await brake_store.connections(db)
        ],
        "trips": [await shown_trip(db, trip) for trip in await brake_store.trips(db, closed=False)],
        "dealt_with": [await shown_trip(db, trip) for trip in await brake_store.trips(db, closed=True, limit=20)],
        "canaries": [await _shown_canary(db, canary) for canary in await brake_store.canaries(db)],
    }


async def usage(
    db: AsyncConnection, connection_id: str, name: str, defaults: Limits, database: Database
) -> dict[str, Any]:
    """Return a connection's limits, who set them, and how much of each is used by live cases."""
    row = await brake_store.limits_of(db, connection_id)
    limits = brake_store.as_limits(row, defaults)
    now = database.clock.now()
    seats = await brake_store.seats_of(db, connection_id, now)
    mine = brake_store.of_connection(connection_id, dry_run=False)
    windows = await brake_store.count_windows(db, mine, now)
    run = await brake_store.latest_run(db, connection_id)
    caps = [
        {"cap": cap, "step": step, "used": windows[cap, step], "allowed": limits.allowed(cap, seats)}
        for cap in WINDOWS
        for step in STEPS
    ]
    if run is not None:
        run_id, counts = run
        caps = [
            {
                "cap": "run",
                "step": step,
                "run_id": run_id,
                "used": counts[step],
                "allowed": limits.allowed("run", seats),
            }
            for step in STEPS
        ] + caps
    return {
        "id": connection_id,
        "name": name,
        "seats": seats,
        "limits": asdict(limits),
        "set_by": row.set_by if row is not None else None,
        "set_at": row.set_at if row is not None else None,
        "reason": row.reason if row is not None else None,
        "usage": caps,
    }


async def shown_trip(db: AsyncConnection, trip: Any) -> dict[str, Any]:
    """Return a tripped brake with the cases that it holds and the overrides that were asked for."""
    held = await brake_store.held(db, trip.id)
    document = {**trip._asdict(), "closed_by": trip.closed_by or None, "closed_how": trip.closed_how or None}
    asked = {override for _, override in held}
    return {
        **document,
        "held": [
            {"id": case.id, "holder": case.seat.holder.name, "product": case.seat.product_name, "override_id": override}
            for case, override in held
        ],
        "overrides": [
            {**one._asdict(), "waiting": one.approved_at is None and one.id in asked}
            for one in await brake_store.overrides(db, [trip.id])
        ],
    }


async def _shown_canary(db: AsyncConnection, canary: Any) -> dict[str, Any]:
    members = await brake_store.canary_cases(db, canary.rule_id, canary.rule_version, most=canary.size)
    return {
        **canary._asdict(),
        "cases": [{"id": case.id, "holder": case.seat.holder.name, "state": case.state.value} for case in members],
        "unfinished": len(brake_gate.unfinished(members)),
    }


async def found_trip(db: AsyncConnection, trip_id: str) -> dict[str, Any]:
    """Return a trip as it is shown.

    Raises:
        NotFound: there is none of that id.
    """
    trip = await brake_store.trip(db, trip_id)
    if trip is None:
        raise NotFound(f"There is no tripped brake {trip_id}. Look it up on the page Brakes.")
    return await shown_trip(db, trip)


def router(database: Database, defaults: Limits) -> Router:
    """Return the routes of the API."""
    api = Router(prefix="/api", tags=["brakes"])

    @api.get("/brakes", dependencies=[Depends(require("viewer"))])
    async def show_brakes() -> dict[str, Any]:
        async with database.reading() as db:
            return await overview(db, defaults, database)

    @api.put("/brakes/limits/{connection_id}", status_code=204)
    async def set_limits(
        connection_id: str, wanted: LimitsIn, operator: Annotated[Operator, Depends(require("admin"))]
    ) -> None:
        async with database.unit() as unit:
            await brake_gate.set_limits(unit, connection_id, wanted.figures(), by=operator.name, reason=wanted.reason)

    @api.get("/brakes/trips/{trip_id}", dependencies=[Depends(require("viewer"))])
    async def show_trip(trip_id: str) -> dict[str, Any]:
        async with database.reading() as db:
            return await found_trip(db, trip_id)

    @api.post("/brakes/trips/{trip_id}/retry")
    async def retry(trip_id: str, operator: Annotated[Operator, Depends(require("operator"))]) -> dict[str, int]:
        async with database.unit() as unit:
            return {"tried_again": await brake_gate.retry_within_limits(unit, trip_id, by=operator.name)}

    @api.post("/brakes/trips/{trip_id}/overrides", status_code=201)
    async def ask(
        trip_id: str, wanted: ReasonIn, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, str]:
        async with database.unit() as unit:
            asked = await brake_gate.ask_override(unit, trip_id, by=operator.name, reason=wanted.reason)
        return {"override_id": asked}

    @api.post("/brakes/trips/{trip_id}/overrides/{override_id}/approve")
    async def approve(
        trip_id: str, override_id: str, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, int]:
        async with database.unit() as unit:
            return {
                "let_through": await brake_gate.approve_override(unit, trip_id, override_id, defaults, by=operator.name)
            }

    @api.post("/brakes/canaries/{rule_id}/{version}/confirm")
    async def confirm(
        rule_id: str, version: int, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, int]:
        async with database.unit() as unit:
            return {"let_go": await brake_gate.confirm_canary(unit, rule_id, version, by=operator.name)}

    @api.get("/kill-switch", dependencies=[Depends(require("viewer"))])
    async def show_switches() -> dict[str, Any]:
        async with database.reading() as db:
            found = await brake_store.switches(db)
            waiting = await brake_store.count_waiting(db)
        documents = [one._asdict() for one in found]
        engaged = [one for one in documents if one["released_at"] is None]
        return {"engaged": engaged, "history": documents, "waiting": waiting}

    @api.post("/kill-switch", status_code=201)
    async def engage(
        wanted: EngageIn, operator: Annotated[Operator, Depends(require("operator"))], response: Response
    ) -> dict[str, Any]:
        async with database.unit() as unit:
            found, new = await brake_gate.engage(
                unit, wanted.scope, wanted.target, by=operator.name, reason=wanted.reason
            )
        if not new:
            response.status_code = 200
        document: dict[str, Any] = found._asdict()
        return document

    @api.post("/kill-switch/{switch_id}/release")
    async def release(
        switch_id: str, wanted: ReasonIn, operator: Annotated[Operator, Depends(require("admin"))]
    ) -> dict[str, Any]:
        async with database.unit() as unit:
            found = await brake_gate.release(unit, switch_id, by=operator.name, reason=wanted.reason)
        document: dict[str, Any] = found._asdict()
        return document

    return api
