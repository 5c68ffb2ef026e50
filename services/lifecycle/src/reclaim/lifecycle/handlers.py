"""What the lifecycle does when another stage says something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from reclaim.common.contracts import (
    CaseWithdrawn,
    ConnectionChanged,
    DecisionReceived,
    FulfilmentReported,
    NoticeDelivered,
    NoticeFailed,
    PagesServed,
    TicketUndecided,
    UsageJudged,
    UserFlagged,
)
from reclaim.common.db import Unit
from reclaim.common.envelope import Received
from reclaim.common.errors import NotYet
from reclaim.common.inbox import Subscriptions
from reclaim.lifecycle import brake_store, store, uptime_store
from reclaim.lifecycle.audit import Entry, Personal, fresh_salts
from reclaim.lifecycle.domain import (
    ASKED,
    Case,
    Decide,
    Fulfilled,
    LeftUndecided,
    NotFulfilled,
    NoticeArrived,
    NoticeUndeliverable,
    SeatTaken,
    State,
    UseTold,
    Withdraw,
    open_case,
)
from reclaim.lifecycle.submit import Submission, record, submit


async def open_cases(_deps: None, unit: Unit, events: Sequence[Received[UserFlagged]]) -> None:
    """Open a case for each flagged seat; a seat that already has an open one keeps it, and the new one ends at once."""
    taken = await store.open_seats(unit.db, {received.data.seat.holder.id for received in events})
    known = await store.load(unit.db, {received.data.case_id for received in events})
    cases: list[Case] = []
    twins: list[Submission] = []
    entries: list[tuple[Entry, Personal | None]] = []
    for received in events:
        flagged = received.data
        if flagged.case_id in known:
            continue
        seat = (flagged.seat.connection_id, flagged.seat.holder.id, flagged.seat.product)
        if (other := taken.setdefault(seat, flagged.case_id)) != flagged.case_id:
            twins.append(Submission(flagged.case_id, SeatTaken(other)))
        case = open_case(
            case_id=flagged.case_id,
            seat=flagged.seat,
            approver=flagged.approver,
            policy=flagged.policy,
            last_used_at=flagged.last_used_at,
            flagged_at=flagged.flagged_at,
            run_id=flagged.run_id,
        )
        cases.append(case)
        evidence = msgspec.json.encode({"last_used_at": flagged.last_used_at, "findings": flagged.findings}).decode()
        entries.append((_opened(case, evidence, unit), None))
    await store.insert(unit.db, cases, unit.now, ending={twin.case_id for twin in twins})
    await brake_store.learn_seats(unit.db, [received.data for received in events])
    record(unit, entries)
    if twins:
        await submit(unit, twins)


def _opened(case: Case, evidence: str, unit: Unit) -> Entry:
    rule = f"rule {case.policy.rule_name!r} (version {case.policy.rule_version})"
    return Entry(
        case_id=case.id,
        version=case.version,
        at=unit.now,
        actor=rule,
        channel="scanner",
        command="open_case",
        accepted=True,
        before="",
        after=case.state.value,
        note=f"flagged by {rule}",
        evidence=evidence,
    )


async def note_delivery(_deps: None, unit: Unit, events: Sequence[Received[NoticeDelivered]]) -> None:
    """Start the decision deadline of the cases whose approver was asked."""
    await submit(
        unit,
        [
            Submission(
                case_id=received.data.case_id,
                command=NoticeArrived(received.data.channel, received.data.recipient, received.data.delivered_at),
                channel=received.data.channel,
                evidence=f"taken over for {received.data.recipient} at {received.data.delivered_at.isoformat()}",
            )
            for received in events
        ],
    )


async def note_failure(_deps: None, unit: Unit, events: Sequence[Received[NoticeFailed]]) -> None:
    """Call a person for the cases in which nobody could be asked."""
    await submit(
        unit,
        [
            Submission(
                case_id=received.data.case_id,
                command=NoticeUndeliverable(received.data.channel, received.data.reason, received.data.remedy),
                channel=received.data.channel,
            )
            for received in events
        ],
    )


async def note_undecided(_deps: None, unit: Unit, events: Sequence[Received[TicketUndecided]]) -> None:
    """Call a person for the cases whose tickets were closed and decide nothing.

    Raises:
        NotYet: that a case's question was delivered was not heard here yet.
    """
    for case in (await store.load(unit.db, {received.data.case_id for received in events})).values():
        # One that a person was called for because nobody could be asked elsewhere stands in attention meanwhile.
        unasked = case.attention is not None and case.attention.resume is State.FLAGGED
        if case.state is State.FLAGGED or unasked:
            raise NotYet(f"that anybody was asked in case {case.id} was not heard here yet")
    await submit(
        unit,
        [
            Submission(
                case_id=received.data.case_id,
                command=LeftUndecided(received.data.reason, received.data.remedy),
                channel="itsm",
                evidence=f"noticed at {received.data.noticed_at.isoformat()}",
            )
            for received in events
        ],
    )


async def take_decisions(_deps: None, unit: Unit, events: Sequence[Received[DecisionReceived]]) -> None:
    """Give decisions to their cases: the first wins, a later keep is an appeal, what conflicts is recorded."""
    await submit(
        unit,
        [
            Submission(
                case_id=decision.case_id,
                command=Decide(
                    decision.decision, decision.actor, decision.channel, decision.reason, decision.decided_at
                ),
                actor=decision.actor,
                channel=decision.channel,
                evidence=decision.reason,
                personal=Personal.of(decision.ip, decision.user_agent, salt),
            )
            for decision, salt in zip((received.data for received in events), fresh_salts(len(events)), strict=True)
        ],
    )


async def take_fulfilments(_deps: None, unit: Unit, events: Sequence[Received[FulfilmentReported]]) -> None:
    """Give what became of tasks for people to their cases; one that waits for nothing of the kind records a refusal."""
    await submit(
        unit,
        [
            Submission(
                case_id=told.case_id,
                command=(Fulfilled if told.done else NotFulfilled)(told.actor, told.note),
                actor=told.actor,
                channel=told.channel,
                evidence=told.note,
            )
            for told in (received.data for received in events)
        ],
    )


async def withdraw_cases(_deps: None, unit: Unit, events: Sequence[Received[CaseWithdrawn]]) -> None:
    """Close the cases that the scanner takes back, restoring what was frozen."""
    await submit(
        unit,
        [
            Submission(
                case_id=withdrawn.case_id,
                command=Withdraw(withdrawn.kind, withdrawn.actor, withdrawn.reason, withdrawn.withdrawn_at),
                actor=withdrawn.actor,
                channel="scanner",
                evidence=withdrawn.reason,
            )
            for withdrawn in (received.data for received in events)
        ],
    )


async def learn_use(_deps: None, unit: Unit, events: Sequence[Received[UsageJudged]]) -> None:
    """Give the scanner's answers about use to the checks that asked for them."""
    told = [received.data for received in events]
    await submit(
        unit,
        [
            Submission(
                case_id=judged.case_id,
                command=UseTold(judged.use, judged.reason, judged.asked_at),
                channel="scanner",
                evidence=judged.reason,
            )
            for judged in told
        ],
    )
    await store.hurry_effects(unit.db, {judged.case_id for judged in told}, ASKED)
    unit.wake("act")


async def learn_connections(_deps: None, unit: Unit, events: Sequence[Received[ConnectionChanged]]) -> None:
    """Remember how to reach the connected systems."""
    await store.save_connections(unit.db, [received.data for received in events])


async def learn_uptime(_deps: None, unit: Unit, events: Sequence[Received[PagesServed]]) -> None:
    """Remember when the pages on which people answer were up."""
    await uptime_store.learn(unit.db, [received.data for received in events])
    unit.wake("timers")


SUBSCRIPTIONS: Final[Subscriptions[None]] = {
    ConnectionChanged: learn_connections,
    UserFlagged: open_cases,
    CaseWithdrawn: withdraw_cases,
    UsageJudged: learn_use,
    NoticeDelivered: note_delivery,
    NoticeFailed: note_failure,
    TicketUndecided: note_undecided,
    DecisionReceived: take_decisions,
    FulfilmentReported: take_fulfilments,
    PagesServed: learn_uptime,
}
