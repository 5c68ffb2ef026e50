"""When the pages on which people answer were up: noted here while they are, and told to whoever ends a wait."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from reclaim.approvals.store import pulse
from reclaim.common.contracts import PagesServed
from reclaim.common.db import Database, insert_many
from reclaim.common.timing import wall_milliseconds

BREAK: Final = 15 * 60_000
"""Milliseconds without a beat that are an outage; a shorter break is none."""

AHEAD: Final = 60 * 60_000
"""Milliseconds by which the last beat may lie ahead: more than hosts differ by, it was noted by a wrong clock."""

TELL: Final = 5 * 60_000
"""Milliseconds after which it is told again that the pages are up."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A time for which the pages were up without a break; when that was noted and told, by the machine's clock."""

    since: datetime
    until: datetime
    beat: int
    told: int

    def served(self) -> PagesServed:
        return PagesServed(since=self.since, until=self.until, beat=self.beat)


def beat(before: Beat | None, now: datetime, wall: int) -> tuple[Beat, list[PagesServed]]:
    """Return what is noted at this instant, and what is told. Breaks are measured by the machine's clock, `wall`."""
    if before is None:
        first = Beat(now, now, wall, wall)
        return first, [first.served()]
    if before.beat - wall > AHEAD:
        # With it nobody would notice an outage until that time has come.
        again = Beat(now, now, wall, wall)
        return again, [replace(before, beat=wall).served(), again.served()]
    if wall - before.beat > BREAK:
        # How long they were up before the break was told last up to `TELL` before it.
        again = Beat(now, now, wall, wall)
        return again, [before.served(), again.served()]
    going_on = Beat(before.since, max(before.until, now), max(before.beat, wall), before.told)
    if abs(wall - before.told) < TELL:
        return going_on, []
    told = Beat(going_on.since, going_on.until, going_on.beat, wall)
    return told, [told.served()]


@dataclass(frozen=True, slots=True)
class PulseJob:
    """Notes that this process serves the pages: it runs beside them, and needs the database that they need.

    Any number of replicas share one row: the pages are up while one of them is.
    """

    database: Database

    async def run(self) -> bool:
        """Note it once; return whether there was something to tell."""
        async with self.database.unit() as unit:
            row = (await unit.db.execute(sa.select(pulse).with_for_update())).one_or_none()
            before = None if row is None else Beat(row.since, row.until, row.beat, row.told)
            after, said = beat(before, unit.now, wall_milliseconds())
            await insert_many(unit.db, pulse, [{"id": 1, **asdict(after)}], replacing=("id",))
            unit.emit(*said)
        return bool(said)
