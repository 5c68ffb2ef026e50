"""What is asked through a service desk, and how far a case has come since. Pure: no clock, no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from reclaim.common.contracts import (
    CaseClosed,
    FulfilmentRequested,
    NoticeFailed,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)

State = Literal["waiting", "frozen", "restored", "reclaimed", "closed", "reactivated"]
RANK: Final[dict[State, int]] = {
    "waiting": 0,
    "frozen": 1,
    "restored": 2,
    "reclaimed": 2,
    "closed": 3,
    "reactivated": 4,
}
"""How far along a state is: events may arrive in any order, and only a later one moves a request on."""

NO_DESK: Final = "No service desk is connected."

Progress = UserFrozen | UserRestored | FulfilmentRequested | SeatReclaimed | SeatReactivated | CaseClosed


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
            state, at, text = "frozen", event.frozen_at, f"The seat was frozen. It can be restored until {until}."
        case UserRestored():
            state, at = "restored", event.restored_at
            text = f"The seat was restored by {event.actor}. {event.reason}"
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


def through_the_desk(event: UserFlagged) -> bool:
    """Tell whether the case's rule asks through a service desk (alone, or beside e-mail)."""
    return event.policy.route in {"itsm", "both"}


def nobody_asked(event: UserFlagged, now: datetime) -> NoticeFailed:
    """Return the word that a case cannot be asked through a service desk, and what a person can do about it."""
    desk, rule = event.policy.desk, f"the rule “{event.policy.rule_name}”"
    ahead = f"set the route of {rule} to e-mail" if desk is None else f"connect that desk, or name another in {rule}"
    return NoticeFailed(
        case_id=event.case_id,
        channel="itsm",
        reason=NO_DESK if desk is None else f"No service desk is connected as {desk}.",
        remedy=f"Decide this case on its page in the console. For cases to come, {ahead}.",
        failed_at=now,
    )
