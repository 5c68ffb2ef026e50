"""The lifecycle's console pages, under `/lifecycle`."""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from reclaim.common.clock import Clock
from reclaim.common.db import Database
from reclaim.common.errors import Invalid
from reclaim.lifecycle import queries, store
from reclaim.lifecycle.api import command
from reclaim.lifecycle.domain import ENDED, Case, Decide, Reactivate, Retry, State
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages, TimelineEntry

PAGE_SIZE: Final = 50

GROUPS: Final[dict[str, tuple[str, tuple[State, ...]]]] = {
    "open": ("Open", tuple(state for state in State if state not in ENDED)),
    "waiting": ("Waiting for an answer", (State.FLAGGED, State.AWAITING_DECISION)),
    "frozen": ("Frozen", (State.FROZEN,)),
    "reclaimed": ("Reclaimed", (State.RECLAIMED, State.REACTIVATING, State.REACTIVATED)),
    "kept": ("Kept or restored", (State.KEPT, State.RESTORED, State.CANCELLED, State.SKIPPED)),
    "all": ("All", tuple(State)),
}
"""The filters of the list: what each is called, and the states it shows."""

TONES: Final[dict[str, str]] = {
    State.FROZEN: "notice",
    State.ATTENTION: "bad",
    State.KEPT: "good",
    State.RESTORED: "good",
    State.RECLAIMED: "good",
    State.REACTIVATED: "good",
}

KEEPABLE: Final = frozenset(
    {
        State.FLAGGED,
        State.AWAITING_DECISION,
        State.CHECKING_BEFORE_FREEZE,
        State.FREEZING,
        State.FROZEN,
        State.CHECKING_BEFORE_RECLAIM,
        State.HANDING_OVER,
        State.IN_GRACE,
        State.AWAITING_FULFILMENT,
        State.ATTENTION,
    }
)


def router(database: Database, clock: Clock) -> APIRouter:
    """Return the routes of the pages."""
    pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/", dependencies=[Depends(require("viewer"))])
    async def case_list(
        request: Request,
        group: str = "open",
        q: Annotated[str, Query(max_length=200)] = "",
        after: str = "",
    ) -> HTMLResponse:
        if group not in GROUPS:
            raise Invalid(f"There is no filter {group!r}. Choose one above the list.", field="group")
        async with database.reading() as db:
            last = await store.find(db, after) if after else None
            cases = await store.search(
                db,
                states=[state.value for state in GROUPS[group][1]],
                text=q,
                limit=PAGE_SIZE,
                before=(last.flagged_at, last.id) if last is not None else None,
            )
            counts = await store.count_by_state(db)
        return templates.render(
            request,
            "lifecycle/cases.html",
            cases=cases,
            group=group,
            q=q,
            groups=[(name, label, _total(counts, states)) for name, (label, states) in GROUPS.items()],
            attention=counts.get(State.ATTENTION, 0),
            older=cases[-1].id if len(cases) == PAGE_SIZE else None,
        )

    @pages.get("/attention", dependencies=[Depends(require("viewer"))])
    async def attention_list(request: Request) -> HTMLResponse:
        async with database.reading() as db:
            cases = await store.search(db, states=[State.ATTENTION.value], limit=500)
        return templates.render(request, "lifecycle/attention.html", cases=cases)

    @pages.get("/audit", dependencies=[Depends(require("viewer"))])
    async def audit(request: Request) -> HTMLResponse:
        async with database.reading() as db:
            found = await queries.verify(db)
        return templates.render(request, "lifecycle/audit.html", found=found)

    @pages.get("/cases/{case_id}", dependencies=[Depends(require("viewer"))])
    async def case_page(request: Request, case_id: str) -> HTMLResponse:
        async with database.reading() as db:
            case = await queries.find(db, case_id)
            moments = await store.history(db, case_id)
            outstanding = await store.effects_of(db, case_id)
        return templates.render(
            request,
            "lifecycle/case.html",
            case=case,
            entries=[_timeline(moment) for moment in moments],
            outstanding=outstanding,
            keepable=_keepable(case),
            revocable=case.decision is None and _keepable(case),
            now=clock.now(),
        )

    @pages.post("/cases/{case_id}/decision")
    async def decide(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        decision: Annotated[Literal["keep", "revoke"], Form()],
        reason: Annotated[str, Form(min_length=1, max_length=2000)],
    ) -> RedirectResponse:
        wanted = Decide(decision, operator.name, "console", reason, clock.now())
        await command(database, case_id, operator, wanted, reason)
        return _back(case_id)

    @pages.post("/cases/{case_id}/retry")
    async def retry(case_id: str, operator: Annotated[Operator, Depends(require("operator"))]) -> RedirectResponse:
        await command(database, case_id, operator, Retry(operator.name))
        return _back(case_id)

    @pages.post("/cases/{case_id}/reactivate")
    async def reactivate(
        case_id: str,
        operator: Annotated[Operator, Depends(require("operator"))],
        reason: Annotated[str, Form(min_length=1, max_length=2000)],
    ) -> RedirectResponse:
        await command(database, case_id, operator, Reactivate(operator.name, reason), reason)
        return _back(case_id)

    return pages


def _keepable(case: Case) -> bool:
    freed = case.attention is not None and case.reclaimed_at is not None
    return case.state in KEEPABLE and not freed


def _back(case_id: str) -> RedirectResponse:
    return RedirectResponse(f"/lifecycle/cases/{case_id}", status_code=303)


def _total(counts: dict[str, int], states: tuple[State, ...]) -> int:
    return sum(counts.get(state.value, 0) for state in states)


def _timeline(moment: store.Moment) -> TimelineEntry:
    entry = moment.link.entry
    address = f" from {moment.ip}" if moment.ip else ""
    if entry.accepted:
        title, tone = entry.note, TONES.get(entry.after, "neutral")
    else:
        # A timer or an answer that came too late is no fault of anybody's.
        title, tone = f"Not done: {entry.note}", "neutral"
    return TimelineEntry(
        at=entry.at,
        # An address stays as it is written.
        title=title if "@" in title.split(" ")[0] else title[:1].upper() + title[1:],
        actor=f"{entry.actor} ({entry.channel}{address})",
        detail=_readable(entry.evidence) or None,
        tone=tone,
    )


def _readable(evidence: str) -> str:
    """Return evidence as a person reads it: a document becomes sentences, of the checks only what stood out."""
    try:
        document = json.loads(evidence)
    except ValueError:
        return evidence
    if not isinstance(document, dict):
        return evidence
    parts = []
    for name, value in document.items():
        if name == "findings":
            noticed = [one for one in value if one["outcome"] != "pass"]
            parts.append(f"{len(value) - len(noticed)} safety checks passed")
            parts.extend(f"{one['check'].replace('_', ' ')}: {one['evidence']}" for one in noticed)
        elif value not in (None, {}, [], ""):
            parts.append(f"{name.replace('_', ' ')}: {_plain(value)}")
    return "; ".join(parts)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
