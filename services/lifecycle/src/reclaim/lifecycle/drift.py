"""The daily comparison of our ledger with what the connected systems say: what somebody else changed is reported.

It reads, and writes nothing anywhere but in our own tables. What it finds is for a person to judge, with one
exception: the open case of a seat that vanished is closed, without savings. A system that suddenly shows many seats
as gone is not believed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from reclaim.common.clock import Clock
from reclaim.common.db import Database
from reclaim.common.errors import Permanent, Transient
from reclaim.common.security import Sealer
from reclaim.connectors import checks
from reclaim.connectors.ports import (
    ConnectionProfile,
    Connectors,
    Known,
    Reading,
    SeatReader,
    SeatRecord,
    Unknown,
)
from reclaim.lifecycle import drift_store, store
from reclaim.lifecycle.domain import Case, SeatChecked, State
from reclaim.lifecycle.drift_store import LEFT_FROZEN, Drift
from reclaim.lifecycle.submit import Submission, submit

log = logging.getLogger(__name__)

EVERY: Final = timedelta(days=1)
AGAIN: Final = timedelta(hours=1)
"""After how long a comparison that failed, or whose process died, is made again."""

PAGE: Final = 200
FEW: Final = 5
MOST_GONE: Final = 0.2
"""More seats than a few, and a larger share than this, do not vanish in one day: the reading is doubted instead."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A seat that is not there any more, with what was read."""

    case: Case
    why: str


@dataclass(slots=True)
class Compared:
    """What one comparison found."""

    count: int = 0
    drifts: list[Drift] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)

    @property
    def doubtful(self) -> bool:
        return len(self.gone) > max(FEW, MOST_GONE * self.count)


def compare(case: Case, record: SeatRecord | None, frozen: Reading[frozenset[str]]) -> Drift | Gone | None:
    """Say how a case differs from what its system says; purely. A dry run did nothing that could be undone."""
    there = record is not None and (record.active or _frozen_by_its_switch(case, record))
    held = there and record is not None and case.seat.covers(record.product)
    now_has = record.product_name if record is not None and there else "no active account"
    match case.state:
        case State.RECLAIMED | State.REACTIVATED if case.policy.dry_run:
            return None
        case State.RECLAIMED:
            return _after_reclaim(case, record if there else None)
        case State.REACTIVATED if not held:
            return _drift(
                case,
                "licence_changed" if there else "deactivated",
                f"The seat was given back, and the holder now has {now_has}.",
                "If that is right, there is nothing to do; if not, give the seat back in the connected system.",
            )
        case State.AWAITING_FULFILMENT if not held:
            return _drift(
                case,
                "done_by_hand",
                f"The seat that a person was to free is gone: the holder now has {now_has}.",
                "Say on the case's page that it is done, so that its saving is booked.",
            )
        case State.REACTIVATED | State.AWAITING_FULFILMENT:
            return None
        case State.SKIPPED:
            return _after_an_end_out_of_reach(case, record, frozen)
    if record is None and case.frozen_at is not None and not case.policy.dry_run:
        return _out_of_sight(case)
    return _while_open(case, there=there, held=held, now_has=now_has, frozen=frozen)


def _frozen_by_its_switch(case: Case, record: SeatRecord) -> bool:
    """Tell whether an account is off because we froze it, where freezing and freeing are one switch."""
    return (
        record.one_switch
        and case.frozen_at is not None
        and not case.policy.dry_run
        and case.state not in {State.RECLAIMED, State.REACTIVATED}
    )


def _after_an_end_out_of_reach(case: Case, record: SeatRecord | None, frozen: Reading[frozenset[str]]) -> Drift | None:
    """Look after a freeze of ours that a case left behind; who is switched off by somebody else is not held by it."""
    if record is None or not (record.active or record.one_switch):
        return None
    if not isinstance(frozen, Known) or case.seat.holder.id not in frozen.value:
        return None
    return _drift(
        case,
        LEFT_FROZEN,
        "The case ended while the account was out of reach. The account is back, and Reclaim's freeze is still on it.",
        "Unfreeze it here, or on the case's page, unless it is to stay frozen.",
    )


def _out_of_sight(case: Case) -> Drift | None:
    """Report an account that we froze and that is not shown any more; what stands in attention has been told."""
    if case.attention is not None:
        return None
    return _drift(
        case,
        "unseen",
        "The account was frozen by Reclaim, and the connection does not show it any more.",
        "Look whether it was deleted, or whether the connection's user may no longer see it; at the end of grace the "
        "case stops and waits for you.",
    )


def _after_reclaim(case: Case, record: SeatRecord | None) -> Drift | None:
    target = case.policy.downgrade_to
    if record is None:
        return None
    if case.seat.covers(record.product):
        by_hand = f" {case.fulfilled_by} said that it was freed." if case.fulfilled_by else ""
        return _drift(
            case,
            "reactivated",
            f"The seat was freed, and its holder has it again.{by_hand}",
            "Reactivate it on the case's page, which ends its saving; or free it again in the connected system.",
        )
    if case.method == "downgrade" and target is not None and record.product != target.product:
        return _drift(
            case,
            "licence_changed",
            f"The holder was moved to {target.product_name}, and now has {record.product_name}.",
            "Its saving is booked for the move. If the new licence costs more, correct it in the connected system.",
        )
    return None


