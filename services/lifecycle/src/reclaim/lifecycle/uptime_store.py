"""The statements about when the pages on which people answer were up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import PagesServed
from reclaim.common.db import UtcDateTime, insert_many
from reclaim.lifecycle.store import metadata
from reclaim.lifecycle.uptime import Stretch, Uptime

SERVED: Final = sa.Table(
    "pages_served",
    metadata,
    sa.Column("since", UtcDateTime, primary_key=True),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
"""A row for each time without a break; a break adds one."""


async def learn(db: AsyncConnection, told: Sequence[PagesServed]) -> None:
    """Remember for how long the pages were up; what was told earlier and comes later changes nothing."""
    longest: dict[object, PagesServed] = {}
    for one in sorted(told, key=lambda one: one.until):
        longest[one.since] = one
    await insert_many(
        db,
        SERVED,
        [{"since": one.since, "until": one.until, "beat": one.beat} for one in longest.values()],
        replacing=("since",),
        unless_newer="until",
    )


async def uptime(db: AsyncConnection) -> Uptime:
    """Return when the pages were up, as far as was told."""
    rows = (await db.execute(sa.select(SERVED).order_by(SERVED.c.since))).all()
    return Uptime([Stretch(row.since, row.until) for row in rows], max((row.beat for row in rows), default=None))
