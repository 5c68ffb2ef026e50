"""The service desk of a simulation: people answer on its tickets, and it has the troubles that desks have.

What stands on the desk outlives the processes that write there. People's webhooks get lost, come twice, late and out of
order, and say what is not so; what counts is what the tickets say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import TypeVar

import msgspec

from reclaim.common.clock import Clock
from reclaim.common.security import Sealer
from reclaim.connectors.itsm import templates
from reclaim.connectors.itsm.decisions import DecisionRules, read
from reclaim.connectors.itsm.fake import FakeDesk, FakeTicket, Trouble
from reclaim.connectors.itsm.ports import (
    FieldSpec,
    Passing,
    PermissionResult,
    ReadDecision,
    Reading,
    SignInRefused,
    TicketDraft,
    TicketRef,
)
from reclaim.itsm_gateway.ticket_store import Desk
from reclaim.itsm_gateway.ticketing import PATIENCE

DESK, PLATFORM = "desk", "freshservice"
SETTINGS = {"base_url": "https://sim.freshservice.com", "requester_email": "reclaim@example.com"}
TAGS = {"keep": "lr_keep", "revoke": "lr_revoke", "downgrade": "lr_downgrade", "done": "lr_done"}

T = TypeVar("T")


@dataclass(frozen=True)
class Hook:
    """A webhook on its way: of which ticket it tells, and what it claims that one says."""

    reference: str
    number: str
    claims: str | None


class Site:
    """One desk with its tickets. `opened` is told of each new ticket by what it is known by."""

    def __init__(
        self,
        clock: Clock,
        chance: Random,
        likely: float,
        happened: Callable[[str], None],
        opened: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        self.fake = FakeDesk(clock, trouble=self._write)
        self.calm = False
        self.revoked = False
        """Whether the credentials that we have are good for nothing."""
        self.hooks: list[Hook] = []
        self.reopened: set[str] = set()
        """Tickets that people were the last to open or close, by opening them."""
        self.appeals: dict[str, datetime] = {}
        """When people reopened the tickets of frozen seats, of which they have said nothing since."""
        self._clock, self._chance, self._likely = clock, chance, likely
        self._happened, self._opened, self.log = happened, opened, log
        self._known: set[str] = set()

    def tickets(self) -> list[FakeTicket]:
        """Return every ticket that is there, in the order of their numbers."""
        return [self.fake.tickets[key] for key in sorted(self.fake.tickets, key=int)]

    def enter(self) -> datetime:
        """Fail a call before it does anything, or return when it came."""
        if self.revoked:
            raise SignInRefused("simulated: 401", "Enter new credentials.")
        if self._strikes(0.5):
            asked = self._chance.choice((None, 90.0))
            self._happened("desk: 503" if asked is None else "desk: 429 with Retry-After")
            raise Passing("simulated: the desk is busy", retry_after=asked)
        return self._clock.now()

    def note_opened(self) -> None:
        """Tell of tickets that have come into being since."""
        for ticket in self.tickets():
            if ticket.case_id not in self._known:
                self._known.add(ticket.case_id)
                self._opened(ticket.case_id)

    def _write(self, _operation: str) -> Trouble:
        if not self._strikes():
            return "none"
        trouble: Trouble = self._chance.choice(("before", "after", "after"))
        self._happened("desk: not done, and no answer" if trouble == "before" else "desk: done, and the answer lost")
        return trouble

    def _strikes(self, part: float = 1.0) -> bool:
        return not self.calm and self._likely > 0 and self._chance.random() < self._likely * part

    # People.

    def reading(self, ticket: FakeTicket) -> Reading:
        """Return what a ticket says."""
        return read(self.fake.decisions, closed=ticket.closed, tags=ticket.tags).reading

    def tag(self, ticket: FakeTicket, answer: str) -> None:
        """Let somebody answer by a tag, beside what is there."""
        if TAGS[answer] not in ticket.tags:
            ticket.tags.append(TAGS[answer])
            self._touch(ticket)

    def untag(self, ticket: FakeTicket) -> None:
        """Let somebody take every answer back."""
        ticket.tags = [tag for tag in ticket.tags if tag not in TAGS.values()]
        self._touch(ticket)

    def close(self, ticket: FakeTicket) -> None:
        """Let somebody close a ticket."""
        ticket.closed = True
        self.reopened.discard(ticket.case_id)
        self._touch(ticket)

    def reopen(self, ticket: FakeTicket) -> None:
        """Let somebody open a closed ticket again."""
        ticket.closed = False
        self.reopened.add(ticket.case_id)
        self._touch(ticket)

    def delete(self, ticket: FakeTicket) -> None:
        """Let somebody delete a ticket."""
        del self.fake.tickets[str(ticket.number)]

    def _touch(self, ticket: FakeTicket) -> None:
        self.appeals.pop(ticket.case_id, None)
        ticket.changed_by, ticket.changed_at = "Pat", self._clock.now()
        self._send(ticket)

    def _send(self, ticket: FakeTicket) -> None:
        """Send a webhook of what was changed: mostly one, of which nobody knows when it comes."""
        times = self._chance.choices((0, 1, 2), (0.4, 0.45, 0.15))[0]
        if times != 1:
            self._happened("webhook: lost" if times == 0 else "webhook: twice")
        claims = self._chance.choice(("keep", "revoke", None, None))
        self.hooks += [Hook(ticket.case_id, f"T-{ticket.number}", claims)] * times


class SimDesk:
    """The `ServiceDesk` of one process: its way to the desk, on which it may be stopped or killed."""

    def __init__(self, site: Site, gate: Callable[[str], Awaitable[None]], now: Callable[[], datetime]) -> None:
        self._site, self._fake, self._gate, self._now = site, site.fake, gate, now

    async def test_connection(self) -> Sequence[PermissionResult]:
        return await self._fake.test_connection()

    async def discover_fields(self) -> Sequence[FieldSpec]:
        return await self._fake.discover_fields()

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:
        return await self._call(f"find a ticket of {case_id}", lambda: self._fake.find_by_case(case_id, since=since))

    async def create(self, draft: TicketDraft, *, tried: bool = False) -> TicketRef:
        return await self._call(f"create a ticket for {draft.case_id}", lambda: self._fake.create(draft, tried=tried))

    async def comment(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        await self._call(f"comment: {ref.number}", lambda: self._fake.comment(ref, text, mark=mark, tried=tried))

    async def close(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        await self._call(f"close a ticket: {ref.number}", lambda: self._fake.close(ref, text, mark=mark, tried=tried))

    async def was_closed(self, ref: TicketRef, *, mark: str) -> bool:
        return await self._call(f"look for a closing: {ref.number}", lambda: self._fake.was_closed(ref, mark=mark))

    async def reopen(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        await self._call(f"reopen a ticket: {ref.number}", lambda: self._fake.reopen(ref, text, mark=mark, tried=tried))

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        return await self._call(f"read a ticket: {ref.number}", lambda: self._fake.read_decision(ref))

    async def _call(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        await self._pass(f"before: {what}")
        self._site.enter()
        try:
            result = await call()
        finally:
            self._site.log(f"  desk: {what}")
            self._site.note_opened()
        await self._pass(f"after: {what}")
        return result

    async def _pass(self, where: str) -> None:
        began = self._now()
        await self._gate(where)
        if (self._now() - began).total_seconds() > PATIENCE:
            # No time passes for the loop of a history: whoever hung is given up as it would be.
            raise TimeoutError


def stored(sealer: Sealer, at: datetime) -> Desk:
    """Return the desk as an operator has connected it."""
    return Desk(
        id=DESK,
        platform=PLATFORM,
        settings=_json(SETTINGS),
        credentials=sealer.seal({"api_key": "simulated"}),
        decisions=_json(DecisionRules()),
        title=templates.DEFAULT_TITLE,
        description=templates.DEFAULT_DESCRIPTION,
        fields="{}",
        asks=True,
        version=0,
        changed_at=at,
        changed_by="otto",
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
