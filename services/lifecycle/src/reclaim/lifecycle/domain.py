"""The life of a case, purely: `decide(case, command, now)` says what becomes of it, and does nothing.

`TRANSITIONS` is the whole behaviour: what is not in it is refused with a reason. Effects are data; whoever runs them
answers with a command. Time is an argument, instants are UTC.

    flagged ─▶ awaiting_decision ─▶ kept
                  │ revoke, time-out
                  ▼
            checking_before_freeze ─▶ freezing ─▶ frozen ── appeal ─▶ restoring ─▶ restored
                  │ active again                    │ grace over         ▲
                  ▼                                 ▼                    │ appeal, active again
              cancelled                  checking_before_reclaim ────────┤
                                                    │                    │
                                              handing_over ──────────────┘
                                                    ▼
                             reclaiming or downgrading ─▶ reclaimed ─▶ reactivating ─▶ reactivated

    Where a person frees the seat nothing is frozen and nothing written: checking_before_freeze ─▶ in_grace ─▶
    checking_before_reclaim ─▶ awaiting_fulfilment ─▶ reclaimed.
    attention: a person must look, and then goes on from where it stood.  skipped: the seat needs no case any more;
    a case that is withdrawn after a freeze gets there through restoring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from reclaim.common.contracts import (
    AttentionRaised,
    CaseClosed,
    Channel,
    CheaperLicence,
    Decision,
    Event,
    FulfilmentAnnounced,
    FulfilmentRequested,
    Outcome,
    Person,
    Policy,
    ReclaimBy,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    Use,
    UserFrozen,
    UserRestored,
    Withdrawal,
)
from reclaim.lifecycle import calendar


class State(StrEnum):
    """Where a case stands."""

    FLAGGED = "flagged"
    AWAITING_DECISION = "awaiting_decision"
    CHECKING_BEFORE_FREEZE = "checking_before_freeze"
    FREEZING = "freezing"
    FROZEN = "frozen"
    IN_GRACE = "in_grace"
    RESTORING = "restoring"
    CHECKING_BEFORE_RECLAIM = "checking_before_reclaim"
    HANDING_OVER = "handing_over"
    RECLAIMING = "reclaiming"
    DOWNGRADING = "downgrading"
    AWAITING_FULFILMENT = "awaiting_fulfilment"
    RECLAIMED = "reclaimed"
    REACTIVATING = "reactivating"
    REACTIVATED = "reactivated"
    KEPT = "kept"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    RESTORED = "restored"
    ATTENTION = "attention"


ENDED: Final = frozenset(
    {State.KEPT, State.CANCELLED, State.SKIPPED, State.RESTORED, State.RECLAIMED, State.REACTIVATED}
)
"""States in which the holder and product may be flagged anew. A reclaimed seat may still be given back."""


class Attention(msgspec.Struct, frozen=True):
    """Why a person must look, what they can do, and the state the case goes on from.

    A case that awaits a decision may stay in that state all the same: its deadline stands. `foreign`: somebody else's
    freeze is in the way, and may be left as it is. `unseen`: the connection does not show the account any more, and
    only a person can tell whether it was deleted.
    """

    reason: str
    remedy: str
    resume: State
    foreign: bool = False
    unseen: bool = False


class UseTold(msgspec.Struct, frozen=True):
    """What sources of use said of a seat, when they were asked at `asked_at`. Also the command that says so."""

    use: Use
    reason: str
    asked_at: datetime


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One flagged seat on its way. `version` counts what was accepted; `frozen_at` is set only while *we* froze it.

    `checked_at` is when the last check before a step was clear. `unsure`: a freeze, or once frozen a deactivation or
    downgrade, was given up without an answer, and may have happened, a downgrade in part. `before` is what the holder
    had before a downgrade, as the connector gave it, for putting it back. `run_id` is the scan that flagged the seat.
    `withdrawn`: what stands as an appeal is the scanner's withdrawal, so that the case ends as skipped, or as cancelled
    where `withdrawal`, which says why, is use. `closed_as` is how the case ended, once that was said.
    `told` is what sources of use said last, of a rule that rests on them. `again`: a step that hung was carried out
    while the account was given back, which is done once more therefore. `given_back_at` is when it was said that a
    reclaimed seat is back.
    """

    id: str
    seat: Seat
    approver: Person | None
    policy: Policy
    state: State
    flagged_at: datetime
    last_used_at: datetime | None = None
    version: int = 1
    notified_at: datetime | None = None
    decide_by: datetime | None = None
    decision: Literal["keep", "revoke", "downgrade", "timeout"] | None = None
    decided_by: str | None = None
    decided_at: datetime | None = None
    frozen_at: datetime | None = None
    grace_ends_at: datetime | None = None
    appealed_by: str | None = None
    appeal_reason: str = ""
    appealed_at: datetime | None = None
    checked_at: datetime | None = None
    unsure: bool = False
    records_transferred: int = 0
    reclaimed_at: datetime | None = None
    reactivation_asked_by: str = ""
    reactivation_reason: str = ""
    attention: Attention | None = None
    run_id: str | None = None
    method: ReclaimBy = "deactivate"
    before: dict[str, Any] | None = None
    fulfilled_by: str | None = None
    withdrawn: bool = False
    told: UseTold | None = None
    again: bool = False
    given_back_at: datetime | None = None
    withdrawal: Withdrawal | None = None
    closed_as: State | None = None

    @property
    def open(self) -> bool:
        """Whether the case stands in the way of another one for its seat. Giving a seat back never does."""
        return self.state not in ENDED and self.reclaimed_at is None

    @property
    def left_frozen(self) -> bool:
        """Whether the case ended with its seat out of reach, and left a freeze there that is, or may be, ours."""
        ours = self.frozen_at is not None or self.unsure
        return self.state is State.SKIPPED and ours and not self.policy.dry_run


TIMED: Final[Mapping[str, frozenset[State]]] = {
    "deadline": frozenset({State.AWAITING_DECISION}),
    "grace": frozenset({State.FROZEN, State.IN_GRACE}),
}
"""The states that each timer ends; once a case has left them, the timer means nothing any more."""


# Commands: what happened outside, or what a person or the clock wants.


class NoticeArrived(msgspec.Struct, frozen=True):
    """The approver was asked; `at` is when the mail server or service desk took the question."""

    channel: Channel
    recipient: str
    at: datetime


class NoticeUndeliverable(msgspec.Struct, frozen=True):
    """Nobody could be asked over this channel."""

    channel: Channel
    reason: str
    remedy: str


class LeftUndecided(msgspec.Struct, frozen=True):
    """The ticket that asks was closed, and decides nothing: a person has to look while the time to decide runs on."""

    reason: str
    remedy: str


class Decide(msgspec.Struct, frozen=True):
    """A person's decision."""

    decision: Decision
    actor: str
    channel: Channel
    reason: str
    at: datetime


class SeatTaken(msgspec.Struct, frozen=True):
    """Another case is open for the same seat already."""

    by: str


