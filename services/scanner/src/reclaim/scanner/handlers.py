"""What the scanner does when others speak.

A case that ended frees its seat, a kept seat is left in peace, and a desk that is there can be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reclaim.common.contracts import CaseClosed, DeskChanged, SeatReactivated, UsageQuestioned
from reclaim.common.db import Unit
from reclaim.common.envelope import Received
from reclaim.common.errors import NotYet
from reclaim.common.inbox import Subscriptions
from reclaim.scanner import desk_store, merging, questions, store
from reclaim.scanner.ports import Deps


async def on_case_closed(deps: Deps, unit: Unit, events: Sequence[Received[CaseClosed]]) -> None:
    """Close the candidates; a decision to keep starts the cooldown, and for merged cases the suite gets one."""
    closed = [store.Closed(event.data.case_id, event.data.outcome, event.data.closed_at) for event in events]
    known = await store.close_cases(unit.db, closed)
    if unknown := sorted({case.case_id for case in closed} - known):
        raise NotYet(f"no seat was flagged here under case {', '.join(unknown[:3])}")
    await merging.settle(unit, [event.data for event in events], seconds=deps.settings.merge_seconds)


async def on_seat_reactivated(_deps: Deps, unit: Unit, events: Sequence[Received[SeatReactivated]]) -> None:
    """Leave a seat that was just given back in peace, as after a decision to keep."""
    await store.hold_back(
        unit.db,
        [
            store.Hold(
                event.data.seat.connection_id,
                event.data.seat.holder.id,
                event.data.seat.product,
                "reactivated",
                event.data.reactivated_at,
                event.data.dry_run,
            )
            for event in events
        ],
    )


async def on_desk_changed(_deps: Deps, unit: Unit, events: Sequence[Received[DeskChanged]]) -> None:
    """Remember which service desks a rule can name."""
    await desk_store.learn(unit.db, [event.data for event in events])


SUBSCRIPTIONS: Final[Subscriptions[Deps]] = {
    CaseClosed: on_case_closed,
    DeskChanged: on_desk_changed,
    SeatReactivated: on_seat_reactivated,
    UsageQuestioned: questions.hear,
}
