"""What savings does with what it hears: it books it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reclaim.common.clock import Clock
from reclaim.common.contracts import CaseClosed, Event, SeatReactivated, SeatReclaimed, UserFrozen, UserRestored
from reclaim.common.db import Database, Unit
from reclaim.common.envelope import Received
from reclaim.savings import domain, store


@dataclass(frozen=True, slots=True)
class Deps:
    """What the parts of the service need."""

    database: Database
    clock: Clock


async def book(_deps: Deps, unit: Unit, events: Sequence[Received[domain.SavingsEvent]]) -> None:
    """Append events to the log and project them; what the log has already, or no saving hangs on, is left out."""
    booked = [received for received in events if domain.concerns_savings(received.data)]
    if booked:
        await store.append(unit.db, [domain.entry(received.id, received.data) for received in booked])


SUBSCRIPTIONS: dict[type[Event], Callable[[Deps, Unit, Sequence[Received[Any]]], Awaitable[None]]] = {
    UserFrozen: book,
    UserRestored: book,
    SeatReclaimed: book,
    SeatReactivated: book,
    CaseClosed: book,
}