class Withdraw(msgspec.Struct, frozen=True):
    """Whoever opened the case takes it back."""

    kind: Withdrawal
    actor: str
    reason: str
    at: datetime


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The time for the decision is over. `down`: for how long of it the pages to answer on were not up."""

    down: timedelta = timedelta()


class GraceOver(msgspec.Struct, frozen=True):
    """The time for an appeal is over. `down`: for how long of it the pages to appeal on were not up."""

    down: timedelta = timedelta()


class SeatChecked(msgspec.Struct, frozen=True):
    """What the fresh re-check found; `evidence` is for people.

    `clear`: still unused and every check passes. `active`: used since. `exempt`: a check leaves it alone now.
    `gone`: the seat is no longer there. `unseen`: the account that we froze is not shown any more, which may be for
    want of permission. `changed`: somebody else changed what we did (unfroze it).
    `tried`: the step that waits for the check was tried before, and may have happened. `before` is what a downgrade
    would have to put back.
    """

    found: Literal["clear", "active", "exempt", "gone", "unseen", "changed"]
    evidence: str
    tried: bool = False
    before: dict[str, Any] | None = None


class DayOff(msgspec.Struct, frozen=True):
    """The step was not taken, as the rule frees no seat today. `tried`: an earlier attempt may have happened."""

    tried: bool = False


class SeatFrozen(msgspec.Struct, frozen=True):
    """The holder cannot sign in any more."""


class TakenLate(msgspec.Struct, frozen=True):
    """A step that hung, and that another process had answered for meanwhile, was carried out all the same."""

    kind: Effect


class SeatUnfrozen(msgspec.Struct, frozen=True):
    """The holder can sign in again. `changed`: because of us, or it is not known that they could before."""

    changed: bool = True


class RecordsHandedOver(msgspec.Struct, frozen=True):
    """All open records have a new owner; `moved` is how many were moved this time."""

    moved: int


class SeatDeactivated(msgspec.Struct, frozen=True):
    """The seat is free."""


class SeatDowngraded(msgspec.Struct, frozen=True):
    """The seat is free: the holder has the cheaper licence, and can sign in."""


class Fulfilled(msgspec.Struct, frozen=True):
    """Somebody says that the seat was freed by hand."""

    actor: str
    note: str


class NotFulfilled(msgspec.Struct, frozen=True):
    """Somebody says that the seat cannot be freed by hand, and why."""

    actor: str
    note: str


class Reactivate(msgspec.Struct, frozen=True):
    """An operator wants the reclaimed seat back with its holder."""

    actor: str
    reason: str


class SeatGivenBack(msgspec.Struct, frozen=True):
    """The holder has the seat again."""


class ActionFailed(msgspec.Struct, frozen=True):
    """An effect was refused, or was tried as often as is reasonable. `moved` counts records moved before that.

    `unsure`: it is a freeze or a deactivation that got no answer, and may have happened, or a downgrade.
    `foreign`: the account is frozen, and it was somebody else who changed its freeze last. `unseen`: there is no such
    account, as far as the connection shows.
    """

    reason: str
    remedy: str
    moved: int = 0
    unsure: bool = False
    foreign: bool = False
    unseen: bool = False


class BrakeTripped(msgspec.Struct, frozen=True):
    """A step that takes something away may not be taken now; it was not begun.

    `unsure`: an earlier attempt at it got no answer, and may have happened.
    """

    reason: str
    remedy: str
    unsure: bool = False


class Retry(msgspec.Struct, frozen=True):
    """An operator dealt with the reason for attention."""

    actor: str


class AccountDeleted(msgspec.Struct, frozen=True):
    """An operator says that an account which the connection does not show any more was deleted."""

    actor: str
    note: str


class Unfreeze(msgspec.Struct, frozen=True):
    """An operator wants the freeze undone that was left on an account after its case had ended."""

    actor: str


Command = (
    NoticeArrived
    | NoticeUndeliverable
    | LeftUndecided
    | Decide
    | SeatTaken
    | Withdraw
    | DeadlinePassed
    | GraceOver
    | UseTold
    | SeatChecked
    | DayOff
    | SeatFrozen
    | TakenLate
    | SeatUnfrozen
    | RecordsHandedOver
    | SeatDeactivated
    | SeatDowngraded
    | Fulfilled
    | NotFulfilled
    | Reactivate
    | SeatGivenBack
    | ActionFailed
    | BrakeTripped
    | Retry
    | AccountDeleted
    | Unfreeze
)


# What comes out of a decision.


ASKED: Final = "the scanner was asked whether the seat is used, and has not answered yet"
"""Why an effect rests whose check has to know whether the seat is used."""


class Effect(StrEnum):
    """Something to do outside. Each belongs to exactly one state, and is void once the case has left it."""

    CHECK = "check"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    HAND_OVER = "hand_over"
    DEACTIVATE = "deactivate"
    DOWNGRADE = "downgrade"
    REACTIVATE = "reactivate"


EFFECT_OF: Final[Mapping[State, Effect]] = {
    State.CHECKING_BEFORE_FREEZE: Effect.CHECK,
    State.FREEZING: Effect.FREEZE,
    State.RESTORING: Effect.UNFREEZE,
    State.CHECKING_BEFORE_RECLAIM: Effect.CHECK,
    State.HANDING_OVER: Effect.HAND_OVER,
    State.RECLAIMING: Effect.DEACTIVATE,
    State.DOWNGRADING: Effect.DOWNGRADE,
    State.REACTIVATING: Effect.REACTIVATE,
}


TimerName = Literal["deadline", "grace"]


class Timer(msgspec.Struct, frozen=True):
    """A command to give at an instant; a case has at most one of each."""

    command: TimerName
    at: datetime


class Accepted(msgspec.Struct, frozen=True):
    """The case as it becomes, with what to say, to do and to wait for. `note` goes into the audit trail."""

    case: Case
    note: str
    events: tuple[Event, ...] = ()
    effect: Effect | None = None
    timer: Timer | None = None


class Rejected(msgspec.Struct, frozen=True):
    """The command does not fit the state of the case; nothing changes."""

    reason: str


Verdict = Accepted | Rejected


def open_case(
    *,
    case_id: str,
    seat: Seat,
    approver: Person | None,
    policy: Policy,
    last_used_at: datetime | None,
    flagged_at: datetime,
    run_id: str | None = None,
) -> Case:
    """Return a new case; nobody has been asked yet."""
    return Case(
        id=case_id,
        seat=seat,
        approver=approver,
        policy=policy,
        state=State.FLAGGED,
        flagged_at=flagged_at,
        last_used_at=last_used_at,
        run_id=run_id,
    )


def decide(case: Case, command: Command, now: datetime) -> Verdict:
    """Say what becomes of a case when a command meets it."""
    transition = TRANSITIONS.get((case.state, type(command)))
    if transition is None:
        return Rejected(f"{_name(command)} does not fit a case that is {case.state.replace('_', ' ')}")
    return transition(case, command, now)


def _name(command: Command) -> str:
    if isinstance(command, Decide):
        return f"the decision to {command.decision}"
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(command).__name__)
    return f"'{words.strip()}'"


def _go(case: Case, state: State, note: str, *events: Event, timer: Timer | None = None) -> Accepted:
    """Move to a state; its effect, if it has one, goes along."""
    moved = replace(case, state=state, version=case.version + 1, attention=None)
    return Accepted(moved, note, events, EFFECT_OF.get(state), timer)


def _end(
    case: Case,
    state: State,
    outcome: Outcome,
    note: str,
    now: datetime,
    *events: Event,
    withdrawn: Withdrawal | None = None,
) -> Accepted:
    if case.closed_as is not None:
        # It was closed before; what was done since then is told by its own event.
        return _go(case, state, note, *events)
    closed = CaseClosed(case_id=case.id, outcome=outcome, reason=note, closed_at=now, withdrawn=withdrawn)
    if case.frozen_at is not None and outcome != "reclaimed":
        target = _target(case)
        closed = replace(closed, frozen=case.seat, downgrade_to=target, dry_run=case.policy.dry_run)
    return _go(replace(case, closed_as=state), state, note, *events, closed)


def _target(case: Case) -> CheaperLicence | None:
    """Return the licence that the holder gets in the seat's place, if any."""
    return case.policy.downgrade_to if _to_downgrade(case) else None


def _to_downgrade(case: Case) -> bool:
    return case.method == "downgrade" or (case.method == "task" and case.decision == "downgrade")


