"""Handling webhooks that were stored: read the ticket back, and let it decide only what it says itself.

A delivery is claimed with a lease, its ticket is read with no transaction open, and what it says, what became of the
delivery and the decision that leaves are committed together. What cannot be handled stays in the list with its reason,
until a person replays it or sets it aside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from opentelemetry import metrics

from reclaim.common.contracts import DecisionReceived, Event, FulfilmentReported, TicketUndecided
from reclaim.common.db import Database, Unit
from reclaim.common.errors import Conflict, Invalid, NotFound, NotYet, ReclaimError, Transient
from reclaim.common.timing import backoff, wall_milliseconds
from reclaim.connectors.itsm import templates
from reclaim.connectors.itsm.ports import Passing
from reclaim.itsm_gateway import delivery_store, domain, hints, intake, store, ticket_store, verdicts
from reclaim.itsm_gateway.delivery_store import Delivery, Settled
from reclaim.itsm_gateway.desks import offers_downgrade, rules_of
from reclaim.itsm_gateway.domain import Step
from reclaim.itsm_gateway.lanes import Lanes
from reclaim.itsm_gateway.ports import Desks, TicketState
from reclaim.itsm_gateway.store import TicketRequest
from reclaim.itsm_gateway.ticket_store import Desk, Ticket
from reclaim.itsm_gateway.verdicts import Facts, Verdict

log = logging.getLogger(__name__)

CLAIM: Final = 32
AT_ONCE: Final = 16
"""Deliveries of a connection that are claimed at a time, and its tickets that are read at a time."""

PATIENCE: Final = 60.0
LEASE: Final = 180_000
"""A ticket is given up after `PATIENCE` seconds. A claim holds for `LEASE` milliseconds: longer than it takes to give
all the tickets up that were claimed with it.
"""

MOST_ATTEMPTS: Final = 12
FIRST_RETRY: Final = 2.0
LAST_RETRY: Final = 900.0
"""Seconds until a ticket that could not be read is tried again; doubling. All attempts take about an hour."""

SETTLING: Final = 10_000
"""Milliseconds after a ticket was closed in which one that reads as open is read once more: a desk may lag behind."""

OLDEST_TRIAL: Final = timedelta(days=30)
"""How far back the ticket of a trial is looked for."""

TELL: Final = "tell_tickets"
"""The job that is woken when a ticket has something to hear."""

KEPT_FOR: Final = timedelta(days=90)
"""For how long what was taken or ignored stays in the list. What failed stays until a person has dealt with it."""

_results = metrics.get_meter("reclaim.itsm_gateway").create_counter(
    "reclaim_webhook_deliveries", description="Stored webhooks by what became of them: taken, ignored, failed, put_off"
)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known before the tickets are read: what their desks are compared with afterwards."""

    requests: Mapping[str, TicketRequest]
    tickets: Mapping[str, Ticket]
    desks: Mapping[str, Desk]


@dataclass(frozen=True, slots=True)
class _Read:
    """What came of reading a ticket: its state, or None where there is no need, or why it could not be read."""

    state: TicketState | None = None
    problem: ReclaimError | None = None


def _reference(delivery: Delivery) -> str:
    return domain.reference(delivery.case_id or "", delivery.kind)


