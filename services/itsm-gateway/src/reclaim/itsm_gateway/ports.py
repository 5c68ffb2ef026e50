"""What the gateway asks of a service desk to handle a webhook: what the ticket of a case says now."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from reclaim.common.contracts import Decision

Says = Decision | Literal["done", "undecided", "open"]


@dataclass(frozen=True, slots=True)
class TicketState:
    """What a ticket says, read back from its desk.

    `open`: nobody has answered yet. `undecided`: it was closed without an answer, or with two that disagree. `done`: a
    task for a person was carried out. `test` marks the ticket of a dry run. `closed` is about the ticket, whatever it
    says. `actor` and `at` are who answered and when, where its desk tells; `moved_by` and `moved_at` who opened or
    closed it, where that is told apart; `ours` is the name of our own account there.
    """

    ticket: str
    says: Says
    reason: str = ""
    actor: str | None = None
    test: bool = False
    closed: bool = False
    at: datetime | None = None
    moved_by: str | None = None
    moved_at: datetime | None = None
    ours: str | None = None


class TicketReader(Protocol):
    """One connection to a service desk, opened to read."""

    async def read(self, reference: str, *, since: datetime) -> TicketState | None:
        """Find the ticket that the desk knows by a reference (`domain.reference`), and return what it says.

        It is no older than `since`. None if there is none.

        Raises:
            Transient: the desk cannot just now.
            Permanent: a person has to mend something; the text says what.
        """
        ...


class Desks(Protocol):
    """Opens connections to service desks."""

    def open(self, connection_id: str) -> AbstractAsyncContextManager[TicketReader] | None:
        """Return a connection, to be entered and left again; None if there is no desk of that id."""
        ...


class NoDesks:
    """No service desk is connected: only generic senders decide."""

    def open(self, connection_id: str) -> None:
        """Return None."""
