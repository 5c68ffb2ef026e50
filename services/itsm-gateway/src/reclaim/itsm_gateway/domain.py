"""What is asked through a service desk, and how far a case has come since. Pure: no clock, no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from reclaim.common.contracts import (
    CaseClosed,
    FulfilmentAnnounced,
    FulfilmentRequested,
    NoticeFailed,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)
from reclaim.connectors.itsm.ports import TASK

State = Literal["waiting", "announced", "frozen", "restored", "reclaimed", "closed", "reactivated"]
RANK: Final[dict[State, int]] = {
    "waiting": 0,
    "announced": 1,
    "frozen": 1,
    "restored": 2,
    "reclaimed": 2,
    "closed": 3,
    "reactivated": 4,
}
"""How far along a state is: events may arrive in any order, and only a later one moves a request on."""

Kind = Literal["question", "task", "trial"]
"""What a ticket is for: to ask, to have a seat freed by hand, or to try a connection."""
Act = Literal["comment", "close", "reopen", "end", "end_quietly"]
"""What is done to a ticket along with the words that it is told. After an `end` nobody polls it any more; a quiet one
says nothing on a ticket that is closed already.
"""

_TRIAL: Final = "setup-"
LONGEST_REFERENCE: Final = 24
"""Characters of the reference of a trial: its marker then has room in whatever tag a desk knows it by, in full."""

NO_DESK: Final = "No service desk is connected."
A_DOWNGRADE_REVOKES: Final = (
    "This ticket asks for a downgrade, and the rule names no cheaper licence to move the holder to: it is taken as "
    "revoke. Whoever needs the seat can have it restored during the grace period."
)
NO_TASK: Final = "It says that a task was carried out, and asks for a decision: say so on the task's own ticket."

Progress = (
    UserFrozen | UserRestored | FulfilmentAnnounced | FulfilmentRequested | SeatReclaimed | SeatReactivated | CaseClosed
)


def trial(desk_id: str, token: str) -> str:
    """Return the name of a set-up: that of its connection, cut so that its reference has room, and a token."""
    if not token:
        return desk_id
    return f"{desk_id[: LONGEST_REFERENCE - len(_TRIAL) - len(token) - 1]}-{token}"


def reference(name: str, kind: Kind) -> str:
    """Return what a desk knows a ticket by: of a case by its id, of a trial by the name of its set-up."""
    match kind:
        case "question":
            return name
        case "task":
            return f"{name}{TASK}"
        case "trial":
            return f"{_TRIAL}{name}"


def of_reference(found: str) -> tuple[str, Kind]:
    """Return the case, or of a trial the set-up, whose ticket a desk knows by this; and what it is for."""
    if found.startswith(_TRIAL):
        return found.removeprefix(_TRIAL), "trial"
    if found.endswith(TASK):
        return found.removesuffix(TASK), "task"
    return found, "question"


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a case that its ticket should tell of. `state` is None for one that does not move the request."""

    event_id: str
    case_id: str
    at: datetime
    text: str
    state: State | None


def step(event_id: str, event: Progress) -> Step:
    """Return the step that an event tells of."""
    state: State | None
    match event:
        case UserFrozen():
            until = f"{event.grace_ends_at:%d %B %Y, %H:%M} UTC"
            state, at = "frozen", event.frozen_at
            text = f"The seat was frozen. It can be restored until {until}: whoever needs it reopens this ticket."
        case UserRestored():
            state, at = "restored", event.restored_at
            text = f"The seat was restored by {event.actor}. {event.reason}"
        case FulfilmentAnnounced():
            until = f"{event.grace_ends_at:%d %B %Y, %H:%M} UTC"
            decided = "Nobody answered in time" if event.decision == "timeout" else f"It was decided: {event.decision}"
            state, at = "announced", event.announced_at
            text = (
                f"{decided}. A person is asked to free the seat after {until}; it stays as it is before. Until then it "
                "can be kept: whoever needs it reopens this ticket."
            )
        case FulfilmentRequested():
            rehearsal = "Dry run, nothing to do: " if event.dry_run else ""
            state, at, text = None, event.requested_at, f"{rehearsal}{event.instructions}"
        case SeatReclaimed():
            state, at = "reclaimed", event.reclaimed_at
            records = event.records_transferred
            text = f"The seat was freed. {records} open record{' has' if records == 1 else 's have'} a new owner."
        case SeatReactivated():
            state, at = "reactivated", event.reactivated_at
            text = f"The seat was given back by {event.actor}. {event.reason}"
        case CaseClosed():
            state, at, text = "closed", event.closed_at, f"The case was closed ({event.outcome}). {event.reason}"
    return Step(event_id, event.case_id, at, text.strip(), state)


def acts(event: Progress) -> tuple[Act, Act]:
    """Return what an event does to the ticket that asked, and to that of a task.

    Once the seat is frozen, or is to be freed by a person, the question is answered: its ticket is closed, so that
    reopening it is an appeal.
    """
    match event:
        case UserFrozen() | FulfilmentAnnounced():
            return "close", "comment"
        case FulfilmentRequested():
            return "comment", "reopen"
        case CaseClosed(outcome="reclaimed" | "restored"):
            return "end_quietly", "end_quietly"  # it has just been told
        case CaseClosed():
            return "end", "end"
        case _:
            return "comment", "comment"


def no_answer(why: str, how: str) -> str:
    """Return what a ticket is told that was closed and decides nothing."""
    return f"This is no answer yet. {why} {how}".strip()


def have_it_answered(how: str) -> str:
    """Return what a person can do about a ticket that decides nothing."""
    return f"Decide on the case's page, or have the ticket answered. {how or 'The time to answer runs on.'}"


def reopened_too_late(outcome: str | None) -> str:
    """Return what a ticket is told that was reopened after the end of its case; None: how that was is not known."""
    if outcome is None:
        return (
            "This case has ended, and this ticket changes nothing any more. If the seat was freed and is needed again, "
            "ask an operator of Reclaim to reactivate it."
        )
    if outcome == "reclaimed":
        return (
            "The seat was freed before this ticket was reopened. If it is needed again, ask an operator of Reclaim to "
            "reactivate it: the case's page has a button for it. This ticket changes nothing any more."
        )
    return f"This case is closed ({outcome}), and nothing was taken away. This ticket changes nothing any more."


def through_the_desk(event: UserFlagged) -> bool:
    """Tell whether the case's rule asks through a service desk (alone, or beside e-mail)."""
    return event.policy.route in {"itsm", "both"}


def no_such_desk(desk_id: str) -> str:
    """Return that a desk which a rule or a ticket names is not connected."""
    return f"No service desk is connected as {desk_id}."


def nobody_asked(event: UserFlagged, now: datetime) -> NoticeFailed:
    """Return the word that a case cannot be asked through a service desk, and what a person can do about it."""
    desk, rule = event.policy.desk, f"the rule “{event.policy.rule_name}”"
    ahead = f"set the route of {rule} to e-mail" if desk is None else f"connect that desk, or name another in {rule}"
    return NoticeFailed(
        case_id=event.case_id,
        channel="itsm",
        reason=NO_DESK if desk is None else no_such_desk(desk),
        remedy=f"Decide this case on its page in the console. For cases to come, {ahead}.",
        failed_at=now,
    )
