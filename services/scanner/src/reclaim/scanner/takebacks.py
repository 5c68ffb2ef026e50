"""Takes back the open cases that an exclusion has come to cover since they were opened.

Adding an exclusion takes back at once what it covers then. Later somebody joins its group, or moves to its department;
where the case was opened before there was such an exclusion, no step asks about that. A scan reads both anyway.

The lifecycle refuses what it is giving back already, and what is freed. It says so in its audit trail and to nobody, so
a case that stays open is told of again: at growing intervals, and at once when it is for another reason. That never
ends while the case is open, as what was refused may be taken back later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import Seat
from reclaim.common.db import Unit, UtcDateTime, among, insert_many
from reclaim.connectors.ports import Members
from reclaim.scanner import exclusion_store
from reclaim.scanner.domain import Exclusions
from reclaim.scanner.known_seats import KNOWN_SEATS
from reclaim.scanner.store import CANDIDATES, metadata
from reclaim.scanner.withdrawals import withdraw

TAKEBACKS = sa.Table(
    "takebacks",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("said_at", UtcDateTime, nullable=False),
)
"""The open cases that were taken back for an exclusion, with why, how often and when last."""

WATCHER: Final = "exclusions"
"""Who takes a case back; it stands in the audit trail."""

LONGEST_DAYS: Final = 28
"""So many days apart, at most, the lifecycle is told again of a case that stays open: from one day on, doubling."""


@dataclass(frozen=True, slots=True)
class Said:
    """How often, when last and why the lifecycle was told that a case is taken back."""

    reason: str
    times: int
    at: datetime

    def is_due(self, reason: str, now: datetime) -> bool:
        """Tell whether to say it again."""
        days = min(2 ** min(self.times - 1, 32), LONGEST_DAYS)
        return reason != self.reason or now - self.at >= timedelta(days=days)


async def take_back_excluded(unit: Unit, connection_id: str, groups: Mapping[str, Members], *, since: datetime) -> int:
    """Take back the open cases of a connection that an exclusion certainly covers by now; return how many.

    `groups` are its groups as they were just read: whoever only may be in one keeps their case. The department, and the
    address, count as they were read since an instant; a department that was not read since then does not count.
    """
    in_force = [
        one
        for one in await exclusion_store.exclusions(unit.db, unit.now)
        if one.connection_id in (None, connection_id) and (one.kind != "group" or one.value in groups)
    ]
    if not in_force:
        return 0
    covering = Exclusions(
        in_force,
        connection_id,
        unit.now,
        await exclusion_store.kin(unit.db, in_force),
        await exclusion_store.names(unit.db, in_force),
        {name: Members(members.ids) for name, members in groups.items()},
    )
    cases = await exclusion_store.open_seats(unit.db, connection_id=connection_id)
    present = await _present(unit.db, connection_id, {seat.holder.id for _case_id, seat in cases}, since)
    covered = {
        case_id: why
        for case_id, seat in cases
        for one in present.get(seat.holder.id, [None])
        if (why := covering.evidence(_as_read(seat, one))) is not None
    }
    said = await _said(unit.db, covered)
    due = {
        case_id: why
        for case_id, why in covered.items()
        if (before := said.get(case_id)) is None or before.is_due(why, unit.now)
    }
    await _note(unit, due, said)
    return withdraw(unit, due.items(), kind="exempted", actor=WATCHER)


def _as_read(seat: Seat, known: tuple[str | None, str | None] | None) -> Seat:
    """Return a case's seat with the holder's department and address as they were just read, if they were."""
    department, address = known or (None, None)
    return replace(seat, department=department, holder=replace(seat.holder, email=address or seat.holder.email))


async def _present(
    db: AsyncConnection, connection_id: str, holders: Collection[str], since: datetime
) -> Mapping[str, Sequence[tuple[str | None, str | None]]]:
    """Return the departments and addresses of some holders that were read since an instant; most have one of each."""
    columns = (KNOWN_SEATS.c.holder_id, KNOWN_SEATS.c.department, KNOWN_SEATS.c.holder_email)
    rows = await db.execute(
        sa.select(*columns)
        .where(
            KNOWN_SEATS.c.connection_id == connection_id,
            KNOWN_SEATS.c.last_seen_at >= since,
            among(KNOWN_SEATS.c.holder_id, holders),
        )
        .distinct()
    )
    found: dict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
    for row in rows:
        found[row.holder_id].append((row.department, row.holder_email))
    return found


async def _said(db: AsyncConnection, case_ids: Collection[str]) -> dict[str, Said]:
    rows = await db.execute(sa.select(TAKEBACKS).where(among(TAKEBACKS.c.case_id, case_ids)))
    return {row.case_id: Said(row.reason, row.times, row.said_at) for row in rows}


async def _note(unit: Unit, told: Mapping[str, str], before: Mapping[str, Said]) -> None:
    """Write down what the lifecycle is told, and forget the cases that have ended."""
    ended = sa.exists().where(CANDIDATES.c.id == TAKEBACKS.c.case_id, CANDIDATES.c.closed_at.is_not(None))
    await unit.db.execute(sa.delete(TAKEBACKS).where(ended))
    rows = []
    for case_id, reason in sorted(told.items()):
        last = before.get(case_id)
        times = last.times + 1 if last is not None and last.reason == reason else 1
        rows.append({"case_id": case_id, "reason": reason, "times": times})
    await insert_many(unit.db, TAKEBACKS, rows, same={"said_at": unit.now}, replacing=("case_id",))
