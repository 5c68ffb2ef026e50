"""The state machine, exhaustively: every command in every state, and the laws under any sequence of commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reclaim.common.contracts import (
    AttentionRaised,
    CaseClosed,
    CheaperLicence,
    Event,
    FulfilmentAnnounced,
    FulfilmentRequested,
    Money,
    Person,
    Policy,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    TimeoutAction,
    UserFrozen,
    UserRestored,
    Withdrawal,
)
from reclaim.lifecycle import calendar
from reclaim.lifecycle.domain import (
    EFFECT_OF,
    ENDED,
    TRANSITIONS,
    Accepted,
    AccountDeleted,
    ActionFailed,
    Attention,
    BrakeTripped,
    Case,
    Command,
    DayOff,
    DeadlinePassed,
    Decide,
    Effect,
    Fulfilled,
    GraceOver,
    LeftUndecided,
    NotFulfilled,
    NoticeArrived,
    NoticeUndeliverable,
    Reactivate,
    RecordsHandedOver,
    Rejected,
    Retry,
    SeatChecked,
    SeatDeactivated,
    SeatDowngraded,
    SeatFrozen,
    SeatGivenBack,
    SeatTaken,
    SeatUnfrozen,
    State,
    TakenLate,
    Unfreeze,
    Withdraw,
    decide,
    open_case,
)

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def policy(**changes: object) -> Policy:
    base: dict[str, object] = {
        "rule_id": "rule-1",
        "rule_version": 3,
        "rule_name": "Idle seats",
        "inactive_days": 90,
        "route": "email",
        "decision_days": 14,
        "on_timeout": "freeze",
        "grace_days": 7,
        "hand_over": True,
        "dry_run": False,
    }
    return Policy(**(base | changes))  # type: ignore[arg-type]


def new_case(**changes: object) -> Case:
    seat = Seat(
        connection_id="c1",
        product="SFDC",
        product_name="Salesforce",
        holder=Person(id="005A", name="Ada", email="ada@example.com"),
        price=Money(amount=Decimal(175), currency="USD"),
    )
    return open_case(
        case_id="case-1",
        seat=seat,
        approver=Person(id="005M", name="Max", email="max@example.com"),
        policy=policy(**changes),
        last_used_at=NOW - 200 * DAY,
        flagged_at=NOW,
    )


def keep(actor: str = "max@example.com") -> Decide:
    return Decide("keep", actor, "email", "still needed", NOW)


def revoke() -> Decide:
    return Decide("revoke", "max@example.com", "email", "", NOW)


PLATFORM = CheaperLicence(
    product="AUL",
    product_name="Salesforce Platform",
    price=Money(amount=Decimal(25), currency="USD"),
    profile="Standard Platform User",
)
DOWNGRADE = {"reclaim_by": "downgrade", "downgrade_to": PLATFORM}
BY_HAND = {"reclaim_by": "task"}
WAYS: list[Mapping[str, object]] = [{}, {"downgrade_to": PLATFORM}, DOWNGRADE, BY_HAND, {**BY_HAND, "dry_run": True}]
"""Rules that free a seat in different ways."""

NOTICE = NoticeArrived("email", "max@example.com", NOW)
CLEAR = SeatChecked("clear", "still unused")

PATHS: dict[State, Sequence[tuple[Command, timedelta]]] = {
    State.FLAGGED: [],
    State.AWAITING_DECISION: [(NOTICE, 0 * DAY)],
    State.KEPT: [(keep(), 0 * DAY)],
    State.CHECKING_BEFORE_FREEZE: [(NOTICE, 0 * DAY), (revoke(), DAY)],
    State.CANCELLED: [(revoke(), DAY), (SeatChecked("active", "used yesterday"), DAY)],
    State.SKIPPED: [(revoke(), DAY), (SeatChecked("gone", "deactivated"), DAY)],
    State.FREEZING: [(revoke(), DAY), (CLEAR, DAY)],
    State.FROZEN: [(revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY)],
    State.RESTORING: [(revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (keep(), 2 * DAY)],
    State.RESTORED: [(revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (keep(), 2 * DAY), (SeatUnfrozen(), 2 * DAY)],
    State.CHECKING_BEFORE_RECLAIM: [(revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY)],
    State.HANDING_OVER: [
        (revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY),
    ],
    State.RECLAIMING: [
        (revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY),
        (RecordsHandedOver(3), 8 * DAY),
    ],
    State.RECLAIMED: [
        (revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY),
        (RecordsHandedOver(3), 8 * DAY), (SeatDeactivated(), 8 * DAY),
    ],
    State.REACTIVATING: [
        (revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY),
        (RecordsHandedOver(3), 8 * DAY), (SeatDeactivated(), 8 * DAY), (Reactivate("op", "needed again"), 9 * DAY),
    ],
    State.REACTIVATED: [
        (revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY),
        (RecordsHandedOver(3), 8 * DAY), (SeatDeactivated(), 8 * DAY), (Reactivate("op", "needed again"), 9 * DAY),
        (SeatGivenBack(), 9 * DAY),
    ],
    State.DOWNGRADING: [
        (revoke(), DAY), (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY),
        (RecordsHandedOver(3), 8 * DAY),
    ],
    State.IN_GRACE: [(revoke(), DAY), (CLEAR, DAY)],
    State.AWAITING_FULFILMENT: [(revoke(), DAY), (CLEAR, DAY), (GraceOver(), 8 * DAY), (CLEAR, 8 * DAY)],
    State.ATTENTION: [(NoticeUndeliverable("email", "no address", "add one"), 0 * DAY)],
}  # fmt: skip
"""One way to reach every state, from a case that was just flagged."""

RULES: dict[State, Mapping[str, object]] = {
    State.DOWNGRADING: DOWNGRADE,
    State.IN_GRACE: BY_HAND,
    State.AWAITING_FULFILMENT: BY_HAND,
}
"""The rules under which states are reached that not every rule knows."""

COMMANDS: list[Command] = [
    NOTICE,
    NoticeUndeliverable("email", "bounced", "mend the address"),
    LeftUndecided("Ticket INC1 was closed without an answer.", "have it answered"),
    keep(),
    revoke(),
    Decide("downgrade", "max@example.com", "itsm", "", NOW),
    SeatTaken("case-0"),
    *(Withdraw(kind, "maria.ops", "parental leave", NOW) for kind in get_args(Withdrawal)),
    DeadlinePassed(),
    GraceOver(),
    *(SeatChecked(found, "evidence") for found in ("clear", "active", "exempt", "gone", "unseen", "changed")),
    DayOff(),
    SeatFrozen(),
    SeatUnfrozen(),
    RecordsHandedOver(2),
    SeatDeactivated(),
    SeatDowngraded(),
    Fulfilled("op", "done in the product"),
    NotFulfilled("op", "no access"),
    Reactivate("op", "needed"),
    SeatGivenBack(),
    ActionFailed("FIELD_INTEGRITY: no", "mend it"),
    BrakeTripped("25 of at most 25 freezes in 24 hours", "ask for an override"),
    ActionFailed("NOT_FOUND: no such account", "look", unseen=True),
    Retry("op"),
    AccountDeleted("op", "asked its owner"),
    Unfreeze("op"),
]

LATE = [TakenLate(kind) for kind in (Effect.FREEZE, Effect.DEACTIVATE, Effect.DOWNGRADE)]
"""Steps that hung. They are heard of after the end too, and open a case again: the laws of a sequence know none."""


def walk(path: Sequence[tuple[Command, timedelta]], **changes: object) -> tuple[Case, list[Event]]:
    case, said = new_case(**changes), []
    for command, after in path:
        verdict = decide(case, command, NOW + after)
        assert isinstance(verdict, Accepted), (case.state, command, verdict)
        case = verdict.case
        said.extend(verdict.events)
    return case, said


def at(state: State, **changes: object) -> Case:
    """Return a case in a state."""
    return walk(PATHS[state], **{**RULES.get(state, {}), **changes})[0]


def accept(case: Case, command: Command, now: datetime = NOW) -> Accepted:
    verdict = decide(case, command, now)
    assert isinstance(verdict, Accepted), verdict
    return verdict


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_reached(state: State) -> None:
    assert at(state).state is state


@pytest.mark.parametrize(("state", "command"), list(product(State, [*COMMANDS, *LATE])), ids=str)
def test_every_command_in_every_state_has_an_answer(state: State, command: Command) -> None:
    case = at(state)
    verdict = decide(case, command, NOW + 100 * DAY)
    if (state, type(command)) not in TRANSITIONS:
        assert isinstance(verdict, Rejected)
        return
    if isinstance(verdict, Accepted):
        after = verdict.case
        assert after.version == case.version + 1
        waits = after.state is State.ATTENTION or isinstance(command, LeftUndecided)
        assert (after.attention is not None) == waits
        assert verdict.effect == (EFFECT_OF.get(after.state) if after.state is not state else None)
        assert any(isinstance(event, CaseClosed) for event in verdict.events) == (
            after.state in ENDED and after.state is not State.REACTIVATED
        )
        assert after.state not in {State.FREEZING, State.RESTORING} or after.method != "task"
    else:
        assert verdict.reason


def test_a_ticket_that_decides_nothing_calls_a_person_once_while_the_deadline_stands() -> None:
    asked = at(State.AWAITING_DECISION)
    told = LeftUndecided("Ticket INC1 was closed without an answer.", "have it answered")
    called = accept(asked, told)
    assert (called.case.state, called.case.decide_by) == (State.AWAITING_DECISION, asked.decide_by)
    assert called.case.attention == Attention(told.reason, told.remedy, State.AWAITING_DECISION)
    assert [type(event) for event in called.events] == [AttentionRaised]
    assert called.effect is called.timer is None
    assert isinstance(decide(called.case, told, NOW), Rejected)
    assert accept(called.case, keep()).case.attention is None
    assert asked.decide_by is not None
    late = accept(called.case, DeadlinePassed(), asked.decide_by).case
    assert late.state is not State.AWAITING_DECISION
    assert isinstance(decide(at(State.FROZEN), told, NOW), Rejected)


def test_who_has_a_seat_freed_by_hand_is_told_so_before_grace_is_over() -> None:
    case, said = walk(PATHS[State.IN_GRACE], **BY_HAND)
    (announced,) = [event for event in said if isinstance(event, FulfilmentAnnounced)]
    assert (announced.decision, announced.grace_ends_at) == (case.decision, case.grace_ends_at)


NOTHING_BEGUN = {State.FLAGGED, State.AWAITING_DECISION, State.IN_GRACE, State.AWAITING_FULFILMENT}
"""States before a decision, and those of a seat that a person frees: no step was sent that could hang."""


def test_a_step_that_hung_is_heeded_wherever_its_case_may_have_got() -> None:
    assert {state for state in State if (state, TakenLate) not in TRANSITIONS} == NOTHING_BEGUN


@pytest.mark.parametrize("kind", [Effect.FREEZE, Effect.DEACTIVATE])
def test_a_step_that_hung_while_the_account_was_restored_is_undone_after_it(kind: Effect) -> None:
    noted = accept(at(State.RESTORING), TakenLate(kind))
    assert (noted.case.state, noted.effect) == (State.RESTORING, None)
    once = accept(noted.case, SeatUnfrozen())
    assert (once.case.state, once.effect, once.events) == (State.RESTORING, Effect.UNFREEZE, ())
    assert once.case.unsure is (kind is Effect.DEACTIVATE), "a deactivation is undone by giving back all there is"
    twice = accept(once.case, SeatUnfrozen())
    assert twice.case.state is State.RESTORED
    assert [type(event) for event in twice.events] == [UserRestored, CaseClosed]


def test_a_step_that_hung_while_the_seat_was_given_back_is_undone_after_it() -> None:
    once = accept(accept(at(State.REACTIVATING), TakenLate(Effect.DEACTIVATE)).case, SeatGivenBack())
    assert (once.case.state, once.effect, once.events) == (State.REACTIVATING, Effect.REACTIVATE, ())
    twice = accept(once.case, SeatGivenBack())
    assert twice.case.state is State.REACTIVATED
    assert [type(event) for event in twice.events] == [SeatReactivated]


def test_a_step_that_hung_until_the_seat_was_back_is_undone_and_booked_once() -> None:
    again = accept(at(State.REACTIVATED), TakenLate(Effect.DEACTIVATE))
    assert (again.case.state, again.effect) == (State.REACTIVATING, Effect.REACTIVATE)
    back = accept(again.case, SeatGivenBack())
    assert (back.case.state, back.events) == (State.REACTIVATED, ())


@pytest.mark.parametrize(
    ("order", "state"), [(Retry("op"), State.CHECKING_BEFORE_FREEZE), (keep(), State.RESTORING)], ids=str
)
def test_a_freeze_that_hung_until_its_case_is_checked_anew_calls_a_person(order: Command, state: State) -> None:
    called = accept(at(State.CHECKING_BEFORE_FREEZE), TakenLate(Effect.FREEZE))
    assert (called.case.state, called.case.unsure) == (State.ATTENTION, True)
    assert [type(event) for event in called.events] == [AttentionRaised]
    assert accept(called.case, order).case.state is state


def test_somebody_elses_freeze_is_not_left_to_them_once_a_late_one_of_ours_came() -> None:
    foreign = accept(at(State.FREEZING), ActionFailed("frozen by another", "ask them", foreign=True)).case
    called = accept(foreign, TakenLate(Effect.FREEZE)).case
    assert called.attention is not None
    assert "frozen by another" in called.attention.reason
    assert "ask them" in called.attention.remedy
    console = replace(keep(), channel="console")
    assert accept(called, console).case.state is State.RESTORING


@pytest.mark.parametrize("found", ["exempt", "gone", "changed"])
@pytest.mark.parametrize(
    ("state", "kind", "check"),
    [
        (State.FREEZING, Effect.FREEZE, State.CHECKING_BEFORE_FREEZE),
        (State.CHECKING_BEFORE_RECLAIM, Effect.DEACTIVATE, State.CHECKING_BEFORE_RECLAIM),
        (State.RECLAIMING, Effect.DEACTIVATE, State.CHECKING_BEFORE_RECLAIM),
    ],
)
def test_a_check_that_began_before_a_late_step_was_heard_of_is_made_again(
    state: State, kind: Effect, check: State, found: Literal["exempt", "gone", "changed"]
) -> None:
    noted = accept(at(state), TakenLate(kind)).case
    assert (noted.state, noted.unsure) == (state, True)
    again = accept(noted, SeatChecked(found, "it is off"))
    assert (again.case.state, again.effect) == (check, Effect.CHECK)


@pytest.mark.parametrize("state", [State.KEPT, State.CANCELLED, State.SKIPPED, State.RESTORED])
def test_after_a_step_that_hung_only_what_was_restored_is_said_to_be(state: State) -> None:
    late = accept(at(state), TakenLate(Effect.FREEZE)).case
    nothing = accept(late, SeatUnfrozen(changed=False))
    assert (nothing.case.state, nothing.events) == (state, ())
    undone = accept(late, SeatUnfrozen())
    assert [type(event) for event in undone.events] == [UserRestored], "it was closed once"
    assert undone.case.state in ENDED


def test_a_freeze_that_hung_until_the_holder_was_moved_calls_a_person() -> None:
    moved = accept(at(State.DOWNGRADING), SeatDowngraded()).case
    assert isinstance(decide(moved, TakenLate(Effect.DOWNGRADE), NOW), Rejected)
    called = accept(moved, TakenLate(Effect.FREEZE)).case
    assert called.attention is not None
    assert "Let the holder in" in called.attention.remedy
    assert accept(called, Retry("op")).case.state is State.RECLAIMED


def test_the_table_names_only_commands_there_are() -> None:
    assert {command for _, command in TRANSITIONS} <= set(get_args(Command))


# Law 1: no freeze without a decision, or the rule's time-out after the notice was really sent.


def test_a_time_out_needs_a_delivered_notice() -> None:
    assert isinstance(decide(new_case(), DeadlinePassed(), NOW + 100 * DAY), Rejected)
    unproven = replace(walk(PATHS[State.AWAITING_DECISION])[0], notified_at=None)
    assert isinstance(decide(unproven, DeadlinePassed(), NOW + 100 * DAY), Rejected)


def test_a_time_out_never_comes_early() -> None:
    case, _ = walk(PATHS[State.AWAITING_DECISION])
    assert case.decide_by == NOW + 14 * DAY
    assert isinstance(decide(case, DeadlinePassed(), NOW + 14 * DAY - timedelta(microseconds=1)), Rejected)
    assert accept(case, DeadlinePassed(), NOW + 14 * DAY).case.state is State.CHECKING_BEFORE_FREEZE


@pytest.mark.parametrize(
    ("on_timeout", "state"),
    [("freeze", State.CHECKING_BEFORE_FREEZE), ("keep", State.KEPT), ("escalate", State.ATTENTION)],
)
def test_what_a_time_out_does_is_the_rules_choice(on_timeout: TimeoutAction, state: State) -> None:
    case, _ = walk(PATHS[State.AWAITING_DECISION], on_timeout=on_timeout)
    after = accept(case, DeadlinePassed(), NOW + 20 * DAY).case
    assert after.state is state
    if state is not State.ATTENTION:
        assert after.decision == "timeout"
        assert after.decided_by is not None
        assert "Idle seats" in after.decided_by


def test_the_deadline_counts_from_the_delivery_and_a_second_one_does_not_move_it() -> None:
    case = accept(new_case(), NoticeArrived("email", "max@example.com", NOW + 3 * DAY), NOW + 3 * DAY).case
    assert case.decide_by == NOW + 17 * DAY
    assert isinstance(decide(case, NoticeArrived("itsm", "desk", NOW + 5 * DAY), NOW + 5 * DAY), Rejected)


# Law 2: no reclaim before freeze + grace, none with an open appeal; the first decision wins.


def test_grace_counts_from_the_freeze_and_never_ends_early() -> None:
    case, _ = walk(PATHS[State.FROZEN])
    assert case.frozen_at == NOW + DAY
    assert case.grace_ends_at == NOW + 8 * DAY
    assert isinstance(decide(case, GraceOver(), NOW + 8 * DAY - timedelta(microseconds=1)), Rejected)
    assert accept(case, GraceOver(), NOW + 8 * DAY).case.state is State.CHECKING_BEFORE_RECLAIM


@pytest.mark.parametrize("state", [State.FROZEN, State.CHECKING_BEFORE_RECLAIM])
def test_a_keep_during_grace_is_an_appeal_and_restores(state: State) -> None:
    case, _ = walk(PATHS[state])
    verdict = accept(case, keep("ada@example.com"))
    assert (verdict.case.state, verdict.effect) == (State.RESTORING, Effect.UNFREEZE)
    restored = accept(verdict.case, SeatUnfrozen())
    assert restored.case.state is State.RESTORED
    assert [type(event) for event in restored.events] == [UserRestored, CaseClosed]
    assert restored.case.frozen_at is None


def test_an_appeal_while_the_freeze_is_under_way_is_granted_after_it() -> None:
    case, _ = walk(PATHS[State.FREEZING])
    verdict = accept(case, keep())
    assert (verdict.case.state, verdict.effect) == (State.FREEZING, None)
    frozen = accept(verdict.case, SeatFrozen())
    assert (frozen.case.state, frozen.effect, frozen.timer) == (State.RESTORING, Effect.UNFREEZE, None)
    assert [type(event) for event in frozen.events] == [UserFrozen]


def test_an_appeal_while_records_are_handed_over_stops_before_the_deactivation() -> None:
    case = accept(walk(PATHS[State.HANDING_OVER])[0], keep()).case
    assert accept(case, RecordsHandedOver(3)).case.state is State.RESTORING
    assert accept(case, ActionFailed("locked", "wait")).case.state is State.RESTORING


def test_the_first_decision_wins() -> None:
    case, _ = walk(PATHS[State.CHECKING_BEFORE_FREEZE])
    late = decide(case, Decide("revoke", "other@example.com", "itsm", "", NOW), NOW)
    assert isinstance(late, Rejected)
    assert "max@example.com" in late.reason
    kept, _ = walk(PATHS[State.KEPT])
    assert isinstance(decide(kept, revoke(), NOW), Rejected)


def test_a_keep_before_anything_was_done_ends_the_case_untouched() -> None:
    verdict = accept(walk(PATHS[State.CHECKING_BEFORE_FREEZE])[0], keep())
    assert (verdict.case.state, verdict.effect) == (State.KEPT, None)


def test_too_late_to_keep_says_what_to_do() -> None:
    late = Decide("keep", "max@example.com", "console", "still needed", NOW + 8 * DAY)
    verdict = decide(walk(PATHS[State.RECLAIMED])[0], late, NOW + 9 * DAY)
    assert isinstance(verdict, Rejected)
    assert "reactivate" in verdict.reason


@pytest.mark.parametrize("method", ["deactivate", "downgrade"])
def test_a_step_that_is_held_up_can_be_kept_for_as_long_as_it_is_not_taken(method: str) -> None:
    """A kill switch may hold it for days after grace: nothing was sent yet."""
    reclaiming = at(State.RECLAIMING if method == "deactivate" else State.DOWNGRADING)
    late = Decide("keep", "max@example.com", "console", "still needed", NOW + 20 * DAY)
    noted = accept(reclaiming, late, NOW + 20 * DAY).case
    assert accept(noted, ActionFailed("was not begun any more", ""), NOW + 21 * DAY).case.state is State.RESTORING
    taken = accept(noted, SeatDeactivated() if method == "deactivate" else SeatDowngraded(), NOW + 21 * DAY)
    assert taken.case.state is State.REACTIVATING
    assert [type(event) for event in taken.events] == [SeatReclaimed, CaseClosed]


@pytest.mark.parametrize("appealed", [State.RECLAIMING, State.RECLAIMED])
def test_an_appeal_that_was_made_in_time_counts_however_late_it_is_heard_of(appealed: State) -> None:
    case, _ = walk(PATHS[appealed])
    verdict = accept(case, keep(), NOW + 9 * DAY)
    if appealed is State.RECLAIMING:
        failed = accept(verdict.case, ActionFailed("no", "mend"), NOW + 9 * DAY).case
        assert failed.state is State.RESTORING
        verdict = accept(verdict.case, SeatDeactivated(), NOW + 9 * DAY)
        assert [type(event) for event in verdict.events] == [SeatReclaimed, CaseClosed]
    assert verdict.case.state is State.REACTIVATING
    given_back = accept(verdict.case, SeatGivenBack(), NOW + 9 * DAY)
    (said,) = given_back.events
    assert isinstance(said, SeatReactivated)
    assert said.actor == "max@example.com"


def test_an_appeal_counts_that_was_made_while_the_reclaim_was_held_up_and_heard_of_after_it() -> None:
    held = at(State.RECLAIMING)
    reclaimed = accept(held, SeatDeactivated(), NOW + 40 * DAY).case
    made = Decide("keep", "max@example.com", "email", "back from leave", NOW + 39 * DAY)
    assert accept(reclaimed, made, NOW + 41 * DAY).case.state is State.REACTIVATING
    after_it = Decide("keep", "max@example.com", "email", "back from leave", NOW + 40 * DAY)
    assert isinstance(decide(reclaimed, after_it, NOW + 41 * DAY), Rejected)


@pytest.mark.parametrize(
    ("state", "tried", "after"),
    [
        (State.FREEZING, False, State.SKIPPED),
        (State.FREEZING, True, State.RESTORING),
        (State.HANDING_OVER, False, State.RESTORING),
        (State.RECLAIMING, False, State.RESTORING),
    ],
)
def test_a_step_that_waited_is_not_taken_once_its_check_fails(state: State, tried: bool, after: State) -> None:
    case, _ = walk(PATHS[state])
    assert isinstance(decide(case, SeatChecked("clear", "still unused", tried), NOW), Rejected)
    assert accept(case, SeatChecked("exempt", "on leave", tried)).case.state is after


@pytest.mark.parametrize("found", ["exempt", "changed", "gone"])
def test_no_check_makes_a_granted_appeal_forgotten(found: str) -> None:
    case = accept(walk(PATHS[State.HANDING_OVER])[0], keep()).case
    assert accept(case, SeatChecked(found, "evidence")).case.state is State.RESTORING  # type: ignore[arg-type]


def test_a_freeze_without_an_answer_is_undone_if_the_seat_is_kept() -> None:
    case = accept(walk(PATHS[State.FREEZING])[0], ActionFailed("no answer", "mend", unsure=True)).case
    again = accept(case, Retry("op")).case
    assert again.state is State.CHECKING_BEFORE_FREEZE
    assert accept(again, keep()).case.state is State.RESTORING


FOREIGN = ActionFailed("frozen by another", "unfreeze it", unsure=True, foreign=True)


@pytest.mark.parametrize("state", [State.FREEZING, State.RESTORING], ids=str)
def test_somebody_elses_freeze_is_for_a_person_who_may_leave_it(state: State) -> None:
    case = accept(walk(PATHS[state])[0], FOREIGN).case
    assert case.attention is not None
    assert "keep the seat here" in case.attention.remedy
    again = accept(case, keep())
    assert again.case.state is State.RESTORING, "who has not seen whose freeze it is wants the account to be let in"
    left = accept(case, Decide("keep", "op", "console", "legal hold", NOW))
    assert (left.case.state, left.effect) == (State.KEPT, None)
    assert left.case.appealed_by == "op"


@pytest.mark.parametrize("state", [State.REACTIVATING, State.DOWNGRADING], ids=str)
def test_somebody_elses_freeze_is_not_left_where_more_was_changed(state: State) -> None:
    case = accept(at(state), FOREIGN).case
    assert case.attention is not None
    assert (case.attention.foreign, case.attention.remedy) == (False, "unfreeze it")


# Law 5: checked again before each step.


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ("clear", State.FREEZING),
        ("active", State.CANCELLED),
        ("exempt", State.SKIPPED),
        ("gone", State.SKIPPED),
        ("changed", State.SKIPPED),
    ],
)
def test_the_check_before_the_freeze(found: str, state: State) -> None:
    case, _ = walk(PATHS[State.CHECKING_BEFORE_FREEZE])
    assert accept(case, SeatChecked(found, "evidence")).case.state is state  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ("clear", State.HANDING_OVER),
        ("active", State.RESTORING),
        ("exempt", State.RESTORING),
        ("gone", State.SKIPPED),
        ("changed", State.ATTENTION),
    ],
)
def test_the_check_before_the_reclaim(found: str, state: State) -> None:
    case, _ = walk(PATHS[State.CHECKING_BEFORE_RECLAIM])
    assert accept(case, SeatChecked(found, "evidence")).case.state is state  # type: ignore[arg-type]


def test_without_hand_over_the_seat_is_freed_at_once() -> None:
    case, _ = walk(PATHS[State.CHECKING_BEFORE_RECLAIM], hand_over=False)
    assert accept(case, CLEAR).case.state is State.RECLAIMING


# Attention: never lost, never stuck.


@pytest.mark.parametrize("state", EFFECT_OF)
def test_whatever_fails_calls_a_person_and_can_be_tried_again(state: State) -> None:
    case = at(state)
    verdict = accept(case, ActionFailed("CANNOT_DISABLE_LAST_ADMIN: no", "name another administrator"))
    assert verdict.case.state is State.ATTENTION
    (raised,) = verdict.events
    assert isinstance(raised, AttentionRaised)
    assert raised.remedy == "name another administrator"
    again = accept(verdict.case, Retry("op"))
    assert again.effect is not None
    expected = {
        State.FREEZING: State.CHECKING_BEFORE_FREEZE,
        State.HANDING_OVER: State.CHECKING_BEFORE_RECLAIM,
        State.RECLAIMING: State.CHECKING_BEFORE_RECLAIM,
        State.DOWNGRADING: State.CHECKING_BEFORE_RECLAIM,
    }.get(state, state)
    assert again.case.state is expected


BRAKE = BrakeTripped("25 of at most 25 freezes", "ask for an override")


@pytest.mark.parametrize(
    ("state", "again", "kept"),
    [
        (State.FREEZING, State.CHECKING_BEFORE_FREEZE, State.KEPT),
        (State.HANDING_OVER, State.CHECKING_BEFORE_RECLAIM, State.RESTORING),
        (State.RECLAIMING, State.CHECKING_BEFORE_RECLAIM, State.RESTORING),
    ],
)
def test_a_brake_stops_a_step_until_a_person_has_it_checked_again(state: State, again: State, kept: State) -> None:
    held = accept(walk(PATHS[state])[0], BRAKE).case
    assert held.attention == Attention(BRAKE.reason, BRAKE.remedy, again)
    assert accept(held, Retry("op")).case.state is again
    assert accept(held, keep()).case.state is kept


@pytest.mark.parametrize("state", [State.FREEZING, State.HANDING_OVER, State.RECLAIMING])
def test_a_brake_grants_the_appeal_that_waits_for_the_step(state: State) -> None:
    case = accept(walk(PATHS[state])[0], keep()).case
    restoring = accept(case, replace(BRAKE, unsure=True))
    assert (restoring.case.state, restoring.effect) == (State.RESTORING, Effect.UNFREEZE)
    assert restoring.case.unsure, "an earlier attempt may have happened, and is undone as well"


def test_a_brake_that_holds_a_freeze_before_it_was_begun_leaves_nothing_to_undo() -> None:
    """Somebody else may have frozen the account meanwhile: only what we froze is unfrozen."""
    case = accept(walk(PATHS[State.FREEZING])[0], keep()).case
    kept = accept(case, BRAKE)
    assert (kept.case.state, kept.effect) == (State.KEPT, None)


def test_nobody_asked_is_attention_until_somebody_is() -> None:
    case, _ = walk(PATHS[State.ATTENTION])
    assert isinstance(decide(case, Retry("op"), NOW), Rejected)
    asked = accept(case, NOTICE, NOW + DAY)
    assert asked.case.state is State.AWAITING_DECISION
    assert asked.timer is not None
    assert accept(case, keep()).case.state is State.KEPT
    assert accept(case, revoke()).case.state is State.CHECKING_BEFORE_FREEZE


def test_asking_again_after_an_escalation_sets_a_new_deadline() -> None:
    case, _ = walk(PATHS[State.AWAITING_DECISION], on_timeout="escalate")
    escalated = accept(case, DeadlinePassed(), NOW + 14 * DAY).case
    asked = accept(escalated, NoticeArrived("email", "max@example.com", NOW + 20 * DAY), NOW + 20 * DAY)
    assert asked.timer is not None
    assert asked.case.decide_by == asked.timer.at == NOW + 34 * DAY


@pytest.mark.parametrize(
    ("resume", "state"),
    [
        (State.CHECKING_BEFORE_FREEZE, State.KEPT),
        (State.FREEZING, State.RESTORING),
        (State.CHECKING_BEFORE_RECLAIM, State.RESTORING),
        (State.HANDING_OVER, State.RESTORING),
        (State.RECLAIMING, State.RESTORING),
        (State.DOWNGRADING, State.RESTORING),
        (State.RESTORING, State.RESTORING),
    ],
)
def test_a_case_in_attention_can_still_be_kept(resume: State, state: State) -> None:
    case = accept(at(resume), ActionFailed("no", "mend")).case
    assert case.attention is not None
    assert isinstance(case.attention, Attention)
    assert accept(case, keep()).case.state is state


# Grace in working days, and days on which nothing is freed.

WEEKDAYS_ONLY: dict[str, object] = {"grace_calendar": "business", "no_reclaim_before_days_off": True}


def test_grace_in_working_days_is_what_the_holder_is_told() -> None:
    case, said = walk(PATHS[State.FROZEN], **WEEKDAYS_ONLY)
    (frozen,) = (event for event in said if isinstance(event, UserFrozen))
    # Frozen on Tuesday the 3rd; the seventh working day is Thursday the 12th.
    assert frozen.grace_ends_at == case.grace_ends_at == datetime(2026, 11, 12, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "command", "waits"),
    [
        (State.FROZEN, GraceOver(), State.FROZEN),
        (State.CHECKING_BEFORE_RECLAIM, CLEAR, State.FROZEN),
        (State.HANDING_OVER, RecordsHandedOver(1), State.FROZEN),
        (State.HANDING_OVER, DayOff(), State.FROZEN),
        (State.RECLAIMING, DayOff(), State.FROZEN),
        (State.DOWNGRADING, DayOff(), State.FROZEN),
    ],
)
def test_on_a_friday_a_case_goes_back_into_grace(state: State, command: Command, waits: State) -> None:
    friday, monday = datetime(2026, 11, 13, 9, 0, tzinfo=UTC), datetime(2026, 11, 16, 0, 0, tzinfo=UTC)
    case = replace(at(state), policy=policy(no_reclaim_before_days_off=True, **RULES.get(state, {})))
    verdict = accept(case, command, friday)
    assert (verdict.case.state, verdict.case.grace_ends_at) == (waits, monday)
    assert verdict.timer is not None
    assert verdict.timer.at == monday
    assert accept(verdict.case, keep(), friday).case.state is State.RESTORING
    assert accept(verdict.case, GraceOver(), monday).case.state is State.CHECKING_BEFORE_RECLAIM


def test_an_appeal_is_granted_when_the_step_finds_a_day_off() -> None:
    case = accept(at(State.RECLAIMING), keep()).case
    verdict = accept(case, DayOff(tried=True))
    assert (verdict.case.state, verdict.case.unsure) == (State.RESTORING, True)
    assert verdict.note == "restored: an appeal came while the step fell on a day off"


# Downgrade.


@pytest.mark.parametrize("decision", ["revoke", "downgrade"])
def test_a_downgrade_frees_the_seat_for_the_difference(decision: str) -> None:
    rule: Mapping[str, object] = DOWNGRADE if decision == "revoke" else {"downgrade_to": PLATFORM}
    image = {"product": "SFDC", "profile": "p1", "permission_sets": ["s1"], "permission_set_licences": []}
    path = [
        (Decide(decision, "max@example.com", "itsm", "", NOW), DAY),  # type: ignore[arg-type]
        (CLEAR, DAY), (SeatFrozen(), DAY), (GraceOver(), 8 * DAY),
        (SeatChecked("clear", "still unused", before=image), 8 * DAY), (RecordsHandedOver(0), 8 * DAY),
        (SeatDowngraded(), 8 * DAY),
    ]  # fmt: skip
    case, said = walk(path, **rule)
    assert (case.state, case.before) == (State.RECLAIMED, image)
    told = [event for event in said if isinstance(event, UserFrozen | SeatReclaimed)]
    assert [event.downgrade_to for event in told] == [PLATFORM, PLATFORM]
    assert isinstance(told[1], SeatReclaimed)
    assert told[1].method == "downgrade"
    back = accept(accept(case, Reactivate("op", "needed")).case, SeatGivenBack())
    assert [event.downgrade_to for event in back.events if isinstance(event, SeatReactivated)] == [PLATFORM]


def test_a_downgrade_to_nothing_takes_nothing_away() -> None:
    verdict = accept(new_case(), Decide("downgrade", "desk", "itsm", "", NOW))
    assert verdict.case.state is State.ATTENTION
    assert verdict.case.decision is None
    assert isinstance(decide(verdict.case, Retry("op"), NOW), Rejected)
    assert accept(verdict.case, revoke()).case.method == "deactivate"
    assert accept(verdict.case, keep()).case.state is State.KEPT


def test_what_a_half_done_downgrade_took_is_not_forgotten() -> None:
    first = {"product": "SFDC", "profile": "p1", "permission_sets": ["s1", "s2"], "permission_set_licences": ["a1"]}
    now = {"product": "AUL", "profile": "p2", "permission_sets": ["s2", "s3"], "permission_set_licences": []}
    case = at(State.CHECKING_BEFORE_RECLAIM, **DOWNGRADE)
    case = accept(case, SeatChecked("clear", "", before=first)).case
    case = accept(case, RecordsHandedOver(0)).case
    case = accept(case, ActionFailed("FIELD_INTEGRITY: no", "mend", unsure=True)).case
    case = accept(case, Retry("op")).case
    assert accept(case, SeatChecked("clear", "", before=now)).case.before == {
        "product": "SFDC", "profile": "p1", "permission_sets": ["s2", "s3", "s1"], "permission_set_licences": ["a1"],
    }  # fmt: skip
    untouched = replace(case, unsure=False)
    assert accept(untouched, SeatChecked("clear", "", before=now)).case.before == now


def test_a_downgrade_that_was_tried_is_undone_when_its_check_fails() -> None:
    case = at(State.DOWNGRADING)
    after = accept(case, SeatChecked("exempt", "on leave", tried=True)).case
    assert (after.state, after.unsure) == (State.RESTORING, True)


# A person frees the seat.


def test_a_task_waits_for_grace_and_then_for_a_person() -> None:
    case, said = walk(PATHS[State.AWAITING_FULFILMENT], **BY_HAND)
    assert case.state is State.AWAITING_FULFILMENT
    announced, asked = said
    assert isinstance(announced, FulfilmentAnnounced)
    assert isinstance(asked, FulfilmentRequested)
    assert (asked.method, asked.dry_run) == ("deactivate", False)
    assert "Ada" in asked.instructions
    done = accept(case, Fulfilled("op", "removed in the admin page"), NOW + 9 * DAY)
    assert [type(event) for event in done.events] == [SeatReclaimed, CaseClosed]
    assert isinstance(done.events[0], SeatReclaimed)
    assert done.events[0].fulfilled_by == "op"
    back = accept(done.case, Reactivate("op", "needed"), NOW + 10 * DAY)
    assert (back.case.state, back.effect) == (State.REACTIVATED, None)


def test_a_task_in_a_dry_run_asks_nobody_to_do_anything() -> None:
    case, said = walk(PATHS[State.AWAITING_FULFILMENT], **BY_HAND, dry_run=True)
    assert case.state is State.RECLAIMED
    assert [type(event) for event in said] == [FulfilmentAnnounced, FulfilmentRequested, SeatReclaimed, CaseClosed]
    assert all(event.dry_run for event in said if not isinstance(event, CaseClosed))


def test_a_task_that_was_given_up_and_is_done_after_all_frees_the_seat() -> None:
    given_up = accept(at(State.AWAITING_FULFILMENT), NotFulfilled("desk", "closed without an answer")).case
    done = accept(given_up, Fulfilled("desk", "ticket 7"), NOW + 9 * DAY)
    assert done.case.state is State.RECLAIMED
    assert [type(event) for event in done.events] == [SeatReclaimed, CaseClosed]
    undecided = accept(at(State.FLAGGED), NoticeUndeliverable("itsm", "no desk", "decide here")).case
    assert isinstance(decide(undecided, Fulfilled("desk", "ticket 7"), NOW), Rejected)


def test_a_task_that_cannot_be_done_is_attention_and_asked_for_anew() -> None:
    failed = accept(at(State.AWAITING_FULFILMENT), NotFulfilled("op", "no access")).case
    assert failed.state is State.ATTENTION
    again = accept(failed, Retry("op")).case
    assert again.state is State.CHECKING_BEFORE_RECLAIM
    assert isinstance(accept(again, CLEAR).events[0], FulfilmentRequested)
    assert accept(failed, keep()).case.state is State.KEPT


@pytest.mark.parametrize(
    ("found", "state"), [("active", State.CANCELLED), ("exempt", State.SKIPPED), ("gone", State.SKIPPED)]
)
def test_the_check_before_a_task_ends_the_case_untouched(found: str, state: State) -> None:
    case = accept(at(State.IN_GRACE), GraceOver(), NOW + 20 * DAY).case
    after = accept(case, SeatChecked(found, "evidence"))  # type: ignore[arg-type]
    assert (after.case.state, after.effect) == (state, None)


@pytest.mark.parametrize("state", [State.IN_GRACE, State.CHECKING_BEFORE_RECLAIM, State.AWAITING_FULFILMENT])
def test_a_seat_that_a_person_would_free_is_kept_at_once(state: State) -> None:
    case = at(State.AWAITING_FULFILMENT)
    verdict = accept(replace(case, state=state), keep())
    assert (verdict.case.state, verdict.effect) == (State.KEPT, None)


def test_an_appeal_in_time_after_a_task_is_for_a_person() -> None:
    case = accept(at(State.AWAITING_FULFILMENT), Fulfilled("op", "done"), NOW + 9 * DAY).case
    late = accept(case, keep(), NOW + 10 * DAY).case
    assert late.state is State.ATTENTION
    assert accept(late, Reactivate("op", "given back"), NOW + 11 * DAY).case.state is State.REACTIVATED
    forgetful = decide(late, Retry("op"), NOW)
    assert isinstance(forgetful, Rejected)
    assert "appealed in time" in forgetful.reason
    by_mail = Decide("revoke", "max@example.com", "email", "no", NOW + 11 * DAY)
    assert isinstance(decide(late, by_mail, NOW + 11 * DAY), Rejected)
    left = Decide("revoke", "op", "console", "agreed with the holder", NOW + 11 * DAY)
    assert accept(late, left, NOW + 11 * DAY).case.state is State.RECLAIMED
    assert isinstance(decide(at(State.ATTENTION), Reactivate("op", "x"), NOW), Rejected)


def test_a_seat_that_is_freed_by_hand_after_it_was_kept_is_for_a_person_and_booked() -> None:
    """The administrator had begun, when somebody kept it: the seat is gone all the same."""
    kept = accept(at(State.AWAITING_FULFILMENT), keep(), NOW + 9 * DAY).case
    assert kept.state is State.KEPT
    verdict = accept(kept, Fulfilled("adm", "done"), NOW + 10 * DAY)
    assert [type(event) for event in verdict.events] == [SeatReclaimed, AttentionRaised]
    assert verdict.case.state is State.ATTENTION
    assert accept(verdict.case, Reactivate("op", "kept"), NOW + 11 * DAY).case.state is State.REACTIVATED
    assert isinstance(decide(verdict.case, Retry("op"), NOW), Rejected)
    never_asked = accept(at(State.IN_GRACE), keep(), NOW + DAY).case
    assert isinstance(decide(never_asked, Fulfilled("adm", "done"), NOW + 2 * DAY), Rejected)


# A seat that vanished.


@pytest.mark.parametrize(
    "state", [State.FLAGGED, State.AWAITING_DECISION, State.FROZEN, State.IN_GRACE, State.ATTENTION]
)
def test_a_seat_that_vanished_closes_its_case_without_savings(state: State) -> None:
    case = at(state)
    verdict = accept(case, SeatChecked("gone", "the account is inactive"))
    assert verdict.case.state is State.SKIPPED
    (closed,) = verdict.events
    assert isinstance(closed, CaseClosed)
    assert (closed.outcome, closed.frozen) == ("skipped", case.seat if case.frozen_at else None)
    for other in ("clear", "active", "exempt", "changed"):
        assert isinstance(decide(case, SeatChecked(other, ""), NOW), Rejected)  # type: ignore[arg-type]


def test_what_we_may_have_done_ourselves_did_not_vanish() -> None:
    unsure = accept(at(State.RECLAIMING), ActionFailed("no answer", "mend", unsure=True)).case
    reclaimed = accept(accept(at(State.REACTIVATING), ActionFailed("no seat", "buy")).case, Retry("op")).case
    by_hand = accept(at(State.AWAITING_FULFILMENT), NotFulfilled("op", "no access")).case
    failed = accept(reclaimed, ActionFailed("no seat", "buy")).case
    for case in (unsure, failed, by_hand):
        assert isinstance(decide(case, SeatChecked("gone", "inactive"), NOW), Rejected)


# The scanner takes a case back.

KINDS: Sequence[Withdrawal] = get_args(Withdrawal)


def withdraw(kind: Withdrawal = "exempted") -> Withdraw:
    return Withdraw(kind, "maria.ops", "parental leave", NOW + 9 * DAY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [State.FLAGGED, State.AWAITING_DECISION, State.ATTENTION])
def test_a_case_that_is_withdrawn_before_a_decision_closes_untouched(state: State, kind: Withdrawal) -> None:
    verdict = accept(at(state), withdraw(kind))
    ended = State.CANCELLED if kind == "used" else State.SKIPPED
    assert (verdict.case.state, verdict.effect) == (ended, None)
    (closed,) = verdict.events
    assert isinstance(closed, CaseClosed)
    assert (closed.outcome, closed.frozen) == (ended.value, None)
    assert "parental leave" in closed.reason
    assert "maria.ops" in closed.reason


@pytest.mark.parametrize("state", [State.CHECKING_BEFORE_FREEZE, State.IN_GRACE, State.AWAITING_FULFILMENT])
def test_a_case_that_is_withdrawn_before_anything_was_done_closes_untouched(state: State) -> None:
    verdict = accept(at(state), withdraw("rule_withdrawn"))
    assert (verdict.case.state, verdict.effect) == (State.SKIPPED, None)


@pytest.mark.parametrize("state", [State.FLAGGED, State.AWAITING_DECISION, State.CHECKING_BEFORE_FREEZE])
def test_a_case_of_a_used_seat_closes_with_nothing_that_older_readers_do_not_know(state: State) -> None:
    """Such a reader refuses the whole event, and would go on asking people about a case that is closed."""
    (closed,) = accept(at(state), withdraw("used")).events
    assert isinstance(closed, CaseClosed)
    assert (closed.outcome, closed.withdrawn) == ("cancelled", None)


@pytest.mark.parametrize("state", [State.FROZEN, State.CHECKING_BEFORE_RECLAIM])
def test_a_frozen_seat_whose_case_is_withdrawn_is_restored_and_saves_nothing(state: State) -> None:
    verdict = accept(at(state), withdraw())
    assert (verdict.case.state, verdict.effect) == (State.RESTORING, Effect.UNFREEZE)
    after = accept(verdict.case, SeatUnfrozen())
    assert after.case.state is State.SKIPPED
    assert [type(event) for event in after.events] == [UserRestored, CaseClosed]
    assert isinstance(after.events[1], CaseClosed)
    assert (after.events[1].outcome, after.events[1].frozen) == ("skipped", None)


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (State.FREEZING, SeatFrozen()),
        (State.HANDING_OVER, RecordsHandedOver(2)),
        (State.HANDING_OVER, DayOff()),
        (State.RECLAIMING, ActionFailed("not begun", "")),
        (State.DOWNGRADING, BrakeTripped("the kill switch", "")),
    ],
    ids=str,
)
def test_a_withdrawal_waits_for_the_step_under_way_and_then_restores(state: State, answer: Command) -> None:
    noted = accept(at(state), withdraw())
    assert (noted.case.state, noted.effect) == (state, None)
    assert isinstance(decide(noted.case, withdraw(), NOW), Rejected)
    after = accept(noted.case, answer, NOW + 9 * DAY)
    assert after.case.state is State.RESTORING
    assert "withdrawn" in after.note
    assert accept(after.case, SeatUnfrozen()).case.state is State.SKIPPED


def test_a_withdrawal_before_the_freeze_was_begun_undoes_nothing() -> None:
    noted = accept(at(State.FREEZING), withdraw()).case
    after = accept(noted, ActionFailed("not begun", ""))
    assert (after.case.state, after.effect) == (State.SKIPPED, None)


def test_a_freeze_without_an_answer_is_undone_when_its_case_is_withdrawn() -> None:
    unsure = accept(at(State.FREEZING), ActionFailed("no answer", "mend", unsure=True)).case
    assert accept(unsure, withdraw()).case.state is State.RESTORING


@pytest.mark.parametrize("state", [State.RECLAIMED, State.REACTIVATING, State.REACTIVATED])
@pytest.mark.parametrize("kind", KINDS)
def test_past_the_reclaim_a_withdrawal_is_only_recorded(state: State, kind: Withdrawal) -> None:
    assert isinstance(decide(at(state), withdraw(kind), NOW), Rejected)
    attention = accept(at(State.REACTIVATING), ActionFailed("no seat", "buy")).case
    assert isinstance(decide(attention, withdraw(kind), NOW), Rejected)


def test_a_withdrawal_that_the_reclaim_overtook_gives_nothing_back_but_an_appeal_in_time_still_does() -> None:
    noted = accept(at(State.RECLAIMING), withdraw()).case
    freed = accept(noted, SeatDeactivated(), NOW + 9 * DAY)
    assert freed.case.state is State.RECLAIMED
    assert "withdrawn by maria.ops (parental leave), which came too late to stop the step" in freed.note
    assert accept(freed.case, keep(), NOW + 9 * DAY).case.state is State.REACTIVATING


@pytest.mark.parametrize("state", sorted(set(State) - {State.FLAGGED, State.AWAITING_DECISION, State.ATTENTION}))
def test_only_a_case_that_nobody_decided_upon_is_merged(state: State) -> None:
    assert isinstance(decide(at(state), withdraw("merged"), NOW), Rejected)
    stuck = accept(at(State.FREEZING), ActionFailed("no", "mend")).case
    assert isinstance(decide(stuck, withdraw("merged"), NOW), Rejected)


def test_a_seat_that_vanished_is_closed_and_one_that_is_frozen_is_looked_for() -> None:
    verdict = accept(at(State.AWAITING_DECISION), withdraw("vanished"))
    assert (verdict.case.state, verdict.effect) == (State.SKIPPED, None)
    assert isinstance(verdict.events[0], CaseClosed)
    for state in (
        State.CHECKING_BEFORE_FREEZE,
        State.FREEZING,
        State.FROZEN,
        State.HANDING_OVER,
        State.RECLAIMING,
    ):
        assert isinstance(decide(at(state), withdraw("vanished"), NOW), Rejected)


def test_who_appealed_first_stays_the_one_who_did() -> None:
    appealed = accept(at(State.HANDING_OVER), keep()).case
    assert isinstance(decide(appealed, withdraw(), NOW), Rejected)
    restoring = accept(appealed, RecordsHandedOver(0)).case
    assert isinstance(decide(restoring, withdraw(), NOW), Rejected)
    failed = accept(restoring, ActionFailed("no", "mend")).case
    assert isinstance(decide(failed, withdraw(), NOW), Rejected)


# Under any sequence of commands.

RESTRICTED: dict[str, object] = {"no_reclaim_before_days_off": True, "days_off": (date(2026, 11, 11),)}


@given(
    st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, 30)), max_size=40),
    st.booleans(),
    st.sampled_from(WAYS),
    st.sampled_from([{}, RESTRICTED, {**RESTRICTED, "grace_calendar": "business"}]),
)
@settings(max_examples=600, deadline=None)
def test_the_laws_hold_under_any_sequence(
    steps: list[tuple[Command, int]], hand_over: bool, way: Mapping[str, object], days: Mapping[str, object]
) -> None:
    case, now = new_case(hand_over=hand_over, **way, **days), NOW
    said: list[Event] = []
    effects: list[tuple[Effect, Case, datetime]] = []
    for command, days in steps:
        now += days * DAY
        verdict = decide(case, command, now)
        if isinstance(verdict, Rejected):
            continue
        if verdict.effect is not None:
            effects.append((verdict.effect, verdict.case, now))
        said.extend(verdict.events)
        case = verdict.case
    for effect, at_that_time, when in effects:
        if effect is Effect.FREEZE:
            assert at_that_time.decision in {"revoke", "downgrade", "timeout"}
            assert at_that_time.method != "task"
            if at_that_time.decision == "timeout":
                assert at_that_time.notified_at is not None
                assert at_that_time.decided_at is not None
                assert at_that_time.decided_at >= at_that_time.notified_at + 14 * DAY
        if effect in {Effect.DEACTIVATE, Effect.DOWNGRADE}:
            assert (effect is Effect.DOWNGRADE) == (at_that_time.method == "downgrade")
            assert calendar.may_reclaim(at_that_time.policy, when)
            assert at_that_time.grace_ends_at is not None
            assert when >= at_that_time.grace_ends_at
            assert at_that_time.appealed_by is None
    if case.method == "task":
        assert {effect for effect, *_ in effects} <= {Effect.CHECK}
    kinds = [type(event) for event in said]
    assert kinds.count(SeatReclaimed) - kinds.count(SeatReactivated) in {0, 1}
    assert kinds.count(CaseClosed) <= 1
    assert kinds.count(CaseClosed) == (
        case.state in ENDED
        or case.state is State.REACTIVATING
        or case.closed_as is State.SKIPPED  # and its freeze is being undone
        or _failed_after_end(case)
    )


def _failed_after_end(case: Case) -> bool:
    return case.attention is not None and case.attention.resume in {State.REACTIVATING, State.RECLAIMED}
