"""Tickets of cases: opened once, told every later stage in order, and read now and then in case a webhook was lost.

Each is claimed with a lease and worked on with no transaction open. The claim is committed before the desk is called,
so that whoever takes over knows that the ticket may be there already, and looks for it the thorough way. Each desk has
a lane of its own for each of the three kinds of work.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec

from reclaim.common.contracts import (
    CheckFinding,
    FulfilmentReported,
    FulfilmentRequested,
    NoticeDelivered,
    NoticeFailed,
    Seat,
    UserFlagged,
)
from reclaim.common.db import Database, Unit, is_outage
from reclaim.common.envelope import Received
from reclaim.common.errors import Permanent, ReclaimError, Transient
from reclaim.common.timing import backoff, wall_milliseconds
from reclaim.connectors.itsm.ports import (
    NotThere,
    Passing,
    ReadDecision,
    ServiceDesk,
    SignInRefused,
    TicketRef,
    UnknownOutcome,
)
from reclaim.itsm_gateway import delivery_store, domain, store, ticket_store
from reclaim.itsm_gateway.deliveries import SETTLING
from reclaim.itsm_gateway.delivery_store import Arrival
from reclaim.itsm_gateway.desks import DOWNGRADE_TO, Desks, draft, place_of, ref_of
from reclaim.itsm_gateway.hints import Hint, Platform
from reclaim.itsm_gateway.intake import HANDLE
from reclaim.itsm_gateway.lanes import Lanes
from reclaim.itsm_gateway.ticket_store import Ticket, Word
from reclaim.itsm_gateway.verdicts import NotConnected

log = logging.getLogger(__name__)

OPEN: Final = "open_tickets"
TELL: Final = "tell_tickets"
POLL: Final = "poll_tickets"
CLAIM: Final = 16
AT_ONCE: Final = 8
"""Tickets, or words, of a desk that are claimed at a time, and those of them that are worked on at a time."""
PATIENCE: Final = 120.0
LAST_LOOK: Final = 10.0
LEASE: Final = 300_000
"""A desk is given up after `PATIENCE` seconds, and after `LAST_LOOK` more when it refused something. A claim holds for
`LEASE` milliseconds: longer than it takes to give up everything that was claimed with it, round by round.
"""
FIRST_RETRY: Final = 5.0
LAST_RETRY: Final = 900.0
LOOKS: Final = 4
BETWEEN_LOOKS: Final = 180.0
"""Attempts after which a ticket that is not found was not opened, and seconds between them: a search may lag."""
POLL_EVERY: Final = 300_000
"""Milliseconds between two readings of an open ticket whose webhook may have been lost."""
DECIDED: Final = frozenset({"keep", "revoke", "downgrade", "done", "undecided"})

T = TypeVar("T", Ticket, tuple[Word, Ticket])


async def want(unit: Unit, flagged: Sequence[UserFlagged], public_url: str) -> list[UserFlagged]:
    """Ask for the tickets of new cases, at the desk that the rule names or else the one that asks.

    Returns those for which there is no such desk.
    """
    if not flagged:
        return []
    by_desk: dict[str | None, str | None] = {desk.id: desk.id for desk in await ticket_store.desks(unit.db)}
    by_desk[None] = await ticket_store.asking(unit.db)
    asked = [(event, desk_id) for event in flagged if (desk_id := by_desk.get(event.policy.desk)) is not None]
    rows = [
        {
            "reference": domain.reference(event.case_id, "question"),
            "case_id": event.case_id,
            "kind": "question",
            "desk_id": desk_id,
            "values": msgspec.json.encode(values_of(event, public_url)).decode(),
            "requester_email": event.approver.email if event.approver else None,
            "dry_run": event.policy.dry_run,
            "flagged_at": event.flagged_at,
        }
        for event, desk_id in asked
    ]
    await ticket_store.want(unit.db, rows, wall_milliseconds())
    for event, _desk in asked:
        await ticket_store.set_failure(unit.db, event.case_id, None)
    if asked:
        unit.wake(OPEN)
    return [event for event in flagged if by_desk.get(event.policy.desk) is None]


def values_of(event: UserFlagged, public_url: str) -> dict[str, str]:
    """Return what a case puts in for the placeholders of a template."""
    policy = event.policy
    days = policy.decision_days
    return _of_seat(event.seat, event.case_id, policy.rule_name, public_url) | {
        "reason": policy.unused_for if policy.usage else f"not used for {policy.inactive_days} days",
        "last_used": f"{event.last_used_at.astimezone(UTC):%d %B %Y}" if event.last_used_at else "never",
        "flagged_on": f"{event.flagged_at.astimezone(UTC):%d %B %Y}",
        "decide_by": f"{days} day{'' if days == 1 else 's'} after this ticket was opened",
        "warnings": "\n".join(f"- {each}" for each in warnings(event.findings)),
        DOWNGRADE_TO: policy.downgrade_to.product_name if policy.downgrade_to else "",
    }


def warnings(findings: Sequence[CheckFinding]) -> list[str]:
    """Return what the safety checks found that whoever answers should know."""
    return [
        f"{finding.check.replace('_', ' ').capitalize()}: {finding.evidence}"
        for finding in findings
        if finding.outcome in {"warn", "unknown"}
    ]


def _of_seat(seat: Seat, case_id: str, rule_name: str, public_url: str) -> dict[str, str]:
    return {
        "case_id": case_id,
        "holder_name": seat.holder.name,
        "holder_email": seat.holder.email or "",
        "department": seat.department or "",
        "product_name": seat.product_name,
        "rule_name": rule_name,
        "annual_cost": f"{seat.price.amount * 12:.2f} {seat.price.currency}" if seat.price else "",
        "case_url": f"{public_url.rstrip('/')}/lifecycle/cases/{case_id}",
    }


async def want_tasks(
    unit: Unit, asked: Sequence[FulfilmentRequested], through_the_desk: set[str], public_url: str
) -> None:
    """Ask for the tickets of tasks. One that is there is told anew (`tell`); one that failed is tried again.

    A task goes where its case's question is, or else to the desk that the rule names, or else to the one that asks.
    Where a desk was to have it and there is none, the case is one for a person at once. `through_the_desk` are the
    cases that are asked on a desk; a task of any other is in the lifecycle's list, with or without one.
    """
    cases = {event.case_id for event in asked}
    known = await ticket_store.of_cases(unit.db, cases, "task")
    for ticket in known.values():
        if ticket.state == "failed":
            await ticket_store.retry(unit.db, ticket.case_id, wall_milliseconds(), ("task",))
    questions = await ticket_store.of_cases(unit.db, cases)
    named = await store.named_desks(unit.db, cases)
    asking = await ticket_store.asking(unit.db)
    connected = {desk.id for desk in await ticket_store.desks(unit.db)}
    rows = []
    for event in asked:
        # A dry run asks nobody to do anything.
        if event.case_id in known or event.dry_run:
            continue
        question = questions.get(event.case_id)
        own = question.desk_id if question is not None else named.get(event.case_id)
        desk_id = own or asking
        if desk_id is not None and desk_id in connected:
            rows.append(_task_row(event, desk_id, public_url))
        elif own is not None or event.case_id in through_the_desk:
            reason = domain.NO_DESK if own is None else domain.no_such_desk(own)
            unit.emit(_nobody_has_it(event.case_id, reason, unit.now))
    await ticket_store.want(unit.db, rows, wall_milliseconds())
    unit.wake(OPEN)


def _task_row(event: FulfilmentRequested, desk_id: str, public_url: str) -> dict[str, Any]:
    values = _of_seat(event.seat, event.case_id, event.rule_name, public_url) | {"task": event.instructions}
    return {
        "reference": domain.reference(event.case_id, "task"),
        "case_id": event.case_id,
        "kind": "task",
        "desk_id": desk_id,
        "values": msgspec.json.encode(values).decode(),
        "requester_email": None,
        "dry_run": False,
        "flagged_at": event.requested_at,
    }


def _nobody_has_it(case_id: str, reason: str, now: datetime) -> FulfilmentReported:
    """Return the word that nobody was given a task: its case is one for a person, until it is asked for anew."""
    return FulfilmentReported(
        case_id=case_id,
        done=False,
        channel="itsm",
        actor="the service desk",
        note=f"no ticket could be opened: {reason}",
        reported_at=now,
    )


async def tell(unit: Unit, told: Sequence[Received[domain.Progress]]) -> None:
    """Have tickets told of a later stage of their cases; the end of a case closes its tickets."""
    cases = {received.data.case_id for received in told}
    words: list[tuple[str, str, domain.Act, str]] = []
    for place, (kind, mark) in enumerate((("question", ""), ("task", ":task"))):
        tickets = await ticket_store.of_cases(unit.db, cases, cast("domain.Kind", kind))
        words += [
            (f"{received.id}{mark}", tickets[event.case_id].reference, domain.acts(event)[place], text)
            for received in told
            for event in [received.data]
            if event.case_id in tickets
            for text in [domain.step(received.id, event).text]
        ]
    if words:
        await ticket_store.add_words(unit.db, words, wall_milliseconds())
        unit.wake(TELL)


class Ticketing:
    """The jobs that open, tell and read tickets."""

    def __init__(self, database: Database, desks: Desks) -> None:
        self._database = database
        self._desks = desks
        self._opening = Lanes(OPEN, partial(self._due, "wanted"), self._open_some)
        self._telling = Lanes(TELL, self._to_tell, self._tell_some)
        self._polling = Lanes(POLL, partial(self._due, "open"), self._poll_some)

    async def open_tickets(self) -> bool:
        """Open some of the tickets that are wanted; return whether there were any."""
        return await self._opening.run()

    async def tell_tickets(self) -> bool:
        """Tell some tickets what they wait to hear; return whether there were any."""
        return await self._telling.run()

    async def poll_tickets(self) -> bool:
        """Read some open tickets, and have what they say anew handled as a webhook's; return whether there were any."""
        return await self._polling.run()

    async def close(self) -> None:
        """End what is under way."""
        for lanes in (self._opening, self._telling, self._polling):
            await lanes.close()

    async def _due(self, state: ticket_store.TicketState) -> set[str]:
        async with self._database.reading() as db:
            return await ticket_store.due_desks(db, state, wall_milliseconds())

    async def _to_tell(self) -> set[str]:
        async with self._database.reading() as db:
            return await ticket_store.desks_to_tell(db, wall_milliseconds())

    async def _open_some(self, desk_id: str) -> None:
        until = wall_milliseconds() + LEASE
        await self._each(*await self._claim("wanted", desk_id, until), self._open, until)

    async def _tell_some(self, desk_id: str) -> None:
        now = wall_milliseconds()
        async with self._database.unit() as unit:
            version = await ticket_store.version(unit.db, desk_id)
            claimed = await ticket_store.claim_words(unit.db, desk_id, now=now, until=now + LEASE, most=CLAIM)
        await self._each(version, claimed, self._tell, now + LEASE)

    async def _poll_some(self, desk_id: str) -> None:
        until = wall_milliseconds() + LEASE
        await self._each(*await self._claim("open", desk_id, until), self._poll, until)

    async def _claim(
        self, state: ticket_store.TicketState, desk_id: str, until: int
    ) -> tuple[int | None, list[Ticket]]:
        """Claim tickets; return them behind the version of the desk that they are worked on with, or a later one."""
        async with self._database.unit() as unit:
            version = await ticket_store.version(unit.db, desk_id)
            claimed = await ticket_store.claim(unit.db, state, desk_id, now=until - LEASE, until=until, most=CLAIM)
            return version, claimed

    async def _each(
        self, version: int | None, claimed: Sequence[T], work: Callable[[T, int | None], Awaitable[None]], until: int
    ) -> None:
        """Work on what was claimed `until` an instant of the wall clock, in milliseconds, some of it at a time.

        Raises:
            Whatever a work did, once all have ended: what was not settled is taken over when its claim is over.
        """
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(item: T) -> None:
            async with slots:
                # Whoever was stopped for long may find it claimed by another, and would do the same once more.
                if wall_milliseconds() < until:
                    await work(item, version)

        ended = await asyncio.gather(*(one(item) for item in claimed), return_exceptions=True)
        for problem in ended:
            if problem is not None:
                raise problem

    @staticmethod
    async def _mended(unit: Unit, desk_id: str, version: int | None) -> bool:
        """Tell whether a desk was stored anew since its work was claimed: what it refused may have been mended."""
        return await ticket_store.version(unit.db, desk_id) != version

    # Opening ------------------------------------------------------------------------------------------------------

    async def _open(self, ticket: Ticket, version: int | None) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                created = await self._created(ticket)
        except (Transient, TimeoutError) as error:
            await self._put_off(ticket, error)
        except Permanent as error:
            await self._give_up(ticket, version, str(error))
        except Exception as error:
            if is_outage(error):
                raise
            # A defect in one adapter must not hold up the tickets of others.
            log.exception("the ticket of case %s could not be opened", ticket.case_id)
            await self._give_up(ticket, version, f"It failed unexpectedly ({type(error).__name__}); the log has more.")
        else:
            await (self._opened(ticket, *created) if created is not None else self._not_needed(ticket))

    async def _created(self, ticket: Ticket) -> tuple[TicketRef, str] | None:
        """Open a ticket, and say where; None if its case has ended before there was one."""
        async with self._database.reading() as db:
            stored = await ticket_store.desk(db, ticket.desk_id)
            over = await store.has_ended(db, ticket.case_id)
        if over and ticket.attempts == 1:
            return None
        desk = await self._desks.connected(ticket.desk_id)
        if stored is None:
            raise NotConnected(ticket.desk_id)
        if over:
            # One that was opened although no answer said so is told the end like any other.
            found = await desk.find_by_case(ticket.reference, since=ticket.flagged_at)
            if found is None and ticket.attempts < LOOKS:
                said = "Its case has ended. It may have been opened before, and is looked for once more."
                raise UnknownOutcome(said, look_after=BETWEEN_LOOKS)
            return None if found is None else (found, place_of(stored))
        # An attempt before this one may have opened it, whatever became of its answer.
        return await desk.create(draft(stored, ticket), tried=ticket.attempts > 1), place_of(stored)

    async def _opened(self, ticket: Ticket, ref: TicketRef, place: str) -> None:
        async with self._database.unit() as unit:
            kept = await ticket_store.settle(
                unit.db,
                ticket,
                state="open",
                key=ref.key,
                number=ref.number,
                url=ref.url,
                place=place,
                failure=None,
                attempts=0,
                due=wall_milliseconds() + POLL_EVERY,
            )
            if not kept:
                return
            unit.wake(TELL)
            if ticket.kind != "question":
                return
            await ticket_store.set_failure(unit.db, ticket.case_id, None)
            if await store.has_ended(unit.db, ticket.case_id):
                return
            unit.emit(
                NoticeDelivered(
                    case_id=ticket.case_id, channel="itsm", recipient=f"ticket {ref.number}", delivered_at=unit.now
                )
            )

    async def _not_needed(self, ticket: Ticket) -> None:
        async with self._database.unit() as unit:
            if await ticket_store.settle(unit.db, ticket, state="closed", failure=None):
                await ticket_store.drop_words(unit.db, ticket.reference)

    async def _put_off(self, ticket: Ticket, error: Exception) -> None:
        async with self._database.unit() as unit:
            await ticket_store.settle(unit.db, ticket, failure=_reason(error), due=_later(ticket.attempts, error))

    async def _give_up(self, ticket: Ticket, version: int | None, reason: str) -> None:
        async with self._database.unit() as unit:
            if await self._mended(unit, ticket.desk_id, version):
                await ticket_store.settle(unit.db, ticket, failure=reason, due=wall_milliseconds())
                unit.wake(OPEN)
                return
            if not await ticket_store.settle(unit.db, ticket, state="failed", failure=reason):
                return
            if await store.has_ended(unit.db, ticket.case_id):
                return
            if ticket.kind == "task":
                unit.emit(_nobody_has_it(ticket.case_id, reason, unit.now))
                return
            await ticket_store.set_failure(unit.db, ticket.case_id, reason)
            unit.emit(
                NoticeFailed(
                    case_id=ticket.case_id,
                    channel="itsm",
                    reason=reason,
                    remedy=(
                        "Mend the connection to the service desk and have the ticket opened again, or decide this case "
                        "on its page in the console."
                    ),
                    failed_at=unit.now,
                )
            )

    # Telling ------------------------------------------------------------------------------------------------------

    async def _tell(self, claimed: tuple[Word, Ticket], version: int | None) -> None:
        word, ticket = claimed
        failure: str | None = None
        reopened: ReadDecision | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                reopened = await self._say(await self._desks.of_ticket(ticket), word, ticket)
        except (Transient, TimeoutError, SignInRefused) as error:
            # Whoever mends the credentials would not know what was left unsaid.
            async with self._database.unit() as unit:
                mended = await self._mended(unit, ticket.desk_id, version)
                due = wall_milliseconds() if mended else _later(word.attempts, error)
                await ticket_store.settle_word(unit.db, word, failure=_reason(error), due=due)
            return
        except Permanent as error:
            failure = str(error)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("the ticket of case %s could not be told", ticket.case_id)
            failure = f"It failed unexpectedly ({type(error).__name__}); the log has more."
        in_vain = failure is not None and await self._in_vain(word, ticket)
        async with self._database.unit() as unit:
            if reopened is not None:
                if await ticket_store.settle_word(unit.db, word, due=wall_milliseconds() + SETTLING):
                    await self._hand_in(unit, ticket, reopened)
                return
            if failure is not None and await self._mended(unit, ticket.desk_id, version):
                await ticket_store.settle_word(unit.db, word, failure=failure, due=wall_milliseconds())
                unit.wake(TELL)
                return
            state = "told" if failure is None else "failed"
            if await ticket_store.settle_word(unit.db, word, state=state, failure=failure):
                if failure is None:
                    await ticket_store.acted(unit.db, word.reference, word.act, wall_milliseconds())
                elif word.act in {"end", "end_quietly"}:
                    await ticket_store.given_up(unit.db, word.reference)
                if in_vain:
                    await ticket_store.not_done(unit.db, word.reference)
                unit.wake(TELL)

    async def _say(self, desk: ServiceDesk, word: Word, ticket: Ticket) -> ReadDecision | None:
        """Tell a ticket a word; one whose answer was lost before is looked for first.

        What closes or reopens a ticket is recorded right before it is asked for, so that whoever reads the ticket next
        knows whose doing it is, also if nobody is left who could say that it was done. A ticket that its people have
        reopened since it was closed, also by an attempt before this one whose answer was lost, is not closed again
        before that was judged: then nothing is told, and what was read is returned.
        """
        ref = ref_of(ticket)
        assert ref is not None
        mark = f"lr-note-{hashlib.sha256(word.event_id.encode()).hexdigest()[:10]}"
        tried = word.attempts > 1
        if word.act == "comment":
            await desk.comment(ref, word.text, mark=mark, tried=tried)
            return None
        before = await desk.read_decision(ref)
        if word.act == "reopen":
            if before.closed:
                await self._begin(ticket, "reopening")
                await desk.reopen(ref, word.text, mark=mark, tried=tried)
            else:
                # By its people; or by an attempt before this one, which came no further.
                await desk.comment(ref, word.text, mark=mark, tried=tried)
            return None
        if not before.closed:
            reopened = ticket.closed_since is not None
            if ticket.doing == "closing" and tried and await desk.was_closed(ref, mark=mark):
                reopened = True
                async with self._database.unit() as unit:
                    await ticket_store.closing_took(unit.db, word, wall_milliseconds())
            if reopened and _counts(before, ticket):
                return before
            # What it says by being closed, its people have not said. An answer from before is still to be heard.
            await self._begin(ticket, "closing", leaves=before.pending)
            await desk.close(ref, word.text, mark=mark, tried=tried)
        elif word.act != "end_quietly" or tried:
            # One that its people closed is told as well; and one that was closed here, and perhaps not told.
            await desk.comment(ref, word.text, mark=mark, tried=tried)
        return None

    async def _in_vain(self, word: Word, ticket: Ticket) -> bool:
        """Tell whether what failed left the ticket as it was: a desk may have closed it and refused the words."""
        ref = ref_of(ticket)
        if ref is None or word.act == "comment":
            return False
        try:
            async with asyncio.timeout(LAST_LOOK):
                said = await (await self._desks.of_ticket(ticket)).read_decision(ref)
        except (ReclaimError, TimeoutError):
            return False
        return said.closed is (word.act == "reopen")

    async def _begin(self, ticket: Ticket, doing: ticket_store.Doing, *, leaves: str | None = None) -> None:
        async with self._database.unit() as unit:
            await ticket_store.begin(unit.db, ticket.reference, doing, leaves)

    # Reading ------------------------------------------------------------------------------------------------------

    async def _poll(self, ticket: Ticket, version: int | None) -> None:
        ref = ref_of(ticket)
        assert ref is not None
        try:
            async with asyncio.timeout(PATIENCE):
                said = await (await self._desks.of_ticket(ticket)).read_decision(ref)
        except NotThere as error:
            await self._gone(ticket, str(error))
            return
        except (Transient, TimeoutError) as error:
            await self._put_off(ticket, error)
            return
        except Permanent as error:
            async with self._database.unit() as unit:
                mended = await self._mended(unit, ticket.desk_id, version)
                due = wall_milliseconds() + (0 if mended else int(LAST_RETRY * 1000))
                await ticket_store.settle(unit.db, ticket, failure=str(error), due=due)
            return
        except Exception as error:
            if is_outage(error):
                raise
            # An answer that nobody foresaw must not keep other tickets from being read.
            log.exception("the ticket of case %s could not be read", ticket.case_id)
            await self._put_off(ticket, Transient(f"It could not be read ({type(error).__name__}); the log has more."))
            return
        async with self._database.unit() as unit:
            kept = await ticket_store.settle(
                unit.db, ticket, failure=None, attempts=0, due=wall_milliseconds() + POLL_EVERY
            )
            news = said.reading in DECIDED and said.reading != ticket.says
            if kept and _counts(said, ticket) and (news or said.closed is not (ticket.closed_since is not None)):
                await self._hand_in(unit, ticket, said)

    async def _gone(self, ticket: Ticket, reason: str) -> None:
        """Have a person look, once, at a ticket that its desk no longer has."""
        async with self._database.unit() as unit:
            due = wall_milliseconds() + int(LAST_RETRY * 1000)
            kept = await ticket_store.settle(unit.db, ticket, failure=reason, attempts=0, due=due)
            # What it said stays as it was until somebody has judged it.
            if kept and ticket.failure != reason:
                await self._hand_in(unit, ticket, ReadDecision("undecided", closed=True, reason=reason))

    async def _hand_in(self, unit: Unit, ticket: Ticket, said: ReadDecision) -> None:
        """Enter what was read among the webhooks: one judge for both, and it reads the ticket itself."""
        stored = await ticket_store.desk(unit.db, ticket.desk_id)
        if stored is None or await delivery_store.waits(unit.db, ticket.case_id, ticket.kind):
            return
        says = said.reading if said.reading in {"keep", "revoke", "downgrade"} else None
        found = f"{ticket.reference}:{said.reading}:{wall_milliseconds()}"
        hint = Hint(ticket.reference, ticket.number, says, said.actor or "", said.reason or "Read from the ticket.")
        arrival = Arrival(
            connection_id=ticket.desk_id,
            platform=cast("Platform", stored.platform),
            webhook_id=f"poll:{found}",
            secret_id=None,
            once=(),
            body_hash=hashlib.sha256(found.encode()).hexdigest(),
            hint=hint,
        )
        await delivery_store.add_deliveries(unit.db, [arrival], unit.now)
        unit.wake(HANDLE)


def _counts(said: ReadDecision, ticket: Ticket) -> bool:
    """Tell whether what was read may decide: one that people mark as a test is not heard until they take that back."""
    return ticket.dry_run or not said.test


def _later(attempts: int, error: Exception) -> int:
    """Return when to try again, by the wall clock: not before the desk asked for, nor before it can be looked for."""
    asked = error.retry_after if isinstance(error, Passing) else None
    if isinstance(error, UnknownOutcome):
        asked = error.look_after
    seconds = max(backoff(attempts, first=FIRST_RETRY, most=LAST_RETRY), asked or 0.0)
    return wall_milliseconds() + int(seconds * 1000)


def _reason(error: Exception) -> str:
    return str(error) or f"The service desk did not answer within {PATIENCE:g} s."