def _while_open(
    case: Case, *, there: bool, held: bool, now_has: str, frozen: Reading[frozenset[str]]
) -> Drift | Gone | None:
    resume = case.attention.resume if case.attention is not None else None
    ours = case.unsure or case.reclaimed_at is not None
    if ours or resume in {State.AWAITING_FULFILMENT, State.RESTORING}:
        # What differs may be our own doing; the step that stands in attention reads first when it is tried again.
        return None
    live_freeze = case.frozen_at is not None and not case.policy.dry_run
    if not there:
        return Gone(case, "the account is no longer active")
    if not held and not live_freeze:
        return Gone(case, f"the holder now has {now_has} instead of {case.seat.product_name}")
    if not held:
        return _drift(
            case,
            "licence_changed",
            f"The frozen holder now has {now_has} instead of {case.seat.product_name}.",
            "Restore the account on the case's page if that is right; at the end of grace it is restored anyway.",
        )
    if live_freeze and isinstance(frozen, Known) and case.seat.holder.id not in frozen.value:
        return _drift(
            case,
            "unfrozen",
            "The account was frozen by Reclaim, and somebody else unfroze it.",
            "Keep the seat on the case's page, or freeze the account again in the connected system; at the end of "
            "grace the case stops and waits for you.",
        )
    return None


def _drift(case: Case, kind: str, detail: str, remedy: str) -> Drift:
    seat = case.seat
    return Drift(case.id, kind, seat.connection_id, seat.holder.name, seat.product_name, detail, remedy)


class Comparison:
    """Compares the connections that are due, one at a time, each through a reader opened for it."""

    def __init__(self, database: Database, connectors: Connectors, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._connectors = connectors
        self._sealer = sealer
        self._clock = clock

    async def run(self) -> bool:
        """Compare one connection that is due; return whether there was one."""
        async with self._database.unit() as unit:
            connection = await drift_store.claim(unit.db, unit.now, AGAIN)
        if connection is None:
            return False
        try:
            compared = await self._compare(connection)
        except (Transient, Permanent) as error:
            log.warning("connection %s could not be compared: %s", connection.id, error)
            async with self._database.unit() as unit:
                await drift_store.finish(
                    unit.db, connection.id, due_at=unit.now + AGAIN, now=unit.now, compared=0, trouble=str(error)
                )
            return True
        if compared.doubtful:
            await self._doubt(connection, compared)
        else:
            await self._conclude(connection, compared)
        return True

    async def _compare(self, connection: Any) -> Compared:
        reader = self._connectors.reader(
            ConnectionProfile(
                connection.id,
                connection.name,
                connection.kind,
                connection.settings,
                self._sealer.open(connection.credentials),
            )
        )
        compared = Compared()
        began = self._clock.now()
        try:
            async with self._database.reading() as db:
                ids = await drift_store.cases_to_compare(db, connection.id, self._clock.now())
            for start in range(0, len(ids), PAGE):
                async with self._database.reading() as db:
                    cases = await drift_store.read_cases(db, ids[start : start + PAGE])
                await self._compare_page(cases, reader, compared)
        finally:
            await reader.close()
        if abs(self._clock.now() - began) >= AGAIN:
            # This process was stopped, perhaps for days, and another may have compared since.
            raise Transient("the comparison took too long to be believed")
        return compared

    async def _compare_page(self, cases: Sequence[Case], reader: SeatReader, compared: Compared) -> None:
        # What is installed has no account to compare with: its check before the next step asks whether it is there.
        cases = [case for case in cases if not case.seat.devices]
        if not cases:
            return
        records = await reader.seats_of([case.seat.holder.id for case in cases])
        ours = [
            case.seat.holder.id
            for case in cases
            if case.left_frozen or (case.frozen_at is not None and case.reclaimed_at is None)
        ]
        survey = await reader.survey(ours, since=self._clock.now() - EVERY) if ours else None
        for case in cases:
            compared.count += 1
            holder = case.seat.holder.id
            frozen = Unknown(checks.OUT_OF_SIGHT) if survey is None or survey.misses(holder) else survey.frozen
            match compare(case, records.get(holder), frozen):
                case Drift() as drift:
                    compared.drifts.append(drift)
                case Gone() as gone:
                    compared.gone.append(gone)

    async def _conclude(self, connection: Any, compared: Compared) -> None:
        """Close the cases of seats that vanished, unless they moved on since they were read; raise and clear drift."""
        async with self._database.unit() as unit:
            present = await store.load(unit.db, [gone.case.id for gone in compared.gone])
            await submit(
                unit,
                [
                    Submission(
                        gone.case.id,
                        SeatChecked("gone", gone.why),
                        channel="drift",
                        evidence=_evidence(gone, unit.now),
                    )
                    for gone in compared.gone
                    if present[gone.case.id].version == gone.case.version
                ],
            )
            await drift_store.save(unit.db, connection.id, compared.drifts, unit.now)
            await drift_store.finish(
                unit.db, connection.id, due_at=unit.now + EVERY, now=unit.now, compared=compared.count, trouble=""
            )

    async def _doubt(self, connection: Any, compared: Compared) -> None:
        """Report the seats that look gone, and close nothing: losing sight of people looks the same."""
        trouble = (
            f"{len(compared.gone)} of {compared.count} seats look gone at once. No case was closed: test the "
            "connection and what its user may see. If they are really gone, the check before the next step of each "
            "case closes it."
        )
        log.warning("connection %s: %s", connection.id, trouble)
        doubted = [
            _drift(gone.case, "gone", f"It looks as if the seat is gone: {gone.why}.", "Test the connection first.")
            for gone in compared.gone
        ]
        async with self._database.unit() as unit:
            await drift_store.save(unit.db, connection.id, [*compared.drifts, *doubted], unit.now)
            await drift_store.finish(
                unit.db, connection.id, due_at=unit.now + EVERY, now=unit.now, compared=0, trouble=trouble
            )


def _evidence(gone: Gone, now: datetime) -> str:
    found: Mapping[str, object] = {"compared_at": now, "holder": gone.case.seat.holder.id, "found": gone.why}
    return msgspec.json.encode(found).decode()