def _call_a_person(
    case: Case,
    resume: State,
    reason: str,
    remedy: str,
    now: datetime,
    *,
    foreign: bool = False,
    unseen: bool = False,
) -> Accepted:
    raised = AttentionRaised(case_id=case.id, seat=case.seat, reason=reason, remedy=remedy, raised_at=now)
    attention = Attention(reason, remedy, resume, foreign, unseen)
    moved = replace(case, state=State.ATTENTION, version=case.version + 1, attention=attention)
    return Accepted(moved, reason, (raised,))


# Asking.


def _notified(case: Case, command: NoticeArrived, now: datetime) -> Verdict:  # noqa: ARG001
    if case.attention is not None and case.attention.resume not in _UNDECIDED:
        return Rejected("the case is past the decision")
    if case.state is State.AWAITING_DECISION:
        # A second channel, or the same question again: the first delivery set the deadline.
        return Rejected(f"{command.recipient} was asked as well; the deadline stands")
    # In attention nobody could be asked, or nobody answered and a person had the question sent again: a new deadline.
    decide_by = command.at + timedelta(days=case.policy.decision_days)
    notified = replace(case, notified_at=command.at, decide_by=decide_by)
    note = f"asked {command.recipient} by {command.channel}"
    return _go(notified, State.AWAITING_DECISION, note, timer=Timer("deadline", decide_by))


def _not_notified(case: Case, command: NoticeUndeliverable, now: datetime) -> Verdict:
    if case.notified_at is not None:
        return Rejected(f"could not ask by {command.channel} ({command.reason}), but the question arrived elsewhere")
    return _call_a_person(case, State.FLAGGED, command.reason, command.remedy, now)


def _left_undecided(case: Case, command: LeftUndecided, now: datetime) -> Verdict:
    """List the case with those that wait for a person; it stays where it is, and its deadline stands."""
    attention = Attention(command.reason, command.remedy, case.state)
    if case.attention == attention:
        return Rejected("a person has been called for this already")
    called = _call_a_person(case, case.state, command.reason, command.remedy, now)
    return msgspec.structs.replace(called, case=replace(called.case, state=case.state))


# Deciding.


def _decided(case: Case, command: Decide, now: datetime) -> Verdict:
    decided = replace(case, decision=command.decision, decided_by=command.actor, decided_at=command.at)
    note = f"{command.actor} decided to {command.decision} by {command.channel}"
    if command.decision == "keep":
        return _end(decided, State.KEPT, "kept", note, now)
    method = _method(case.policy, command.decision)
    if method == "downgrade" and case.policy.downgrade_to is None:
        # Nobody decided to take the whole account away, so nothing is done before somebody does.
        return _call_a_person(
            case,
            State.AWAITING_DECISION,
            f"{note}, and the rule names no cheaper licence to move the holder to.",
            "Decide on the case's page: keep the seat, or revoke it whole. For cases to come, give the rule a cheaper "
            "licence.",
            now,
        )
    return _go(replace(decided, method=method), State.CHECKING_BEFORE_FREEZE, note)


def _method(policy: Policy, decision: Decision | Literal["timeout"]) -> ReclaimBy:
    if policy.reclaim_by == "task":
        return "task"
    return "downgrade" if decision == "downgrade" else policy.reclaim_by


def _timed_out(case: Case, command: DeadlinePassed, now: datetime) -> Verdict:
    if case.notified_at is None or case.decide_by is None:
        return Rejected("a time-out needs proof that the question was delivered")
    if now < case.decide_by:
        return Rejected(f"the deadline is {case.decide_by.isoformat()}")
    until = case.notified_at + timedelta(days=case.policy.decision_days) + command.down
    if now < until:
        note = f"the deadline is {until.isoformat()} now: {_down(command.down)}"
        extended = _go(replace(case, decide_by=until), State.AWAITING_DECISION, note, timer=Timer("deadline", until))
        # Whoever was called about the ticket still has to look: a ticket says only once that it decides nothing.
        return msgspec.structs.replace(extended, case=replace(extended.case, attention=case.attention))
    rule = f"rule {case.policy.rule_name!r} (version {case.policy.rule_version})"
    match case.policy.on_timeout:
        case "freeze":
            method = _method(case.policy, "timeout")
            decided = replace(case, decision="timeout", decided_by=rule, decided_at=now, method=method)
            return _go(decided, State.CHECKING_BEFORE_FREEZE, f"no answer in time; {rule} says freeze")
        case "keep":
            decided = replace(case, decision="timeout", decided_by=rule, decided_at=now)
            return _end(decided, State.KEPT, "kept", f"no answer in time; {rule} says keep", now)
        case "escalate":
            return _call_a_person(
                case,
                State.AWAITING_DECISION,
                "The approver did not answer in time.",
                "Decide on the case's page, or ask the approver and decide for them.",
                now,
            )


def _kept_before_acting(case: Case, command: Decide, now: datetime) -> Verdict:
    if command.decision != "keep":
        return Rejected(f"already decided: {case.decision} by {case.decided_by}")
    if case.unsure:
        # A freeze that got no answer may have happened: unfreezing reads first, and is harmless if it had not.
        return _appealed(case, command, now)
    appealed = _with_appeal(case, command)
    note = f"{command.actor} wants it kept; nothing had been done yet"
    return _end(appealed, State.KEPT, "kept", note, now)


def _appealed_while_acting(case: Case, command: Decide, now: datetime) -> Verdict:  # noqa: ARG001
    """An effect is under way: remember the appeal, and grant it as soon as the effect has answered."""
    if command.decision != "keep":
        return Rejected(f"already decided: {case.decision} by {case.decided_by}")
    if case.appealed_by is not None:
        return Rejected(f"{case.appealed_by} has already appealed")
    appealed = replace(_with_appeal(case, command), version=case.version + 1)
    return Accepted(appealed, f"{command.actor} appealed; granted when the step under way has ended")


def _appealed(case: Case, command: Decide, now: datetime) -> Verdict:  # noqa: ARG001
    if command.decision != "keep":
        return Rejected(f"already decided: {case.decision} by {case.decided_by}")
    appealed = _with_appeal(case, command)
    return _go(appealed, State.RESTORING, f"{command.actor} appealed by {command.channel}")


def _with_appeal(case: Case, command: Decide) -> Case:
    return replace(case, appealed_by=command.actor, appeal_reason=command.reason, appealed_at=command.at)


def _kept_in_grace(case: Case, command: Decide, now: datetime) -> Verdict:
    """Nothing is frozen where a person frees the seat: there is nothing to restore."""
    return _kept_before_acting(case, command, now) if case.frozen_at is None else _appealed(case, command, now)


def _decided_in_attention(case: Case, command: Decide, now: datetime) -> Verdict:
    assert case.attention is not None
    resume = case.attention.resume
    if resume in _UNDECIDED:
        return _decided(case, command, now)
    if command.decision != "keep":
        if resume is State.RECLAIMED and case.appealed_by is not None and command.channel == "console":
            note = (
                f"{command.actor} leaves the seat freed, though {case.appealed_by} appealed in time: {command.reason}"
            )
            return _go(case, State.RECLAIMED, note)
        return Rejected(f"already decided: {case.decision} by {case.decided_by}")
    if resume in {State.REACTIVATING, State.RECLAIMED}:
        return Rejected("the seat is already reclaimed; retry the reactivation instead")
    if case.attention.foreign and command.channel == "console":
        # Only an operator has been told whose freeze it is; anybody else asks for the account to be let in.
        note = f"{command.actor} wants it kept, and leaves the account frozen as somebody else left it"
        return _end(_with_appeal(case, command), State.KEPT, "kept", note, now)
    if case.frozen_at is not None or resume in {State.FREEZING, State.RESTORING}:
        # A freeze that was given up may still have happened: unfreezing reads first, and is harmless if it had not.
        return _appealed(case, command, now)
    return _kept_before_acting(case, command, now)