class Handling:
    """The job that handles deliveries."""

    def __init__(self, database: Database, desks: Desks) -> None:
        self._database = database
        self._desks = desks
        self._lanes = Lanes(intake.HANDLE, self._due, self._handle_some)

    async def run(self) -> bool:
        """Handle some of what waits, each connection's beside the others'; return whether there was any."""
        return await self._lanes.run()

    async def close(self) -> None:
        """End what is under way."""
        await self._lanes.close()

    async def _due(self) -> set[str]:
        async with self._database.reading() as db:
            return await delivery_store.due_connections(db, wall_milliseconds())

    async def _handle_some(self, connection_id: str) -> None:
        now = wall_milliseconds()
        async with self._database.unit() as unit:
            claimed = await delivery_store.claim(unit.db, connection_id, now=now, until=now + LEASE, most=CLAIM)
            if not claimed:
                return
            known = _Known(
                await store.requests_of(unit.db, {one.case_id for one in claimed if one.case_id is not None}),
                await ticket_store.referred(unit.db, {_reference(one) for one in claimed}),
                {desk.id: desk for desk in await ticket_store.desks(unit.db)},
            )
        slots = asyncio.Semaphore(AT_ONCE)
        read = await asyncio.gather(*(self._read(one, known, slots) for one in claimed))
        pairs = list(zip(claimed, read, strict=True))
        try:
            await self._settle_ours(pairs, known)
        except Exception:
            # One that cannot be settled must not take the others back with it, now and each time they come around.
            log.exception("%d deliveries could not be settled together; they are settled one by one", len(pairs))
            for pair in pairs:
                await self._settle_alone(pair, known)

    async def _settle_ours(self, pairs: Sequence[tuple[Delivery, _Read]], known: _Known) -> None:
        async with self._database.unit() as unit:
            ours = await delivery_store.still_claimed(unit.db, [delivery for delivery, _ in pairs])
            await self._settle(unit, [pair for pair in pairs if pair[0].number in ours], known)

    async def _settle_alone(self, pair: tuple[Delivery, _Read], known: _Known) -> None:
        delivery, _ = pair
        try:
            await self._settle_ours([pair], known)
        except Exception as error:
            log.exception("delivery %d could not be settled", delivery.number)
            problem = Transient(f"It could not be settled ({type(error).__name__}); the log has more.")
            settled = (
                _put_off(delivery, problem)
                if delivery.attempts < MOST_ATTEMPTS
                else Settled(delivery.number, "failed", str(problem), delivery.says)
            )
            async with self._database.unit() as unit:
                if await delivery_store.still_claimed(unit.db, [delivery]):
                    await delivery_store.settle(unit.db, [settled], unit.now)

    async def _read(self, delivery: Delivery, known: _Known, slots: asyncio.Semaphore) -> _Read:
        since = _since(delivery, known)
        if since is None and delivery.kind == "task":
            return _Read(problem=verdicts.NoTask(delivery.case_id or ""))
        if since is None or _is_taken_at_its_word(delivery, known):
            return _Read()
        ticket = known.tickets.get(_reference(delivery))
        if ticket is not None and ticket.desk_id != delivery.connection_id:
            return _Read(problem=verdicts.OnAnotherDesk(delivery.case_id or "", ticket.desk_id))
        opened = self._desks.open(delivery.connection_id)
        if opened is None:
            return _Read(problem=verdicts.NotConnected(delivery.connection_id))
        try:
            async with slots, asyncio.timeout(PATIENCE), opened as desk:
                state = await desk.read(_reference(delivery), since=since)
        except TimeoutError:
            return _Read(problem=Transient(f"The service desk did not answer within {PATIENCE:g} s."))
        except ReclaimError as error:
            return _Read(problem=error)
        except Exception as error:
            # A defect in one adapter must not hold up the deliveries of others.
            log.exception("delivery %d: its ticket could not be read", delivery.number)
            return _Read(problem=Transient(f"Its ticket could not be read ({type(error).__name__}); the log has more."))
        return _Read(state) if state is not None else _Read(problem=verdicts.NoTicket(delivery.case_id or ""))

    async def _settle(self, unit: Unit, pairs: Sequence[tuple[Delivery, _Read]], known: _Known) -> None:
        cases = {delivery.case_id for delivery, _ in pairs if delivery.case_id is not None}
        # Read again: the case may have moved on while its ticket was read.
        requests = await store.requests_of(unit.db, cases)
        tickets = await ticket_store.referred(unit.db, {_reference(delivery) for delivery, _ in pairs}, lock=True)
        ended = await ticket_store.ending(unit.db, set(tickets))
        decided = await delivery_store.last_taken(unit.db, cases)
        failed = any(found.problem is not None for _, found in pairs)
        desks = {desk.id: desk.version for desk in await ticket_store.desks(unit.db)} if failed else {}
        now = wall_milliseconds()
        settled: list[Settled] = []
        steps: list[Step] = []
        heard: dict[str, tuple[str, int | None]] = {}
        words: list[tuple[str, str, domain.Act, str]] = []
        for delivery, found in pairs:
            case_id, reference = delivery.case_id or "", _reference(delivery)
            request, ticket = requests.get(case_id), tickets.get(reference)
            before, closed_since = heard.get(reference) or (
                (ticket.says, ticket.closed_since) if ticket else (None, None)
            )
            doing = ticket.doing if ticket else None
            # What we have begun ourselves is nobody's reopening.
            opened = found.state is not None and not found.state.closed and doing != "reopening"
            reopened = closed_since is not None and opened
            problem = found.problem or _too_soon(delivery, found, request, ticket, known)
            used = known.desks.get(delivery.connection_id)
            if found.problem is not None and (used.version if used else None) != desks.get(delivery.connection_id):
                problem = NotYet(f"The connection was changed meanwhile; the ticket is read again. {found.problem}")
            if reopened and problem is None and now - (closed_since or 0) < SETTLING:
                problem = NotYet("The ticket was closed a moment ago, and reads as open: it is read once more.")
            if isinstance(problem, Transient) and delivery.attempts < MOST_ATTEMPTS:
                settled.append(_put_off(delivery, problem))
                continue
            desk = known.desks.get(delivery.connection_id)
            rules = None if desk is None else rules_of(desk)
            downgrade = offers_downgrade(ticket)
            facts = Facts(
                delivery,
                request,
                found.state if problem is None else None,
                problem,
                before or (decided.get(case_id) if delivery.kind == "question" else None),
                decided.get(case_id),
                reopened,
                reference in ended,
                "" if rules is None else templates.answers(rules, downgrade=downgrade),
                _is_ours(ticket, found.state),
                downgrade,
            )
            verdict = verdicts.judge(facts)
            settled.append(Settled(delivery.number, verdict.state, verdict.outcome, verdict.says or delivery.says))
            _results.add(1, {"result": verdict.state})
            if ticket is not None and facts.ticket is not None and verdict.heard:
                since = (now if closed_since is None else closed_since) if facts.ticket.closed else None
                heard[reference] = (facts.ticket.says, since)
            elif ticket is not None and verdict.done is False:
                heard[reference] = ("undecided", now if closed_since is None else closed_since)  # it is gone
            if verdict.state == "taken" and delivery.kind == "question" and verdict.says is not None:
                decided[case_id] = verdict.says
            if verdict.state == "taken":
                steps.append(_say(unit, delivery, verdict))
            if verdict.undecided is not None:
                remedy = domain.have_it_answered(facts.how)
                unit.emit(
                    TicketUndecided(case_id=case_id, reason=verdict.undecided, remedy=remedy, noticed_at=unit.now)
                )
            if verdict.word is not None and ticket is not None:
                # A delivery may be replayed, and its ticket have been reopened once more.
                words.append((f"webhook:{delivery.number}:{now}", reference, "comment", verdict.word))
        await delivery_store.settle(unit.db, settled, unit.now)
        await store.add_steps(unit.db, steps)
        for reference, (says, since) in heard.items():
            await ticket_store.heard(unit.db, reference, says, since)
        if words:
            await ticket_store.add_words(unit.db, words, now)
            unit.wake(TELL)


