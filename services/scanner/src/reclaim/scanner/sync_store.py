"""All SQL of synchronisations: what is read from a connection again and again, how far it came, and how it ended.

A synchronisation is claimed by a lease on the wall clock, as a scan is: whatever a process that lost its lease still
wants to write does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import UtcDateTime, insert_many
from reclaim.common.errors import NotFound
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds
from reclaim.scanner.store import LeaseLost, metadata

SYNC: Final = "sync"
"""The job that works on synchronisations."""

What = Literal["licences", "usage"]
"""The products of a connection with seats, or the sign-ins of one with a log."""

SYNCS = sa.Table(
    "syncs",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("what", sa.Text, primary_key=True),
    # What its records are kept under: the connection's name as it was first called.
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("asked_by", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lease", sa.Text),
    # From when on it may be claimed, in wall-clock milliseconds as everything that leases; never as long as it is null.
    sa.Column("look_at", sa.BigInteger),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("succeeded_at", UtcDateTime),
    sa.Column("problem", sa.Text),
    sa.Column("remedy", sa.Text),
    # Of a log: what lies before `cursor` has been read and kept; `since` is where the present pass began.
    sa.Column("cursor", UtcDateTime),
    sa.Column("since", UtcDateTime),
    sa.Column("until", UtcDateTime),
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Index("syncs_look_at", "look_at"),
)


@dataclass(frozen=True, slots=True)
class Sync:
    """One synchronisation and how it stands: `idle`, `queued`, `running`, or `waiting` after a failure.

    `records` and `failed` (sign-ins that came to nothing) are of the present pass, or of the last one. `cursor`,
    `since` and `until` say how far a log was read.
    """

    connection_id: str
    what: What
    source: str
    status: str
    asked_by: str
    attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    succeeded_at: datetime | None
    problem: str | None
    remedy: str | None
    cursor: datetime | None
    since: datetime | None
    until: datetime | None
    records: int
    failed: int

    @property
    def under_way(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def days(self) -> tuple[int, int] | None:
        """How many days of a log were read in this pass, of how many; None before it is known."""
        if self.since is None or self.until is None or self.cursor is None:
            return None
        return max(0, (self.cursor - self.since).days), max(1, (self.until - self.since).days)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A synchronisation that this process may work on, as long as it holds the lease."""

    sync: Sync
    lease: str
    attempt: int


_SHOWN: Final = tuple(Sync.__dataclass_fields__)


def _sync(row: Any) -> Sync:
    return Sync(**{name: getattr(row, name) for name in _SHOWN})


def _one(connection_id: str, what: What) -> sa.ColumnElement[bool]:
    return sa.and_(SYNCS.c.connection_id == connection_id, SYNCS.c.what == what)


async def syncs(db: AsyncConnection, connection_id: str | None = None) -> list[Sync]:
    """Return the synchronisations of one connection, or of all, by source."""
    chosen = sa.select(SYNCS).order_by(SYNCS.c.source, SYNCS.c.what)
    if connection_id is not None:
        chosen = chosen.where(SYNCS.c.connection_id == connection_id)
    return [_sync(row) for row in await db.execute(chosen)]


async def find(db: AsyncConnection, connection_id: str, what: What) -> Sync | None:
    """Return one synchronisation, if there is one."""
    row = (await db.execute(sa.select(SYNCS).where(_one(connection_id, what)))).one_or_none()
    return None if row is None else _sync(row)


async def add(db: AsyncConnection, connection_id: str, what: What, *, source: str, by: str, at_once: bool) -> None:
    """Add a synchronisation; one that is there already stays as it is. Without `at_once` it waits to be asked for."""
    if await find(db, connection_id, what) is not None:
        return
    row = {
        "connection_id": connection_id,
        "what": what,
        "source": source,
        "status": "queued" if at_once else "idle",
        "asked_by": by,
        "attempts": 0,
        "look_at": wall_milliseconds() if at_once else None,
        "records": 0,
        "failed": 0,
    }
    await insert_many(db, SYNCS, [row])


