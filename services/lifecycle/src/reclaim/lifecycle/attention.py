"""What waits for a person, in one list with what to do.

Cases, seats to be freed by hand, freezes that outlived their case, overrides for a second operator, parked messages;
and that the pages are down on which people answer, for which every time-out waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse
from opentelemetry import metrics

from reclaim.common.contracts import SERVICES
from reclaim.common.db import Database
from reclaim.common.errors import Invalid
from reclaim.common.inbox import Parked
from reclaim.common.routing import Router
from reclaim.common.timing import wall_milliseconds
from reclaim.lifecycle import brake_store, console_store, drift_store, uptime_store
from reclaim.lifecycle.domain import (
    Accepted,
    AccountDeleted,
    Case,
    Command,
    Decide,
    Reactivate,
    Retry,
    State,
    Unfreeze,
    decide,
)
from reclaim.lifecycle.drift_store import LEFT_FROZEN, Listed
from reclaim.lifecycle.uptime import Uptime
from reclaim.web.auth import require
from reclaim.web.operations import parked_here
from reclaim.web.pages import Pages

SHOWN: Final = 500
"""Cases in the list. The oldest come first, and the counts say how many there are."""

_NAMED: Final[dict[str, tuple[str, tuple[State, ...]]]] = {
    "question": ("Nobody could be asked", (State.FLAGGED,)),
    "answer": ("No answer, or none that decides", (State.AWAITING_DECISION,)),
    "freeze": ("Freeze", (State.CHECKING_BEFORE_FREEZE, State.FREEZING)),
    "restore": ("Restore", (State.RESTORING,)),
    "reclaim": ("Reclaim", (State.CHECKING_BEFORE_RECLAIM, State.HANDING_OVER, State.RECLAIMING)),
    "reactivation": ("Reactivation", (State.REACTIVATING,)),
}

KINDS: Final[dict[str, tuple[str, tuple[State, ...]]]] = {
    **_NAMED,
    "other": ("Something else", tuple(set(State) - {state for _, states in _NAMED.values() for state in states})),
}
"""Kinds of reasons by what a case was about to do: name → (label, the states it goes on from)."""

PARKED: Final = "message"
"""The kind of a parked message."""

TASK: Final = "task"
"""The kind of a seat that a person was asked to free: its case goes on when they say what became of it."""

OVERRIDE: Final = "override"
"""The kind of an override of a brake that a second operator has to approve."""

PAGES: Final = "pages"
"""The kind of an outage of the pages on which people answer."""

LABELS: Final[dict[str, str]] = {kind: label for kind, (label, _states) in KINDS.items()} | {
    TASK: "To be freed by hand",
    LEFT_FROZEN: "Left frozen",
    OVERRIDE: "Override to approve",
    PAGES: "Pages to answer on",
    PARKED: "Parked message",
}

_KIND_OF: Final[Mapping[str, str]] = {state.value: kind for kind, (_, states) in KINDS.items() for state in states}

_waiting = metrics.get_meter("reclaim.lifecycle").create_gauge(
    "reclaim_cases_in_attention", description="Cases that only a person can move on"
)


def kind_of(case: Case) -> str | None:
    """Return the kind of the reason why a case waits for a person; None if it does not."""
    return None if case.attention is None else _KIND_OF[case.attention.resume.value]


def resumes_of(kind: str) -> tuple[str, ...]:
    """Return the states that cases of a kind of attention go on from; none for an empty kind, which means any.

    Raises:
        Invalid: there is no such kind.
    """
    if not kind:
        return ()
    if kind not in KINDS:
        raise Invalid(f"There is no kind of attention {kind!r}. There are: {', '.join(KINDS)}.", field="attention")
    return tuple(state.value for state in KINDS[kind][1])


def offers(case: Case, now: datetime) -> frozenset[str]:
    """Return which of *keep*, *revoke*, *retry*, *reactivate*, *deleted* and *unfreeze* the case would take now."""
    commands: dict[str, Command] = {
        "keep": Decide("keep", "", "console", "", now),
        "revoke": Decide("revoke", "", "console", "", now),
        "retry": Retry(""),
        "reactivate": Reactivate("", ""),
        "deleted": AccountDeleted("", ""),
        "unfreeze": Unfreeze(""),
    }
    return frozenset(name for name, command in commands.items() if isinstance(decide(case, command, now), Accepted))


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that waits: a case, an override of a tripped brake (`trip_id`), or a parked message of a service."""

    kind: str
    since: datetime
    reason: str
    remedy: str
    case: Case | None = None
    service: str = ""
    message: Parked | None = None
    offers: frozenset[str] = frozenset()
    trip_id: str = ""

    def document(self) -> dict[str, Any]:
        """Return the item as the API shows it."""
        shown: dict[str, Any] = {
            "kind": self.kind,
            "since": self.since,
            "reason": self.reason,
            "remedy": self.remedy,
            "service": self.service,
        }
        if self.case is not None:
            seat = self.case.seat
            return shown | {
                "case_id": self.case.id,
                "holder": seat.holder.name,
                "product": seat.product_name,
                "offers": sorted(self.offers),
            }
        if self.trip_id:
            return shown | {"trip_id": self.trip_id}
        if self.message is None:
            return shown
        return shown | {"event_id": self.message.event_id, "event": self.message.wire}


@dataclass(frozen=True, slots=True)
class Listing:
    """What waits, the longest waiting first; `counts` are by kind, and `elsewhere` the services not asked."""

    items: list[Item]
    counts: dict[str, int]
    elsewhere: list[str]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