def _is_ours(ticket: Ticket | None, state: TicketState | None) -> bool:
    """Tell whether a ticket says what it says because we were closing it, which nobody has learned the outcome of."""
    if ticket is None or state is None:
        return False
    return ticket.doing == "closing" and state.closed and state.says == ticket.leaves


def _since(delivery: Delivery, known: _Known) -> datetime | None:
    """Return what the delivery's ticket is no older than; None if there is none that could be read."""
    match delivery.kind:
        case "trial":
            return delivery.received_at - OLDEST_TRIAL
        case "task":
            ticket = known.tickets.get(_reference(delivery))
            return ticket.flagged_at if ticket else None
        case "question":
            request = known.requests.get(delivery.case_id or "")
            return request.flagged_at if request else None


def _is_taken_at_its_word(delivery: Delivery, known: _Known) -> bool:
    """Tell whether nobody can be asked what is behind a webhook: its sender has no desk here, and decides by it.

    A case that has a ticket is answered on that, wherever its desk went.
    """
    return (
        delivery.platform == "generic"
        and delivery.kind == "question"
        and delivery.connection_id not in known.desks
        and _reference(delivery) not in known.tickets
    )


def _too_soon(
    delivery: Delivery, found: _Read, request: TicketRequest | None, ticket: Ticket | None, known: _Known
) -> NotYet | None:
    """Return that a ticket has to be read (again), because what it is compared with came or changed meanwhile."""
    if found.state is None:
        came = request is not None and delivery.kind == "question" and not _is_taken_at_its_word(delivery, known)
        return NotYet("The case has only just come; its ticket is read next.") if came else None
    before = known.tickets.get(_reference(delivery))
    if ticket is None or (before is not None and _standing(before) == _standing(ticket)):
        return None
    return NotYet("The ticket changed here while it was read; it is read once more.")


