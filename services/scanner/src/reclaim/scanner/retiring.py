"""Sources of use that are no more: a person retires them, so that they stand stale no longer.

What a retired source said is complete, or installed, counts for nothing from then on. Its records of use stay, and may
go on to keep a seat. A source that speaks again is back by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import UtcDateTime, insert_many
from reclaim.common.errors import Conflict, NotFound
from reclaim.connectors.installed import read_profile
from reclaim.scanner import store, sync_store
from reclaim.scanner.domain import INSTALLED, clean_reason
from reclaim.scanner.import_store import IMPORTS
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import metadata
from reclaim.scanner.usage_store import INSTALLATIONS, INVENTORIES, REPORTS

RETIRED = sa.Table(
    "retired_sources",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("retired_at", UtcDateTime, nullable=False),
    sa.Column("retired_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

_SAID = (REPORTS, INVENTORIES, INSTALLATIONS)


@dataclass(frozen=True, slots=True)
class Retired:
    """A source that somebody retired, and that has said nothing since."""

    source: str
    retired_at: datetime
    retired_by: str
    reason: str


async def retire(deps: Deps, source: str, reason: object, *, by: str) -> Retired:
    """Let a source vouch for nothing any more; what it listed as installed is gone.

    Raises:
        Invalid: the reason says nothing, or too much.
        NotFound: no such source has said anything that counts.
        Conflict: it is read by Reclaim itself, a connection names it, or a file of it is being read.
    """
    why = clean_reason(reason)
    async with deps.database.unit() as unit:
        await _must_be_free(unit.db, source)
        gone = 0
        for table in _SAID:
            gone += (await unit.db.execute(sa.delete(table).where(table.c.source == source))).rowcount
        if not gone:
            raise NotFound(f"No source {source[:100]!r} has said anything that counts.")
        row = {"source": source, "retired_at": unit.now, "retired_by": by, "reason": why}
        await insert_many(unit.db, RETIRED, [row], replacing=("source",))
        return Retired(source, unit.now, by, why)


async def retired(db: AsyncConnection) -> list[Retired]:
    """Return the sources that were retired and have not spoken since, the newest first."""
    back = [sa.exists().where(table.c.source == RETIRED.c.source) for table in _SAID]
    rows = await db.execute(
        sa.select(RETIRED).where(~sa.or_(*back)).order_by(RETIRED.c.retired_at.desc(), RETIRED.c.source)
    )
    return [Retired(row.source, row.retired_at, row.retired_by, row.reason) for row in rows]


async def _must_be_free(db: AsyncConnection, source: str) -> None:
    """Refuse to retire a source that would be back at once, or whose absence would stop a connection's scans."""
    if any(sync.source == source and sync.what == "usage" for sync in await sync_store.syncs(db)):
        raise Conflict(f"{source} is read by Reclaim itself: remove its connection, or drop its applications.")
    for connection in await store.connections(db):
        if connection.kind == INSTALLED and source in read_profile(connection.settings, {}):
            raise Conflict(f"The connection {connection.name} names {source} among its feeds: take it out there first.")
    reading = sa.select(IMPORTS.c.id).where(IMPORTS.c.source == source, IMPORTS.c.ended_at.is_(None)).limit(1)
    if (await db.execute(reading)).first() is not None:
        raise Conflict(f"A file of {source} is being read: wait for its end.")