def _kept_after_reclaim(case: Case, command: Decide, now: datetime) -> Verdict:
    if not _in_time(case, command):
        return _too_late(case, command)
    appealed = _with_appeal(case, command)
    note = f"{command.actor} appealed by {command.channel} before grace was over, and that came too late to stop it"
    if case.method == "task":
        return _call_a_person(
            appealed,
            State.RECLAIMED,
            f"{note}.",
            "Give the seat back in the product itself, then reactivate it here: Reclaim changes nothing for it.",
            now,
        )
    return _give_back_to_appellant(appealed, note)


def _in_time(case: Case, command: Decide) -> bool:
    """Tell whether it is an appeal from before the seat was freed, however long its message took.

    Grace may have lasted longer than was promised, and until its end an appeal is taken.
    """
    if command.decision != "keep" or case.appealed_by is not None or case.grace_ends_at is None:
        return False
    return command.at < max(case.grace_ends_at, case.reclaimed_at or case.grace_ends_at)


def _too_late(case: Case, command: Decide) -> Verdict:
    if command.decision == "keep":
        return Rejected("too late to keep: the seat is being reclaimed. Ask an operator to reactivate it.")
    return Rejected(f"already decided: {case.decision} by {case.decided_by}")


def _give_back_to_appellant(case: Case, note: str, *events: Event) -> Accepted:
    assert case.appealed_by is not None
    asked = replace(case, reactivation_asked_by=case.appealed_by, reactivation_reason=case.appeal_reason)
    return _go(asked, State.REACTIVATING, note, *events)


# Withdrawing.


def _seat_taken(case: Case, command: SeatTaken, now: datetime) -> Verdict:
    return _end(case, State.SKIPPED, "skipped", f"case {command.by} is already open for this seat", now)


def _withdrawn(case: Case, command: Withdraw, now: datetime) -> Verdict:
    """Close a case that waits, or is being checked; what was frozen, or may have been, is restored first."""
    resume = case.attention.resume if case.attention is not None else case.state
    if resume in {State.REACTIVATING, State.RECLAIMED}:
        return Rejected(f"the seat is reclaimed already: {_why(command)}")
    if resume is State.RESTORING:
        return Rejected(f"the account is being restored already: {_why(command)}")
    if command.kind == "merged" and resume not in _UNDECIDED:
        return Rejected(f"the case is past the decision and is not merged any more: {_why(command)}")
    if command.kind == "vanished":
        if case.state in _BEING_CHECKED or case.state is State.AWAITING_FULFILMENT:
            return Rejected(f"the next check finds out itself: {_why(command)}")
        if case.frozen_at is not None and not case.policy.dry_run:
            # Our freeze would be left behind on an account that is only out of sight.
            return Rejected(f"the account is frozen, and the check at the end of grace finds out: {_why(command)}")
        return _vanished(case, SeatChecked("gone", _why(command)), now)
    withdrawn = _withdrawing(case, command)
    may_be_frozen = case.frozen_at is not None or case.unsure or resume is State.FREEZING
    if may_be_frozen and case.method != "task":
        return _go(withdrawn, State.RESTORING, f"{_why(command)}; the account is restored")
    if command.kind == "used":
        # The outcome says it. The kind is younger than its field, and older readers would refuse the event for it.
        return _end(withdrawn, State.CANCELLED, "cancelled", _why(command), now)
    return _end(withdrawn, State.SKIPPED, "skipped", _why(command), now, withdrawn=command.kind)


def _withdrawn_too_late(case: Case, command: Withdraw, now: datetime) -> Verdict:  # noqa: ARG001
    return Rejected(f"{_why(command)}. It came too late: the seat is freed already")


def _withdrawn_while_acting(case: Case, command: Withdraw, now: datetime) -> Verdict:  # noqa: ARG001
    """An effect is under way: remember the withdrawal, and act upon it as soon as the effect has answered."""
    if case.appealed_by is not None:
        return Rejected(f"{case.appealed_by} was first to ask for the seat back: {_why(command)}")
    if command.kind == "merged":
        return Rejected(f"the case is past the decision and is not merged any more: {_why(command)}")
    if command.kind == "vanished":
        return Rejected(f"the step under way finds out itself: {_why(command)}")
    noted = replace(_withdrawing(case, command), version=case.version + 1)
    return Accepted(noted, f"{_why(command)}; heeded when the step under way has ended")


def _withdrawing(case: Case, command: Withdraw) -> Case:
    return replace(
        case,
        withdrawn=True,
        withdrawal=command.kind,
        appealed_by=command.actor,
        appeal_reason=command.reason,
        appealed_at=command.at,
    )


def _end_withdrawn(case: Case, note: str, now: datetime, *events: Event) -> Accepted:
    """End a case whose withdrawal had to wait for a step: use cancels it, anything else skips it."""
    why = f"{note}: withdrawn by {case.appealed_by}"
    if case.withdrawal == "used":
        return _end(
            case, State.CANCELLED, "cancelled", f"{why}, as the seat is used: {case.appeal_reason}", now, *events
        )
    return _end(case, State.SKIPPED, "skipped", f"{why}: {case.appeal_reason}", now, *events)


def _why(command: Withdraw) -> str:
    return f"withdrawn by {command.actor} ({command.kind.replace('_', ' ')}): {command.reason}"


# Checking, right before each step that takes something away.


def _use_told(case: Case, command: UseTold, now: datetime) -> Verdict:  # noqa: ARG001
    """Remember what sources of use say; the check that asked goes on with it."""
    if case.told is not None and command.asked_at <= case.told.asked_at:
        return Rejected("a later answer about its use is there already")
    note = f"asked about its use: {command.use}. {command.reason}"
    return Accepted(replace(case, told=command, version=case.version + 1), note)


def _checked_before_freeze(case: Case, command: SeatChecked, now: datetime) -> Verdict:
    if _outdated(case, command):
        return _go(case, State.CHECKING_BEFORE_FREEZE, _CHECKED_TOO_EARLY)
    if command.found != "clear" and command.tried:
        return _go(case, State.RESTORING, f"{command.evidence}; the freeze that was tried is undone, if it happened")
    match command.found:
        case "clear":
            checked = replace(case, checked_at=now)
            if case.method == "task":
                return _announced(checked, now)
            return _go(checked, State.FREEZING, command.evidence)
        case "active":
            return _end(case, State.CANCELLED, "cancelled", command.evidence, now)
        case "exempt" | "gone" | "unseen" | "changed":
            return _end(case, State.SKIPPED, "skipped", command.evidence, now)


def _outdated(case: Case, command: SeatChecked) -> bool:
    """Tell whether a check that takes our own step for somebody else's began before that step was heard of."""
    return case.unsure and not command.tried and command.found != "clear"


_CHECKED_TOO_EARLY: Final = "checked again: the check began before it was known that the step may have happened"


def _checked_before_reclaim(case: Case, command: SeatChecked, now: datetime) -> Verdict:
    if _outdated(case, command):
        return _go(case, State.CHECKING_BEFORE_RECLAIM, _CHECKED_TOO_EARLY)
    match command.found:
        case "clear":
            checked = replace(case, checked_at=now)
            if not calendar.may_reclaim(case.policy, now):
                return _wait_for_working_days(checked, now)
            if case.method == "task":
                return _ask_for_fulfilment(checked, now)
            checked = replace(checked, before=_image(case, command.before))
            return _go(checked, State.HANDING_OVER if case.policy.hand_over else _last_step(case), command.evidence)
        case "active" | "exempt" if case.frozen_at is None:
            return _checked_before_freeze(case, command, now)
        case "active" | "exempt":
            return _go(replace(case, unsure=case.unsure or command.tried), State.RESTORING, command.evidence)
        case "gone":
            return _end(case, State.SKIPPED, "skipped", command.evidence, now)
        case "unseen":
            doubtful = replace(case, unsure=case.unsure or command.tried)
            return _call_about_unseen(doubtful, State.CHECKING_BEFORE_RECLAIM, command.evidence, now)
        case "changed":
            return _call_a_person(
                case,
                State.CHECKING_BEFORE_RECLAIM,
                command.evidence,
                "Somebody changed the account during grace. Keep it, or freeze it again in the system and retry.",
                now,
            )


