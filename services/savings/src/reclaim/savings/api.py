"""The JSON API: the report, the log, the check and the rebuild. Amounts are decimal texts, never floats."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Query
from pydantic import BaseModel

from reclaim.common.errors import Conflict
from reclaim.common.routing import Router
from reclaim.savings import domain, jobs, store
from reclaim.savings.domain import Period
from reclaim.savings.handlers import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator

Breakdown = Literal["product", "department", "rule", "month"]
COLUMN: Final[dict[str, str]] = {"product": "product", "department": "department", "rule": "rule_id"}
Year = Annotated[int | None, Query(ge=2000, le=9998, description="A calendar year in UTC; the running one if left out")]


class FiguresOut(BaseModel):
    """Key figures of one currency; `domain.Figures` says what each means."""

    currency: str
    seats_freed: int
    annualized_run_rate: Decimal
    year_to_date: Decimal
    seats_pending: int
    potential_annualized: Decimal


class WithoutPriceOut(BaseModel):
    """Seats that no amount counts."""

    seats_freed: int
    seats_pending: int


class LineOut(BaseModel):
    """One line of a breakdown; `domain.Line` says what each field means."""

    key: str
    name: str
    currency: str | None
    seats_freed: int
    seats_returned: int
    seats_now: int
    annualized_run_rate: Decimal | None
    year_to_date: Decimal | None


class ReportOut(BaseModel):
    """The savings of a year as far as it is over (`days` of `days_in_year`)."""

    as_of: datetime
    year: int
    days: int
    days_in_year: int
    figures: list[FiguresOut]
    without_price: WithoutPriceOut
    dry_run: dict[str, int]
    by: Breakdown | None
    lines: list[LineOut]


class EventOut(BaseModel):
    """One entry of the log; `monthly` is signed."""

    position: int
    event_id: str
    case_id: str
    kind: str
    connection_id: str
    product: str
    product_name: str
    department: str | None
    rule_id: str | None
    rule_name: str | None
    currency: str | None
    monthly: Decimal | None
    occurred_at: datetime
    dry_run: bool


class EventsOut(BaseModel):
    """A page of the log, oldest first. Ask for the next with `after=next_after`, until it is null."""

    events: list[EventOut]
    next_after: int | None


class SumsOut(BaseModel):
    """What the log and two tables say that the freed seats of a currency cost a month; null is *no price*."""

    currency: str | None
    event_log: Decimal
    savings_daily: Decimal
    seat_saving: Decimal


class VerificationOut(BaseModel):
    """What the check found; `ok` says it all."""

    ok: bool
    gap_free: bool
    events: int
    head: int
    projected: int
    sums: list[SumsOut]
    differing_rows: dict[str, int]


class RebuildOut(BaseModel):
    """How the latest rebuild stands; `none` if there never was one."""

    state: Literal["none", "requested", "running", "done"]
    position: int = 0
    target: int = 0
    requested_by: str | None = None
    requested_at: datetime | None = None
    finished_at: datetime | None = None


async def report(deps: Deps, year: int | None, by: Breakdown | None) -> ReportOut:
    """Put a year's report together from one state of the reporting tables."""
    now = deps.clock.now()
    period = Period.of(year or now.year, now)
    async with deps.database.reading() as db:
        seats = await store.seat_totals(db, period, None)
        days = await store.day_totals(db, period, None)
        lines, names = await _breakdown(db, period, by, days)
        rehearsed = await store.rehearsed(db)
    figures, without_price = domain.key_figures(period, seats, days)
    return ReportOut(
        as_of=now,
        year=period.year,
        days=period.days,
        days_in_year=period.days_in_year,
        figures=[FiguresOut(**asdict(one)) for one in figures],
        without_price=WithoutPriceOut(**asdict(without_price)),
        dry_run={state: rehearsed.get(state, 0) for state in ("frozen", "freed", "restored", "reactivated", "closed")},
        by=by,
        lines=[LineOut(**asdict(line), name=names.get(line.key, line.key)) for line in lines],
    )


async def _breakdown(
    db: Any, period: Period, by: Breakdown | None, days: list[domain.DayTotal]
) -> tuple[list[domain.Line], dict[str, str]]:
    if by is None:
        return [], {}
    if by == "month":
        return domain.by_month(period, days), {}
    column = COLUMN[by]
    lines = domain.by_dimension(
        period, await store.seat_totals(db, period, column), await store.day_totals(db, period, column)
    )
    return lines, {} if by == "department" else await store.names(db, by)


def event_out(logged: store.Logged) -> EventOut:
    """Return an entry as the API shows it."""
    return EventOut(position=logged.position, **asdict(logged.entry))


async def rebuild_status(deps: Deps) -> RebuildOut:
    """Return how the latest rebuild stands."""
    async with deps.database.reading() as db:
        status = await store.rebuild_status(db)
    return RebuildOut(state="none") if status is None else RebuildOut(**asdict(status))


async def request_rebuild(deps: Deps, operator: Operator) -> None:
    """Ask for a rebuild in an operator's name.

    Raises:
        Conflict: one is under way already.
    """
    async with deps.database.unit() as unit:
        if not await store.request_rebuild(unit.db, operator.name, unit.now):
            raise Conflict("A rebuild is under way already. Its progress is at GET /savings/api/rebuild.")
        unit.wake(jobs.REBUILD)


def router(deps: Deps) -> Router:
    """Return the endpoints."""
    api = Router(prefix="/api", tags=["savings"])
    viewer = [Depends(require("viewer"))]

    @api.get("/report", dependencies=viewer)
    async def get_report(year: Year = None, by: Breakdown | None = None) -> ReportOut:
        """Key figures per currency, and one breakdown."""
        return await report(deps, year, by)

    @api.get("/events", dependencies=viewer)
    async def get_events(
        after: Annotated[int, Query(ge=0, lt=2**63, description="The position to go on from")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> EventsOut:
        """The event log, oldest first."""
        async with deps.database.reading() as db:
            found = await store.entries_after(db, after, limit + 1)
        page = [event_out(logged) for logged in found[:limit]]
        return EventsOut(events=page, next_after=page[-1].position if len(found) > limit else None)

    @api.get("/verify", dependencies=viewer)
    async def get_verify() -> VerificationOut:
        """Check that the log has no gap, and that the reporting tables are what it gives."""
        async with deps.database.reading() as db:
            found = await store.verify(db)
        return VerificationOut(
            ok=found.ok,
            gap_free=found.gap_free,
            events=found.events,
            head=found.head,
            projected=found.projected,
            sums=[SumsOut(**asdict(sums)) for sums in found.sums],
            differing_rows=found.differing,
        )

    @api.post("/rebuild", status_code=202)
    async def post_rebuild(operator: Annotated[Operator, Depends(require("operator"))]) -> RebuildOut:
        """Rebuild the reporting tables from the log, in the background."""
        await request_rebuild(deps, operator)
        return await rebuild_status(deps)

    @api.get("/rebuild", dependencies=viewer)
    async def get_rebuild() -> RebuildOut:
        """How the latest rebuild stands."""
        return await rebuild_status(deps)

    return api
