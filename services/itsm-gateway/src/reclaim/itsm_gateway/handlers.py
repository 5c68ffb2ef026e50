"""What the gateway does with what it hears."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reclaim.common.contracts import (
    CaseClosed,
    Event,
    FulfilmentAnnounced,
    FulfilmentRequested,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)
from reclaim.common.db import Database, Unit
from reclaim.common.envelope import Received
from reclaim.common.errors import NotYet
from reclaim.itsm_gateway import domain, store, ticketing
from reclaim.itsm_gateway.settings import ItsmGatewaySettings


@dataclass(frozen=True, slots=True)
class Deps:
    """What the parts of the service need."""

    database: Database
    settings: ItsmGatewaySettings
    public_url: str = ""


async def open_requests(deps: Deps, unit: Unit, events: Sequence[Received[UserFlagged]]) -> None:
    """Store what a ticket should ask and have it opened; without a desk, say at once that nobody can be asked."""
    flagged = {received.data.case_id: received.data for received in events}
    known = await store.routes(unit.db, set(flagged))
    fresh = [event for case_id, event in flagged.items() if case_id not in known]
    asked = [event for event in fresh if domain.through_the_desk(event)]
    await store.add_routes(unit.db, fresh)
    await store.add_requests(unit.db, asked)
    unasked = await ticketing.want(unit, asked, deps.public_url)
    unit.emit(*(domain.nobody_asked(event, unit.now) for event in unasked))


async def follow(deps: Deps, unit: Unit, events: Sequence[Received[domain.Progress]]) -> None:
    """Keep what the ticket should be told; a task for a person is kept for every case, however its question was asked.

    Raises:
        NotYet: a case was not flagged here yet.
    """
    routes = await store.routes(unit.db, {received.data.case_id for received in events})
    for received in events:
        if received.data.case_id not in routes:
            raise NotYet(f"case {received.data.case_id} was not flagged here yet")
    told = [
        received
        for received in events
        if routes[received.data.case_id] or isinstance(received.data, FulfilmentRequested)
    ]
    await store.add_steps(unit.db, [domain.step(received.id, received.data) for received in told])
    await store.set_outcomes(
        unit.db,
        {received.data.case_id: received.data.outcome for received in told if isinstance(received.data, CaseClosed)},
    )
    closed = {received.data.case_id for received in events if isinstance(received.data, CaseClosed)}
    asked = {received.data.case_id for received in events if isinstance(received.data, FulfilmentRequested)}
    over = await store.end(unit.db, closed, asked)
    # Events come in any order: whoever got a task after the end of its case would free a seat that was kept.
    timely = [
        received
        for received in events
        if not (isinstance(received.data, FulfilmentRequested) and received.data.case_id in over)
    ]
    # Told first: a ticket that is wanted from now on says itself what this event says.
    await ticketing.tell(unit, timely)
    tasks = [received.data for received in timely if isinstance(received.data, FulfilmentRequested)]
    if tasks:
        through_the_desk = {case_id for case_id, desk in routes.items() if desk}
        await ticketing.want_tasks(unit, tasks, through_the_desk, deps.public_url)


SUBSCRIPTIONS: dict[type[Event], Callable[[Deps, Unit, Sequence[Received[Any]]], Awaitable[None]]] = {
    UserFlagged: open_requests,
    UserFrozen: follow,
    UserRestored: follow,
    FulfilmentAnnounced: follow,
    FulfilmentRequested: follow,
    SeatReclaimed: follow,
    SeatReactivated: follow,
    CaseClosed: follow,
}