def _call_about_unseen(case: Case, resume: State, reason: str, now: datetime) -> Accepted:
    """Call a person: that an account is not shown proves nothing, and our freeze may still be on it."""
    remedy = (
        "Look for it in the connected system. If it is there, mend what the connection's user may see, then retry. "
        "If it was deleted, say so on the case's page: that closes the case, and nothing is booked as saved."
    )
    return _call_a_person(case, resume, reason, remedy, now, unseen=True)


def _deleted(case: Case, command: AccountDeleted, now: datetime) -> Verdict:
    assert case.attention is not None
    if not case.attention.unseen:
        return Rejected("the case does not wait for an account that is out of sight")
    note = f"{command.actor} says that the account was deleted: {command.note}"
    if case.attention.resume is State.REACTIVATING:
        return _go(case, State.RECLAIMED, f"{note}; the seat stays freed")
    return _end(case, State.SKIPPED, "skipped", note, now)


def _unfreeze_what_was_left(case: Case, command: Unfreeze, now: datetime) -> Verdict:
    if not case.left_frozen:
        return Rejected("the case left no freeze behind")
    reason = "the account is back, and Reclaim's freeze was still on it"
    asked = replace(
        _known_as_closed(case), withdrawn=False, appealed_by=command.actor, appeal_reason=reason, appealed_at=now
    )
    return _go(asked, State.RESTORING, f"{command.actor} has the freeze undone that was left after the case had ended")


def _known_as_closed(case: Case) -> Case:
    """Return a case that has ended with how it did: one that a release before this stored does not say."""
    return replace(case, closed_as=case.closed_as or case.state)


def _last_step(case: Case) -> State:
    return State.DOWNGRADING if case.method == "downgrade" else State.RECLAIMING


