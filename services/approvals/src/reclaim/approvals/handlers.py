"""What each event means here. Every handler takes a batch with a constant number of statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from reclaim.approvals import domain, store
from reclaim.approvals.domain import Asking, Audience, MailKind, Request
from reclaim.approvals.store import Draft
from reclaim.common.contracts import (
    AttentionRaised,
    CaseClosed,
    CaseEvent,
    Event,
    NoticeFailed,
    Person,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)
from reclaim.common.db import Unit
from reclaim.common.envelope import Received
from reclaim.common.errors import NotYet

MAIL_JOB: Final = "mail"

E = TypeVar("E", bound=CaseEvent)


@dataclass(frozen=True, slots=True)
class Deps:
    """What the handlers need. `operations` is the address of those who look after cases, if one is set."""

    operations: str | None


async def on_user_flagged(_deps: Deps, unit: Unit, events: Sequence[Received[UserFlagged]]) -> None:
    """Ask the manager, or say at once why nobody can be asked.

    A case is flagged again when somebody has corrected who is to be asked: an open question that reached nobody then
    goes to the new approver. Any other repetition changes nothing.
    """
    known = await store.load(unit.db, (event.data.case_id for event in events))
    new: dict[str, Request] = {}
    corrected: dict[str, Request] = {}
    for flagged in (event.data for event in events):
        before = known.get(flagged.case_id)
        approver, unaskable = flagged.approver, None
        if flagged.policy.route != "itsm":
            approver, unaskable = domain.whom_to_ask(flagged.seat, flagged.approver, flagged.policy)
        if before is None:
            new.setdefault(flagged.case_id, _request(flagged, approver, unaskable, unit))
        elif _unreached(before) and before.approver != approver and unaskable is None:
            corrected[flagged.case_id] = replace(
                before, approver=approver, epoch=before.epoch + 1, ask_failed_at=None, ask_failure=None
            )
    await store.add_requests(unit.db, list(new.values()))
    await store.ask_somebody_else(unit.db, list(corrected.values()))
    for request in new.values():
        if request.ask_failed_at is not None:
            _say_unaskable(unit, request)
    await _queue(unit, [ask_draft(request) for request in (*new.values(), *corrected.values()) if _askable(request)])


async def ask_managers(unit: Unit, turns: Sequence[Request]) -> list[Draft]:
    """Return the questions to the managers of holders who did not answer, and say where nobody can be asked."""
    drafts = []
    for request in turns:
        unaskable = domain.why_unaskable(request.seat, request.approver)
        if unaskable is None:
            drafts.append(ask_draft(replace(request, asking="manager")))
        elif await store.ask_failed(unit.db, request.case_id, f"{unaskable.reason} {unaskable.remedy}", unit.now):
            _say_unaskable(unit, request)
    return drafts


def _say_unaskable(unit: Unit, request: Request) -> None:
    unaskable = domain.why_unaskable(request.seat, request.approver)
    assert unaskable is not None
    say_unasked(unit, request.case_id, unaskable)


def say_unasked(unit: Unit, case_id: str, unaskable: domain.Unaskable) -> None:
    """Say that nobody could be asked by mail, and why."""
    unit.emit(
        NoticeFailed(
            case_id=case_id,
            channel="email",
            reason=unaskable.reason,
            remedy=unaskable.remedy,
            failed_at=unit.now,
        )
    )


def _request(flagged: UserFlagged, approver: Person | None, unaskable: domain.Unaskable | None, unit: Unit) -> Request:
    first = flagged.policy.ask_first == "holder" and flagged.policy.route != "itsm"
    asking: Asking = "holder" if first and domain.usable_address(flagged.seat.holder.email) else "manager"
    if asking == "holder":
        # Whether the manager can be asked counts when it is the manager's turn.
        unaskable = None
    return Request(
        case_id=flagged.case_id,
        asking=asking,
        status="not_ours" if flagged.policy.route == "itsm" else "open",
        seat=flagged.seat,
        policy=flagged.policy,
        findings=flagged.findings,
        approver=approver,
        last_used_at=flagged.last_used_at,
        flagged_at=flagged.flagged_at,
        ask_failed_at=unit.now if unaskable else None,
        ask_failure=f"{unaskable.reason} {unaskable.remedy}" if unaskable else None,
    )


def _unreached(request: Request) -> bool:
    return request.status == "open" and request.ask_failed_at is not None


def _askable(request: Request) -> bool:
    return request.status == "open" and request.ask_failed_at is None


def ask_draft(request: Request) -> Draft:
    """Return the question, as a mail to whose turn it is."""
    if request.asking == "holder":
        assert request.holder_address is not None
        return Draft(
            case_id=request.case_id,
            kind="ask_holder",
            audience="holder",
            recipient=request.holder_address,
            recipient_name=request.holder.name,
            epoch=request.epoch,
        )
    assert request.approver is not None
    assert request.manager_address is not None
    return Draft(
        case_id=request.case_id,
        kind="ask",
        audience="manager",
        recipient=request.manager_address,
        recipient_name=request.approver.name,
        epoch=request.epoch,
    )


def remind_draft(request: Request) -> Draft:
    """Return the question once more, for the reminder that is due now."""
    assert request.ask_next_at is not None
    return replace(ask_draft(request), kind="remind", occasion=request.ask_next_at.isoformat())


def tell_drafts(request: Request, kind: MailKind, *, holder: bool) -> list[Draft]:
    """Return a mail to the manager, and to the holder too if `holder`, as far as they have an address."""
    if request.status == "not_ours":
        return []
    people: list[tuple[Audience, str, str | None]] = [
        ("manager", request.approver.name if request.approver else "", request.manager_address)
    ]
    if holder:
        people.append(("holder", request.holder.name, request.holder_address))
    return [
        Draft(
            case_id=request.case_id,
            kind=kind,
            audience=audience,
            recipient=address,
            recipient_name=name,
            epoch=request.appeal_epoch if kind == "frozen" else 0,
        )
        for audience, name, address in domain.distinct(people)
    ]


async def on_user_frozen(_deps: Deps, unit: Unit, events: Sequence[Received[UserFrozen]]) -> None:
    """End the question, and tell manager and holder how to appeal."""
    changed = await _record(
        unit,
        "frozen_at",
        events,
        lambda request, event: replace(
            request, frozen_at=event.frozen_at, frozen_because=event.decision, grace_ends_at=event.grace_ends_at
        ),
    )
    await _queue(unit, [draft for request in changed for draft in tell_drafts(request, "frozen", holder=True)])


async def on_user_restored(_deps: Deps, unit: Unit, events: Sequence[Received[UserRestored]]) -> None:
    """Tell both that the freeze was undone."""
    changed = await _record(
        unit,
        "restored_at",
        events,
        lambda request, event: replace(request, restored_at=event.restored_at, restored_by=event.actor),
    )
    await _queue(unit, [draft for request in changed for draft in tell_drafts(request, "restored", holder=True)])


async def on_seat_reclaimed(_deps: Deps, unit: Unit, events: Sequence[Received[SeatReclaimed]]) -> None:
    """Tell the manager that the seat is free."""
    changed = await _record(
        unit,
        "reclaimed_at",
        events,
        lambda request, event: replace(
            request, reclaimed_at=event.reclaimed_at, records_transferred=event.records_transferred
        ),
    )
    await _queue(unit, [draft for request in changed for draft in tell_drafts(request, "reclaimed", holder=False)])


async def on_seat_reactivated(_deps: Deps, unit: Unit, events: Sequence[Received[SeatReactivated]]) -> None:
    """Tell both that the seat is back."""
    changed = await _record(
        unit,
        "reactivated_at",
        events,
        lambda request, event: replace(request, reactivated_at=event.reactivated_at, reactivated_by=event.actor),
    )
    await _queue(unit, [draft for request in changed for draft in tell_drafts(request, "reactivated", holder=True)])


async def on_case_closed(_deps: Deps, unit: Unit, events: Sequence[Received[CaseClosed]]) -> None:
    """End the question with the reason, and tell a manager who was asked and did not decide it."""
    changed = await _record(
        unit,
        "closed_at",
        events,
        lambda request, event: replace(
            request, closed_at=event.closed_at, outcome=event.outcome, closed_reason=event.reason
        ),
    )
    told = [request for request in changed if domain.closing_note_due(request)]
    await _queue(unit, [draft for request in told for draft in tell_drafts(request, "closed", holder=False)])


async def on_attention_raised(deps: Deps, unit: Unit, events: Sequence[Received[AttentionRaised]]) -> None:
    """Tell operations, if they have an address; the console lists the case either way."""
    known = await _known(unit, events)
    if deps.operations is None:
        return
    await _queue(
        unit,
        [
            Draft(
                case_id=request.case_id,
                kind="attention",
                audience="operations",
                recipient=deps.operations,
                recipient_name="Operations",
                occasion=event.data.raised_at.isoformat(),
                details={"reason": event.data.reason, "remedy": event.data.remedy},
            )
            for request, event in zip(known, events, strict=True)
        ],
    )


async def _record(
    unit: Unit, what: str, events: Sequence[Received[E]], apply: Callable[[Request, E], Request]
) -> list[Request]:
    known = await _known(unit, events)
    changed: dict[str, Request] = {}
    for request, event in zip(known, events, strict=True):
        if getattr(request, what) is None and request.case_id not in changed:
            changed[request.case_id] = apply(request, event.data)
    await store.record(unit.db, what, list(changed.values()))
    return list(changed.values())


async def _known(unit: Unit, events: Sequence[Received[E]]) -> list[Request]:
    """Return the request of each event.

    Raises:
        NotYet: the case of one is not known here.
    """
    found = await store.load(unit.db, (event.data.case_id for event in events))
    for event in events:
        if event.data.case_id not in found:
            raise NotYet(f"case {event.data.case_id}: {event.data.wire} came before UserFlagged")
    return [found[event.data.case_id] for event in events]


async def _queue(unit: Unit, drafts: Sequence[Draft]) -> None:
    if drafts:
        await store.add_mails(unit.db, drafts, unit.now)
        unit.wake(MAIL_JOB)


SUBSCRIPTIONS: Final[dict[type[Event], Callable[[Deps, Unit, Sequence[Received[Any]]], Any]]] = {
    UserFlagged: on_user_flagged,
    UserFrozen: on_user_frozen,
    UserRestored: on_user_restored,
    SeatReclaimed: on_seat_reclaimed,
    SeatReactivated: on_seat_reactivated,
    CaseClosed: on_case_closed,
    AttentionRaised: on_attention_raised,
}