def _standing(ticket: Ticket) -> tuple[str | None, int | None]:
    return ticket.says, ticket.closed_since


def _say(unit: Unit, delivery: Delivery, verdict: Verdict) -> Step:
    assert delivery.case_id is not None
    said: Event
    if verdict.done is not None:
        said = FulfilmentReported(
            case_id=delivery.case_id,
            done=verdict.done,
            channel="itsm",
            actor=verdict.actor,
            note=verdict.reason,
            reported_at=delivery.received_at,
        )
        text = f"{verdict.actor} {'carried the task out' if verdict.done else 'gave the task up'}: {verdict.reason}"
    else:
        assert verdict.says is not None
        said = DecisionReceived(
            case_id=delivery.case_id,
            decision=verdict.says,
            channel="itsm",
            actor=verdict.actor,
            reason=verdict.reason,
            decided_at=verdict.at or delivery.received_at,
        )
        text = f"{verdict.actor} decided: {verdict.says}. {verdict.reason}".strip()
    unit.emit(said)
    # A replayed delivery may decide after it failed, but never twice: this is the key.
    return Step(f"webhook:{delivery.number}", delivery.case_id, unit.now, text, state=None)


def _put_off(delivery: Delivery, problem: ReclaimError) -> Settled:
    asked = problem.retry_after if isinstance(problem, Passing) else None
    seconds = max(backoff(delivery.attempts, first=FIRST_RETRY, most=LAST_RETRY), asked or 0.0)
    _results.add(1, {"result": "put_off"})
    return Settled(
        delivery.number, "waiting", str(problem), delivery.says, due=wall_milliseconds() + int(seconds * 1000)
    )


# ------------------------------------------------------------------------------------------------ for a person


async def replay(database: Database, number: int, by: str) -> Delivery:
    """Let a delivery be handled anew: one that failed, or was ignored.

    Raises:
        NotFound: there is none of that number.
        Conflict: it waits, or it has decided.
        Invalid: its body still cannot be read.
    """
    async with database.unit() as unit:
        found = await _locked(unit, number)
        if found.state not in {"failed", "ignored"}:
            raise Conflict(f"This webhook is {found.state}: only one that failed or was ignored can be replayed.")
        hint = None
        body = await delivery_store.body(unit.db, number)
        if body is not None:
            hint = hints.read(found.platform, body)
            if hint is None or hint.trial:
                raise Invalid("This webhook is about no case: there is nothing to replay.")
        await delivery_store.wait_again(unit.db, number, hint, by)
        unit.wake(intake.HANDLE)
        return await _locked(unit, number)


async def set_aside(database: Database, number: int, by: str) -> Delivery:
    """Take a failed delivery off the list of what needs a person.

    Raises:
        NotFound: there is none of that number.
        Conflict: it did not fail.
    """
    async with database.unit() as unit:
        found = await _locked(unit, number)
        if found.state != "failed":
            raise Conflict(f"This webhook is {found.state}: only one that failed can be set aside.")
        await delivery_store.set_aside(unit.db, number, f"Set aside by {by}. Before: {found.outcome}", unit.now)
        return await _locked(unit, number)


async def _locked(unit: Unit, number: int) -> Delivery:
    found = await delivery_store.delivery(unit.db, number, lock=True)
    if found is None:
        raise NotFound("No such webhook. The list has those of the last 90 days.")
    return found


async def forget(database: Database) -> bool:
    """Drop old deliveries that need nobody; return False, since there is never more to do at once."""
    async with database.unit() as unit:
        await delivery_store.forget_deliveries(unit.db, unit.now - KEPT_FOR)
    return False