def _image(case: Case, read: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what to put back after a downgrade: what was read now, with what a half-done one had taken away."""
    if read is None or case.before is None or not case.unsure:
        return read or case.before
    merged = {name: case.before.get(name, value) for name, value in read.items()}
    for name, value in read.items():
        if isinstance(value, list):
            merged[name] = [*value, *(each for each in case.before.get(name, ()) if each not in value)]
    return merged


def _vanished(case: Case, command: SeatChecked, now: datetime) -> Verdict:
    """The daily comparison found no seat any more: the case is closed, and nothing is saved by it."""
    if command.found != "gone":
        return Rejected("only a seat that is gone ends a case that waits")
    by_hand = case.attention is not None and case.attention.resume is State.AWAITING_FULFILMENT
    if case.reclaimed_at is not None or case.unsure or by_hand:
        return Rejected("the seat may be gone because it was freed by this very case")
    return _end(case, State.SKIPPED, "skipped", command.evidence, now)


def _not_clear_any_more(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Return what a step does that was put off until its check was made again, and is not taken."""

    def checked_again(case: Case, command: SeatChecked, now: datetime) -> Verdict:
        if command.found == "clear":
            return Rejected("the step that the check was made for is under way already")
        if case.appealed_by is not None and case.frozen_at is not None:
            undone = replace(case, unsure=case.unsure or command.tried)
            return _go(undone, State.RESTORING, f"restored: {_what_came(case)} meanwhile ({command.evidence})")
        verdict: Verdict = check(case, command, now)
        return verdict

    return checked_again


# Acting.


def _frozen(case: Case, command: SeatFrozen, now: datetime) -> Verdict:  # noqa: ARG001
    assert case.decision in {"revoke", "downgrade", "timeout"}
    grace_ends_at = calendar.grace_end(case.policy, now)
    frozen = replace(case, frozen_at=now, grace_ends_at=grace_ends_at, unsure=False)
    said = UserFrozen(
        case_id=case.id,
        seat=case.seat,
        decision=case.decision,
        frozen_at=now,
        grace_ends_at=grace_ends_at,
        dry_run=case.policy.dry_run,
        downgrade_to=_target(case),
    )
    if case.appealed_by is not None:
        return _go(frozen, State.RESTORING, f"frozen, and restored at once: {_what_came(case)} meanwhile", said)
    return _go(frozen, State.FROZEN, "frozen", said, timer=Timer("grace", grace_ends_at))


def _taken_after_the_end(case: Case, command: TakenLate, now: datetime) -> Verdict:
    """Undo what a process did that was stopped right before its call for longer than its lease."""
    case = _known_as_closed(case)
    if command.kind is not Effect.FREEZE:
        case = _to_give_back_whole(case, now)
    note = f"{_HUNG} ({command.kind}); the account is given back, if that did not come before it"
    return _go(case, State.RESTORING, note)


def _to_give_back_whole(case: Case, now: datetime) -> Case:
    """Return a case that is restored as after a deactivation or downgrade that got no answer."""
    return replace(case, frozen_at=case.frozen_at or now, unsure=True)


def _taken_before_its_turn(case: Case, command: TakenLate, now: datetime) -> Verdict:
    return _call_about_late(case, command, case.state, now)


def _taken_while_freezing(case: Case, command: TakenLate, now: datetime) -> Verdict:
    if command.kind is Effect.FREEZE:
        return _noted(replace(case, unsure=True), command)
    return _call_about_late(case, command, State.CHECKING_BEFORE_FREEZE, now)


def _taken_after_the_freeze(case: Case, command: TakenLate, now: datetime) -> Verdict:
    """Go on to what was done already: the check that comes takes it for ours, and an appeal gives all of it back."""
    if command.kind is not Effect.FREEZE:
        return _noted(replace(case, unsure=True), command)
    if case.state is State.DOWNGRADING:
        # A downgrade lets the holder in again, and may have done so before.
        return _call_about_late(replace(case, unsure=True), command, State.CHECKING_BEFORE_RECLAIM, now)
    return Rejected(f"{_late(command)}, and the account is to be frozen")


def _taken_while_giving_back(case: Case, command: TakenLate, now: datetime) -> Verdict:
    """What is under way may have come before it: give back once more after that."""
    if command.kind is not Effect.FREEZE:
        case = _to_give_back_whole(case, now)
    return _noted(replace(case, again=True), command)


def _taken_after_the_reclaim(case: Case, command: TakenLate, now: datetime) -> Verdict:
    if case.method == "downgrade" and command.kind is not Effect.DOWNGRADE:
        return _call_a_person(
            case,
            State.RECLAIMED,
            f"{_late(command)}, after the holder was moved to the cheaper licence.",
            "Let the holder in again in the connected system, then retry; or reactivate the seat.",
            now,
        )
    return Rejected(f"{_late(command)}, and the seat is freed")


def _taken_after_giving_back(case: Case, command: TakenLate, now: datetime) -> Verdict:  # noqa: ARG001
    return _go(case, State.REACTIVATING, f"{_late(command)}; the seat is given back once more")


def _taken_in_attention(case: Case, command: TakenLate, now: datetime) -> Verdict:
    assert case.attention is not None
    resume = case.attention.resume
    if resume in _UNDECIDED:
        return Rejected("no step is taken before a decision")
    if resume is State.RECLAIMED:
        return _taken_after_the_reclaim(case, command, now)
    return _call_about_late(case, command, resume, now)


def _call_about_late(case: Case, command: TakenLate, resume: State, now: datetime) -> Verdict:
    """Call a person, anew if one was called already: what they were told of the account is not so any more."""
    case = replace(case, unsure=True) if command.kind is Effect.FREEZE else _to_give_back_whole(case, now)
    reason = f"{_late(command)}."
    remedy = "Retry, which checks the seat and goes on; or keep it, which undoes the step."
    if resume in {State.RESTORING, State.REACTIVATING}:
        remedy = "Retry: the account is given back then."
    if case.attention is not None:
        reason = f"{case.attention.reason.rstrip('.')}; since then {reason}"
        remedy = f"{case.attention.remedy} {remedy}"
    return _call_a_person(case, resume, reason, remedy, now)


def _noted(case: Case, command: TakenLate) -> Accepted:
    return Accepted(replace(case, version=case.version + 1), _late(command))


def _late(command: TakenLate) -> str:
    return f"a step that hung ({command.kind}) was carried out after the case had gone on without it"


def _announced(case: Case, now: datetime) -> Accepted:
    """Begin the grace of a seat that a person will free: it stays as it is until then."""
    until = calendar.grace_end(case.policy, now)
    note = f"a person frees the seat when grace is over; until {until.isoformat()} it can be kept"
    assert case.decision in {"revoke", "downgrade", "timeout"}
    said = FulfilmentAnnounced(
        case_id=case.id,
        seat=case.seat,
        decision=case.decision,
        announced_at=now,
        grace_ends_at=until,
        dry_run=case.policy.dry_run,
        downgrade_to=_target(case),
    )
    return _go(replace(case, grace_ends_at=until), State.IN_GRACE, note, said, timer=Timer("grace", until))


def _ask_for_fulfilment(case: Case, now: datetime) -> Accepted:
    method: Literal["deactivate", "downgrade"] = "downgrade" if _to_downgrade(case) else "deactivate"
    said = FulfilmentRequested(
        case_id=case.id,
        seat=case.seat,
        rule_id=case.policy.rule_id,
        rule_name=case.policy.rule_name,
        method=method,
        instructions=_instructions(case),
        requested_at=now,
        dry_run=case.policy.dry_run,
        downgrade_to=_target(case),
    )
    if not case.policy.dry_run:
        return _go(case, State.AWAITING_FULFILMENT, said.instructions, said)
    ended = _freed(case, "dry run: a person would be asked to free the seat", now)
    return msgspec.structs.replace(ended, events=(said, *ended.events))


def _instructions(case: Case) -> str:
    holder, product, target = case.seat.holder.name, case.seat.product_name, _target(case)
    if case.seat.devices:
        what = f"Uninstall {product} from {', '.join(case.seat.devices)}, which {holder} uses"
        return f"{what}. Then say on the case's page that it is done, or why it cannot be."
    if _to_downgrade(case):
        what = f"Move {holder} from {product} to {target.product_name if target else 'a cheaper licence'}"
    else:
        what = f"Take the seat of {holder} in {product} back"
    to = f"the account {case.policy.hand_over_to}" if case.policy.hand_over_to else "the manager"
    records = f" Hand open records over to {to} first." if case.policy.hand_over else ""
    return f"{what}.{records} Then say on the case's page that it is done, or why it cannot be."


def _fulfilled(case: Case, command: Fulfilled, now: datetime) -> Verdict:
    done = replace(case, fulfilled_by=command.actor)
    return _freed(done, f"{command.actor} freed the seat by hand: {command.note}", now)


def _fulfilled_after_the_end(case: Case, command: Fulfilled, now: datetime) -> Verdict:
    """Call a person: who was asked to free the seat had begun, and says that it is done, after it was kept."""
    if case.method != "task" or case.grace_ends_at is None or now < case.grace_ends_at:
        return Rejected("nobody was asked to free the seat")
    freed = replace(case, fulfilled_by=command.actor, reclaimed_at=now)
    called = _call_a_person(
        freed,
        State.RECLAIMED,
        f"{command.actor} freed the seat by hand ({command.note}), after the case had ended as {case.state}.",
        "Give the seat back in the product itself, then reactivate it here; or leave it freed.",
        now,
    )
    return msgspec.structs.replace(called, events=(_says_reclaimed(freed, now), *called.events))


def _fulfilled_in_attention(case: Case, command: Fulfilled, now: datetime) -> Verdict:
    """Believe who freed the seat after all, whatever stood in the way before."""
    assert case.attention is not None
    if case.attention.resume is not State.AWAITING_FULFILMENT:
        return Rejected("nobody was asked to free the seat")
    return _fulfilled(case, command, now)


def _not_fulfilled(case: Case, command: NotFulfilled, now: datetime) -> Verdict:
    remedy = "Mend what stands in the way and retry, which asks for it anew; or keep the seat."
    return _call_a_person(
        case, State.AWAITING_FULFILMENT, f"{command.actor} could not free the seat: {command.note}", remedy, now
    )


def _down(missed: timedelta) -> str:
    return f"the pages to answer on were down for {_span(missed)} of the time"


def _span(length: timedelta) -> str:
    hours, minutes = divmod(round(length.total_seconds() / 60), 60)
    return f"{hours} h {minutes} min"


def _grace_over(case: Case, command: GraceOver, now: datetime) -> Verdict:
    assert case.grace_ends_at is not None
    if now < case.grace_ends_at:
        return Rejected(f"grace ends {case.grace_ends_at.isoformat()}")
    if case.frozen_at is not None and command.down:
        until = calendar.grace_end(case.policy, case.frozen_at, missed=command.down)
        if now < until:
            note = f"grace lasts until {until.isoformat()}: {_down(command.down)}"
            return _go(replace(case, grace_ends_at=until), State.FROZEN, note, timer=Timer("grace", until))
    if not calendar.may_reclaim(case.policy, now):
        return _wait_for_working_days(case, now)
    return _go(case, State.CHECKING_BEFORE_RECLAIM, "grace is over and nobody appealed")


def _wait_for_working_days(case: Case, now: datetime) -> Accepted:
    """Go back into grace, with its appeals, until the rule lets a seat be freed."""
    until = calendar.next_reclaim(case.policy, now)
    waiting = replace(case, grace_ends_at=until)
    note = f"no seat is freed on a day off, right before one, or out of hours: grace lasts until {until.isoformat()}"
    state = State.IN_GRACE if case.frozen_at is None else State.FROZEN
    return _go(waiting, state, note, timer=Timer("grace", until))


def _day_off(case: Case, command: DayOff, now: datetime) -> Verdict:
    waiting = replace(case, unsure=case.unsure or command.tried)
    if case.appealed_by is not None:
        return _grant_what_waited(waiting, "the step fell on a day off", now)
    return _wait_for_working_days(waiting, now)


def _unfrozen(case: Case, command: SeatUnfrozen, now: datetime) -> Verdict:
    if case.again:
        return _go(replace(case, again=False), State.RESTORING, _ONCE_MORE)
    restored = replace(case, frozen_at=None, grace_ends_at=None, unsure=False)
    if case.closed_as is not None and not command.changed:
        return _go(restored, case.closed_as, "nothing had to be restored")
    actor = case.appealed_by or ("the check before the reclaim" if case.closed_as is None else "Reclaim")
    said = UserRestored(
        case_id=case.id,
        seat=case.seat,
        actor=actor,
        reason=case.appeal_reason or (_HUNG if case.closed_as is not None else ""),
        restored_at=now,
        dry_run=case.policy.dry_run,
        downgrade_to=_target(case),
    )
    if case.withdrawn:
        return _end_withdrawn(restored, "restored", now, said)
    return _end(restored, State.RESTORED, "restored", f"restored for {actor}", now, said)


_HUNG: Final = "a step that hung was carried out after the case had ended"


def _handed_over(case: Case, command: RecordsHandedOver, now: datetime) -> Verdict:
    moved = replace(case, records_transferred=case.records_transferred + command.moved)
    note = f"{command.moved} open records handed over"
    if case.appealed_by is not None:
        return _go(moved, State.RESTORING, f"{note}; restored now: {_what_came(case)} meanwhile")
    if not calendar.may_reclaim(case.policy, now):
        return _wait_for_working_days(moved, now)
    return _go(moved, _last_step(case), note)


def _deactivated(case: Case, command: SeatDeactivated, now: datetime) -> Verdict:  # noqa: ARG001
    return _freed(case, "the seat is free", now)


def _downgraded(case: Case, command: SeatDowngraded, now: datetime) -> Verdict:  # noqa: ARG001
    target = _target(case)
    return _freed(case, f"the seat is free: the holder has {target.product_name if target else 'less'} instead", now)


def _says_reclaimed(case: Case, now: datetime) -> SeatReclaimed:
    return SeatReclaimed(
        case_id=case.id,
        seat=case.seat,
        rule_id=case.policy.rule_id,
        rule_name=case.policy.rule_name,
        method="downgrade" if _to_downgrade(case) else "deactivate",
        records_transferred=case.records_transferred,
        reclaimed_at=now,
        dry_run=case.policy.dry_run,
        downgrade_to=_target(case),
        fulfilled_by=case.fulfilled_by,
    )


def _freed(case: Case, note: str, now: datetime) -> Accepted:
    said = _says_reclaimed(case, now)
    reclaimed = replace(case, reclaimed_at=now, unsure=False)
    if case.withdrawn:
        # It came too late. Somebody may still have appealed in time.
        why = f"it was withdrawn by {case.appealed_by} ({case.appeal_reason}), which came too late to stop the step"
        reclaimed = replace(
            reclaimed, withdrawn=False, withdrawal=None, appealed_by=None, appeal_reason="", appealed_at=None
        )
        return _end(reclaimed, State.RECLAIMED, "reclaimed", f"{note}; {why}", now, said)
    ended = _end(reclaimed, State.RECLAIMED, "reclaimed", note, now, said)
    if case.appealed_by is None:
        return ended
    note = f"{note}, and given back at once: an appeal came meanwhile"
    return _give_back_to_appellant(reclaimed, note, *ended.events)


def _reactivate(case: Case, command: Reactivate, now: datetime) -> Verdict:
    asked = replace(case, reactivation_asked_by=command.actor, reactivation_reason=command.reason)
    if case.method == "task":
        # What a person took, a person has given back when they say so.
        return _given_back(asked, SeatGivenBack(), now)
    return _go(asked, State.REACTIVATING, f"{command.actor} gives the seat back: {command.reason}")


def _reactivate_in_attention(case: Case, command: Reactivate, now: datetime) -> Verdict:
    assert case.attention is not None
    if case.attention.resume is not State.RECLAIMED:
        return Rejected("the seat is not reclaimed")
    return _reactivate(case, command, now)


_ONCE_MORE: Final = "given back once more: a step that hung was carried out meanwhile"


def _given_back(case: Case, command: SeatGivenBack, now: datetime) -> Verdict:  # noqa: ARG001
    if case.again:
        return _go(replace(case, again=False), State.REACTIVATING, _ONCE_MORE)
    back = replace(case, frozen_at=None, grace_ends_at=None, unsure=False, given_back_at=case.given_back_at or now)
    if case.given_back_at is not None:
        # It was said, and booked, the first time.
        return _go(back, State.REACTIVATED, "the seat is back once more")
    said = SeatReactivated(
        case_id=case.id,
        seat=case.seat,
        rule_id=case.policy.rule_id,
        rule_name=case.policy.rule_name,
        actor=case.reactivation_asked_by,
        reason=case.reactivation_reason,
        reactivated_at=now,
        dry_run=case.policy.dry_run,
        downgrade_to=_target(case),
    )
    return _go(back, State.REACTIVATED, "the seat is back", said)


def _failed(case: Case, command: ActionFailed, now: datetime) -> Verdict:
    remedy = command.remedy
    if command.unseen and case.state in _MAY_BE_DELETED:
        return _call_about_unseen(_after_failure(case, command), case.state, command.reason, now)
    foreign = command.foreign and case.state in {State.FREEZING, State.RESTORING}
    if foreign:
        remedy += " If it is to stay frozen, keep the seat here: that closes the case, and changes nothing there."
    return _call_a_person(_after_failure(case, command), case.state, command.reason, remedy, now, foreign=foreign)


_MAY_BE_DELETED: Final = frozenset({State.FREEZING, State.RESTORING, State.REACTIVATING})
"""States whose step meets an account that is out of sight by itself; the check before a reclaim finds the others."""


def _after_failure(case: Case, command: ActionFailed) -> Case:
    transferred = case.records_transferred + command.moved
    return replace(case, records_transferred=transferred, unsure=case.unsure or command.unsure)


def _failed_before_reclaim(case: Case, command: ActionFailed, now: datetime) -> Verdict:
    """What an appeal was waiting for failed: nothing more is taken away, and the appeal is granted."""
    if case.appealed_by is None:
        return _failed(case, command, now)
    return _grant_what_waited(_after_failure(case, command), f"a step failed ({command.reason})", now)


def _braked(case: Case, command: BrakeTripped, now: datetime) -> Verdict:
    stopped = replace(case, unsure=case.unsure or command.unsure)
    if case.appealed_by is not None:
        return _grant_what_waited(stopped, f"a brake held the step ({command.reason})", now)
    return _call_a_person(stopped, _CHECK_BEFORE[case.state], command.reason, command.remedy, now)


def _grant_what_waited(case: Case, why: str, now: datetime) -> Accepted:
    """Grant the appeal that came while a step was under way which is not taken now."""
    if case.state is State.FREEZING and not case.unsure:
        # Were it undone, what somebody else froze meanwhile would be.
        if case.withdrawn:
            return _end_withdrawn(case, "nothing had been done yet", now)
        return _end(case, State.KEPT, "kept", f"{case.appealed_by} wants it kept; nothing had been done yet", now)
    return _go(case, State.RESTORING, f"restored: {_what_came(case)} while {why}")


def _what_came(case: Case) -> str:
    return "the case was withdrawn" if case.withdrawn else "an appeal came"


def _retried(case: Case, command: Retry, now: datetime) -> Verdict:  # noqa: ARG001
    assert case.attention is not None
    resume = case.attention.resume
    if resume in _UNDECIDED:
        return Rejected("there is no decision yet: decide here, or have the question sent again")
    if resume is State.RECLAIMED and case.appealed_by is not None:
        return Rejected(f"{case.appealed_by} appealed in time: give the seat back, or decide revoke to leave it freed")
    if resume is State.RECLAIMED:
        return _go(case, resume, f"{command.actor} leaves the seat freed")
    # Days may have gone by: what was true before the attention is checked again.
    return _go(replace(case, told=None), _CHECK_BEFORE.get(resume, resume), f"{command.actor} had it tried again")


_CHECK_BEFORE: Final[Mapping[State, State]] = {
    State.FREEZING: State.CHECKING_BEFORE_FREEZE,
    State.HANDING_OVER: State.CHECKING_BEFORE_RECLAIM,
    State.RECLAIMING: State.CHECKING_BEFORE_RECLAIM,
    State.DOWNGRADING: State.CHECKING_BEFORE_RECLAIM,
    State.AWAITING_FULFILMENT: State.CHECKING_BEFORE_RECLAIM,
}
"""The check that comes before each step which takes something away, or has somebody take it."""

_UNDECIDED: Final = frozenset({State.FLAGGED, State.AWAITING_DECISION})
_BEING_CHECKED: Final = frozenset({State.CHECKING_BEFORE_FREEZE, State.CHECKING_BEFORE_RECLAIM})

TRANSITIONS: Final[Mapping[tuple[State, type[Command]], Callable[..., Verdict]]] = {
    (State.FLAGGED, NoticeArrived): _notified,
    (State.FLAGGED, NoticeUndeliverable): _not_notified,
    (State.FLAGGED, Decide): _decided,
    (State.FLAGGED, SeatChecked): _vanished,
    (State.FLAGGED, SeatTaken): _seat_taken,
    (State.FLAGGED, Withdraw): _withdrawn,
    (State.AWAITING_DECISION, NoticeArrived): _notified,
    (State.AWAITING_DECISION, NoticeUndeliverable): _not_notified,
    (State.AWAITING_DECISION, LeftUndecided): _left_undecided,
    (State.AWAITING_DECISION, Decide): _decided,
    (State.AWAITING_DECISION, SeatChecked): _vanished,
    (State.AWAITING_DECISION, Withdraw): _withdrawn,
    (State.AWAITING_DECISION, DeadlinePassed): _timed_out,
    (State.CHECKING_BEFORE_FREEZE, UseTold): _use_told,
    (State.CHECKING_BEFORE_FREEZE, SeatChecked): _checked_before_freeze,
    (State.CHECKING_BEFORE_FREEZE, Decide): _kept_before_acting,
    (State.CHECKING_BEFORE_FREEZE, Withdraw): _withdrawn,
    (State.CHECKING_BEFORE_FREEZE, ActionFailed): _failed,
    (State.FREEZING, UseTold): _use_told,
    (State.FREEZING, SeatChecked): _not_clear_any_more(_checked_before_freeze),
    (State.FREEZING, SeatFrozen): _frozen,
    (State.FREEZING, Decide): _appealed_while_acting,
    (State.FREEZING, Withdraw): _withdrawn_while_acting,
    (State.FREEZING, ActionFailed): _failed_before_reclaim,
    (State.FREEZING, BrakeTripped): _braked,
    (State.FROZEN, GraceOver): _grace_over,
    (State.FROZEN, Decide): _appealed,
    (State.FROZEN, SeatChecked): _vanished,
    (State.FROZEN, Withdraw): _withdrawn,
    (State.IN_GRACE, GraceOver): _grace_over,
    (State.IN_GRACE, Decide): _kept_in_grace,
    (State.IN_GRACE, SeatChecked): _vanished,
    (State.IN_GRACE, Withdraw): _withdrawn,
    (State.RESTORING, SeatUnfrozen): _unfrozen,
    (State.KEPT, TakenLate): _taken_after_the_end,
    (State.CANCELLED, TakenLate): _taken_after_the_end,
    (State.SKIPPED, TakenLate): _taken_after_the_end,
    (State.SKIPPED, Unfreeze): _unfreeze_what_was_left,
    (State.RESTORED, TakenLate): _taken_after_the_end,
    (State.CHECKING_BEFORE_FREEZE, TakenLate): _taken_before_its_turn,
    (State.FREEZING, TakenLate): _taken_while_freezing,
    (State.FROZEN, TakenLate): _taken_after_the_freeze,
    (State.CHECKING_BEFORE_RECLAIM, TakenLate): _taken_after_the_freeze,
    (State.HANDING_OVER, TakenLate): _taken_after_the_freeze,
    (State.RECLAIMING, TakenLate): _taken_after_the_freeze,
    (State.DOWNGRADING, TakenLate): _taken_after_the_freeze,
    (State.RESTORING, TakenLate): _taken_while_giving_back,
    (State.RECLAIMED, TakenLate): _taken_after_the_reclaim,
    (State.REACTIVATING, TakenLate): _taken_while_giving_back,
    (State.REACTIVATED, TakenLate): _taken_after_giving_back,
    (State.ATTENTION, TakenLate): _taken_in_attention,
    (State.RESTORING, ActionFailed): _failed,
    (State.CHECKING_BEFORE_RECLAIM, UseTold): _use_told,
    (State.CHECKING_BEFORE_RECLAIM, SeatChecked): _checked_before_reclaim,
    (State.CHECKING_BEFORE_RECLAIM, Decide): _kept_in_grace,
    (State.CHECKING_BEFORE_RECLAIM, Withdraw): _withdrawn,
    (State.CHECKING_BEFORE_RECLAIM, ActionFailed): _failed,
    (State.HANDING_OVER, UseTold): _use_told,
    (State.HANDING_OVER, SeatChecked): _not_clear_any_more(_checked_before_reclaim),
    (State.HANDING_OVER, DayOff): _day_off,
    (State.HANDING_OVER, RecordsHandedOver): _handed_over,
    (State.HANDING_OVER, Decide): _appealed_while_acting,
    (State.HANDING_OVER, Withdraw): _withdrawn_while_acting,
    (State.HANDING_OVER, ActionFailed): _failed_before_reclaim,
    (State.HANDING_OVER, BrakeTripped): _braked,
    (State.RECLAIMING, UseTold): _use_told,
    (State.RECLAIMING, SeatChecked): _not_clear_any_more(_checked_before_reclaim),
    (State.RECLAIMING, DayOff): _day_off,
    (State.RECLAIMING, SeatDeactivated): _deactivated,
    (State.RECLAIMING, Decide): _appealed_while_acting,
    (State.RECLAIMING, Withdraw): _withdrawn_while_acting,
    (State.RECLAIMING, ActionFailed): _failed_before_reclaim,
    (State.RECLAIMING, BrakeTripped): _braked,
    (State.DOWNGRADING, UseTold): _use_told,
    (State.DOWNGRADING, SeatChecked): _not_clear_any_more(_checked_before_reclaim),
    (State.DOWNGRADING, DayOff): _day_off,
    (State.DOWNGRADING, SeatDowngraded): _downgraded,
    (State.DOWNGRADING, Decide): _appealed_while_acting,
    (State.DOWNGRADING, Withdraw): _withdrawn_while_acting,
    (State.DOWNGRADING, ActionFailed): _failed_before_reclaim,
    (State.DOWNGRADING, BrakeTripped): _braked,
    (State.AWAITING_FULFILMENT, Fulfilled): _fulfilled,
    (State.AWAITING_FULFILMENT, NotFulfilled): _not_fulfilled,
    (State.AWAITING_FULFILMENT, Decide): _kept_before_acting,
    (State.AWAITING_FULFILMENT, Withdraw): _withdrawn,
    (State.KEPT, Fulfilled): _fulfilled_after_the_end,
    (State.CANCELLED, Fulfilled): _fulfilled_after_the_end,
    (State.SKIPPED, Fulfilled): _fulfilled_after_the_end,
    (State.RECLAIMED, Reactivate): _reactivate,
    (State.RECLAIMED, Decide): _kept_after_reclaim,
    (State.RECLAIMED, Withdraw): _withdrawn_too_late,
    (State.REACTIVATING, SeatGivenBack): _given_back,
    (State.REACTIVATING, ActionFailed): _failed,
    (State.ATTENTION, NoticeArrived): _notified,
    (State.ATTENTION, Decide): _decided_in_attention,
    (State.ATTENTION, Retry): _retried,
    (State.ATTENTION, Fulfilled): _fulfilled_in_attention,
    (State.ATTENTION, Reactivate): _reactivate_in_attention,
    (State.ATTENTION, SeatChecked): _vanished,
    (State.ATTENTION, AccountDeleted): _deleted,
    (State.ATTENTION, Withdraw): _withdrawn,
}