async def listing(database: Database, parked: Mapping[str, Sequence[Parked]], kind: str = "") -> Listing:
    """Return what waits; with a `kind`, only what waits for that reason.

    Raises:
        Invalid: there is no such kind.
    """
    now = database.clock.now()
    of_cases = kind not in {PARKED, TASK, LEFT_FROZEN, OVERRIDE, PAGES}
    resumes = resumes_of(kind) if of_cases else ()
    async with database.reading() as db:
        by_resume = await console_store.count_waiting(db)
        cases = await console_store.waiting(db, resumes, limit=SHOWN) if of_cases else []
        tasks = await console_store.tasks(db, limit=SHOWN) if kind in {"", TASK} else []
        asked = await console_store.count_tasks(db)
        left = await drift_store.left_frozen(db, limit=SHOWN) if kind in {"", LEFT_FROZEN} else []
        counted_left = await drift_store.count_left_frozen(db)
        overrides = await brake_store.waiting_overrides(db)
        uptime = await uptime_store.uptime(db)
    down = not uptime.known(wall_milliseconds())
    counts = dict.fromkeys(LABELS, 0)
    for resume, count in by_resume.items():
        counts[_KIND_OF.get(resume, "other")] += count
    counts[TASK] = asked
    counts[LEFT_FROZEN] = counted_left
    counts[OVERRIDE] = len(overrides)
    counts[PAGES] = int(down)
    counts[PARKED] = sum(len(messages) for messages in parked.values())
    items = [_of_case(waiting.case, waiting.since, now) for waiting in cases]
    items += [_of_task(waiting.case, waiting.since, now) for waiting in tasks]
    items += [_of_drift(found, case, now) for found, case in left]
    if kind in {"", OVERRIDE}:
        items += [_of_override(*waiting) for waiting in overrides]
    if kind in {"", PAGES} and down:
        items.append(_of_pages(uptime))
    if kind in {"", PARKED}:
        items += [_of_message(name, message) for name, messages in parked.items() for message in messages]
    items.sort(key=lambda item: item.since)
    return Listing(items, counts, [name for name in SERVICES if name not in parked])


def _of_case(case: Case, since: datetime, now: datetime) -> Item:
    assert case.attention is not None
    kind = _KIND_OF[case.attention.resume.value]
    return Item(kind, since, case.attention.reason, case.attention.remedy, case, "lifecycle", offers=offers(case, now))


def _of_task(case: Case, since: datetime, now: datetime) -> Item:
    reason = "A person was asked to free the seat, and has not said yet that it is done."
    remedy = "Say on the page of the tasks that it is done, or why it cannot be; or keep the seat."
    return Item(TASK, since, reason, remedy, case, "lifecycle", offers=offers(case, now))


def _of_drift(found: Listed, case: Case, now: datetime) -> Item:
    drift = found.drift
    return Item(drift.kind, found.found_at, drift.detail, drift.remedy, case, "lifecycle", offers=offers(case, now))


def _of_override(override: Any, trip: Any, cases: int) -> Item:
    reason = (
        f"{override.asked_by} asked to let {cases} held case{'' if cases == 1 else 's'} through ({override.reason}). "
        f"The brake: {trip.reason}"
    )
    remedy = "Look at the cases; if they should go on, another operator than the one who asked approves it."
    return Item(OVERRIDE, override.asked_at, reason, remedy, service="lifecycle", trip_id=override.trip_id)


def _of_pages(uptime: Uptime) -> Item:
    last = max(stretch.until for stretch in uptime.stretches)
    reason = "Nothing is heard of the pages on which people answer: no time-out and no end of grace counts meanwhile."
    remedy = (
        "See that the approvals service runs, and reaches its database and the broker. What waits goes on by itself "
        "then, with the time added that was missed."
    )
    return Item(PAGES, last, reason, remedy, service="approvals")


def _of_message(service: str, message: Parked) -> Item:
    remedy = "Remove the reason, then try the message again."
    return Item(PARKED, message.since, message.reason, remedy, service=service, message=message)


async def measure(database: Database) -> bool:
    """Set the metric of cases in attention."""
    async with database.reading() as db:
        by_resume = await console_store.count_waiting(db)
    counts = dict.fromkeys(KINDS, 0)
    for resume, count in by_resume.items():
        counts[_KIND_OF.get(resume, "other")] += count
    for kind, count in counts.items():
        _waiting.set(count, {"kind": kind})
    return False


def router(database: Database) -> Router:
    """Return the page and its API."""
    routes = Router()
    templates = Pages("reclaim.lifecycle")

    @routes.get("/api/attention", dependencies=[Depends(require("viewer"))], tags=["lifecycle"])
    async def list_attention(request: Request, kind: Annotated[str, Query(max_length=40)] = "") -> dict[str, Any]:
        found = await listing(database, await parked_here(request), kind)
        return {
            "total": found.total,
            "counts": found.counts,
            "items": [item.document() for item in found.items],
            "elsewhere": found.elsewhere,
        }

    @routes.get(
        "/attention",
        dependencies=[Depends(require("viewer"))],
        include_in_schema=False,
        response_class=HTMLResponse,
    )
    async def attention_page(request: Request, kind: Annotated[str, Query(max_length=40)] = "") -> HTMLResponse:
        found = await listing(database, await parked_here(request), kind)
        return templates.render(
            request, "lifecycle/attention.html", found=found, kind=kind, labels=LABELS, here=_address(kind)
        )

    return routes


def _address(kind: str) -> str:
    return f"/lifecycle/attention?kind={kind}" if kind else "/lifecycle/attention"