async def ask(db: AsyncConnection, connection_id: str, what: What, *, by: str, anew: bool = False) -> None:
    """Let a synchronisation be worked on now; one that is under way goes on.

    `anew` lets a log be read again from as far back as it goes, and takes it from whoever reads it at the moment.

    Raises:
        NotFound: the connection has none.
    """
    values: dict[str, Any] = {"status": "queued", "asked_by": by, "attempts": 0, "look_at": wall_milliseconds()}
    one = _one(connection_id, what)
    if anew:
        values |= {"lease": None, "cursor": None, "since": None, "until": None}
    else:
        one = sa.and_(one, SYNCS.c.lease.is_(None))
    asked = await db.execute(sa.update(SYNCS).where(one).values(values))
    if asked.rowcount == 0 and await find(db, connection_id, what) is None:
        raise NotFound("Nothing is read from this connection by itself.")


async def remove(db: AsyncConnection, connection_id: str) -> None:
    """Forget a connection's synchronisations; a process that works on one finds its lease lost."""
    await db.execute(sa.delete(SYNCS).where(SYNCS.c.connection_id == connection_id))


async def anything_to_claim(db: AsyncConnection) -> bool:
    """Tell whether a synchronisation is due; cheaper than trying to claim one."""
    found = await db.execute(sa.select(SYNCS.c.what).where(SYNCS.c.look_at <= wall_milliseconds()).limit(1))
    return found.first() is not None


async def claim(db: AsyncConnection, *, lease_seconds: float, now: datetime) -> Claimed | None:
    """Take the synchronisation that is due longest, or one whose process died. What it has read so far stays read."""
    row = (
        await db.execute(
            sa.select(SYNCS)
            .where(SYNCS.c.look_at <= wall_milliseconds())
            .order_by(SYNCS.c.look_at, SYNCS.c.connection_id, SYNCS.c.what)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
    ).one_or_none()
    if row is None:
        return None
    claimed = Claimed(_sync(row), new_id(), row.attempts + 1)
    values = {
        "status": "running",
        "lease": claimed.lease,
        "attempts": claimed.attempt,
        "started_at": now if row.since is None else row.started_at or now,
        **lease_until(lease_seconds),
    }
    if row.since is None:
        values |= {"records": 0, "failed": 0}
    await db.execute(sa.update(SYNCS).where(_one(row.connection_id, row.what)).values(values))
    return claimed


async def update(db: AsyncConnection, claimed: Claimed, values: Mapping[str, Any]) -> None:
    """Write to a claimed synchronisation.

    Raises:
        LeaseLost: it is another process's now, or was asked for anew.
    """
    one = sa.and_(_one(claimed.sync.connection_id, claimed.sync.what), SYNCS.c.lease == claimed.lease)
    changed = await db.execute(sa.update(SYNCS).where(one).values(dict(values)))
    if changed.rowcount == 0:
        raise LeaseLost(claimed.sync.connection_id)


def lease_until(seconds: float) -> dict[str, Any]:
    """Return what keeps a synchronisation claimed for so many seconds from now."""
    return {"look_at": wall_milliseconds() + int(seconds * 1000)}


def read_on(cursor: datetime, *, records: int, failed: int, lease_seconds: float) -> dict[str, Any]:
    """Return what says that one more day of a log was kept."""
    return {
        "cursor": cursor,
        "records": SYNCS.c.records + records,
        "failed": SYNCS.c.failed + failed,
        **lease_until(lease_seconds),
    }


def succeeded(now: datetime, *, again_after: float) -> dict[str, Any]:
    """Return what ends a pass that came to its end; the next one is due in so many seconds."""
    return {
        "status": "idle",
        "lease": None,
        "attempts": 0,
        "ended_at": now,
        "succeeded_at": now,
        "problem": None,
        "remedy": None,
        "since": None,
        "until": None,
        **lease_until(again_after),
    }


def put_off(now: datetime, seconds: float, problem: str, remedy: str) -> dict[str, Any]:
    """Return what lets a synchronisation that failed rest for so many seconds; it goes on where it came to."""
    return {
        "status": "waiting",
        "lease": None,
        "ended_at": now,
        "problem": problem,
        "remedy": remedy,
        **lease_until(seconds),
    }


def handed_back() -> dict[str, Any]:
    """Return what lets another process claim a synchronisation at once."""
    return {"status": "queued", "lease": None, "look_at": wall_milliseconds()}
