"""A service desk in memory: the same port without a network, for simulations. One contract suite runs over it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from reclaim.common.clock import Clock
from reclaim.common.errors import ReclaimError
from reclaim.connectors.itsm.decisions import DecisionRules, read
from reclaim.connectors.itsm.ports import (
    Choice,
    FieldSpec,
    Json,
    NotThere,
    PermissionResult,
    ReadDecision,
    TicketDraft,
    TicketRef,
    UnknownOutcome,
    case_marker,
)

Trouble = Literal["none", "before", "after"]
"""What befalls one write: nothing, a failure before it was done, or an answer that was lost after it was done."""


@dataclass(slots=True)
class FakeTicket:
    """One ticket."""

    number: int
    case_id: str
    subject: str
    description: str
    tags: list[str]
    fields: dict[str, Json]
    opened_at: datetime
    closed: bool = False
    comments: list[str] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    closings: set[str] = field(default_factory=set)
    changed_by: str = "reclaim"
    changed_at: datetime | None = None


@dataclass(slots=True)
class FakeDesk:
    """A desk, and what goes wrong in it.

    `down` is raised by every call. `trouble` is asked once for each write, by its name.
    """

    clock: Clock
    decisions: DecisionRules = field(default_factory=DecisionRules)
    tickets: dict[str, FakeTicket] = field(default_factory=dict)
    down: ReclaimError | None = None
    trouble: Callable[[str], Trouble] = lambda _operation: "none"
    calls: int = 0
    highest: int = 0

    async def test_connection(self) -> Sequence[PermissionResult]:
        """See `ServiceDesk`."""
        if self.down is not None:
            return [PermissionResult("read tickets", False, str(self.down), "Wait until the desk is up.")]
        return [PermissionResult("read tickets", True, "Tickets can be read.")]

    async def discover_fields(self) -> Sequence[FieldSpec]:
        """See `ServiceDesk`."""
        self._enter()
        return [FieldSpec("urgency", "Urgency", "level", choices=(Choice("1", "High"), Choice("2", "Medium")))]

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:
        """See `ServiceDesk`."""
        self._enter()
        case_marker(case_id)
        found = [each for each in self.tickets.values() if each.case_id == case_id and each.opened_at >= since]
        return _ref(found[0]) if found else None

    async def create(self, draft: TicketDraft, *, tried: bool = False) -> TicketRef:  # noqa: ARG002  it is found at once
        """See `ServiceDesk`."""
        found = await self.find_by_case(draft.case_id, since=draft.opened_at)
        if found is not None:
            return found
        trouble = self.trouble("create")
        # No number is given twice, though tickets may be deleted.
        number = self.highest + 1
        ticket = FakeTicket(
            number, draft.case_id, draft.subject, draft.text, list(draft.tags), dict(draft.fields), self.clock.now()
        )
        if trouble != "before":
            self.tickets[str(number)], self.highest = ticket, number
        self._lose(trouble)
        return _ref(ticket)

    async def comment(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk`."""
        ticket = self._ticket(ref)
        if tried and mark in ticket.marks:
            return
        trouble = self.trouble("comment")
        if trouble != "before":
            ticket.comments.append(text)
            ticket.marks.add(mark)
        self._lose(trouble)

    async def close(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk`."""
        self._move(ref, text, mark, tried=tried, closed=True)

    async def was_closed(self, ref: TicketRef, *, mark: str) -> bool:
        """See `ServiceDesk`."""
        return mark in self._ticket(ref).closings

    async def reopen(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk`."""
        self._move(ref, text, mark, tried=tried, closed=False)

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        """See `ServiceDesk`."""
        ticket = self._ticket(ref)
        value = ticket.fields.get(self.decisions.decision_field)
        return read(
            self.decisions,
            closed=ticket.closed,
            tags=ticket.tags,
            values=() if value is None else [str(value)],
            actor=ticket.changed_by,
            at=ticket.changed_at,
        )

    def _move(self, ref: TicketRef, text: str, mark: str, *, tried: bool, closed: bool) -> None:
        ticket = self._ticket(ref)
        if ticket.closed is closed or (tried and mark in ticket.marks):
            return
        trouble = self.trouble("close" if closed else "reopen")
        if trouble != "before":
            ticket.closed = closed
            if closed:
                ticket.closings.add(mark)
            ticket.comments.append(text)
            ticket.marks.add(mark)
        self._lose(trouble)

    def _ticket(self, ref: TicketRef) -> FakeTicket:
        self._enter()
        if ref.key not in self.tickets:
            raise NotThere(f"There is no ticket {ref.number}.", "Check that it still exists.")
        return self.tickets[ref.key]

    def _enter(self) -> None:
        self.calls += 1
        if self.down is not None:
            raise self.down

    @staticmethod
    def _lose(trouble: Trouble) -> None:
        if trouble != "none":
            raise UnknownOutcome("The desk gave no answer. It may have been done: look before it is done again.")


def _ref(ticket: FakeTicket) -> TicketRef:
    return TicketRef(str(ticket.number), f"T-{ticket.number}", f"https://desk.example.com/{ticket.number}")
