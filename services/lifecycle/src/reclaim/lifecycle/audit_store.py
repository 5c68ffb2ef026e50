"""Every statement about the audit trail that is not about appending to it: checkpoints, export, erasure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import BigKey, Database, UtcDateTime
from reclaim.lifecycle.store import AUDIT, PERSONAL, Moment, link_of, metadata

CHECKPOINT: Final = sa.Table(
    "audit_checkpoint",
    metadata,
    sa.Column("position", BigKey, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
)

PAGE: Final = 1_000
"""Entries of an export read at a time."""


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chain's entry at `position` had this hash at this time; signed with the key of that id."""

    position: int
    hash: str
    at: datetime
    key_id: str
    signature: str


async def add_checkpoint(db: AsyncConnection, checkpoint: Checkpoint) -> None:
    """Store a checkpoint; another process that signed the same entry meanwhile is left to it."""
    insert = sqlite.insert if db.dialect.name == "sqlite" else postgresql.insert
    await db.execute(insert(CHECKPOINT).values(**msgspec.structs.asdict(checkpoint)).on_conflict_do_nothing())


async def checkpoints(db: AsyncConnection) -> list[Checkpoint]:
    """Return all checkpoints, oldest first."""
    rows = await db.execute(sa.select(CHECKPOINT).order_by(CHECKPOINT.c.position))
    return [Checkpoint(**row) for row in rows.mappings()]


async def newest_checkpoint(db: AsyncConnection) -> Checkpoint | None:
    """Return the checkpoint that covers most."""
    row = (await db.execute(sa.select(CHECKPOINT).order_by(CHECKPOINT.c.position.desc()).limit(1))).mappings().first()
    return None if row is None else Checkpoint(**row)


async def moments(
    database: Database,
    *,
    up_to: int,
    since: datetime | None = None,
    until: datetime | None = None,
    case_id: str | None = None,
) -> AsyncIterator[list[Moment]]:
    """Yield the entries up to a position, in order and a page at a time; `since` is included, `until` is not.

    Each page is a reading of its own: whoever takes them slowly holds up nobody, and what was written is not changed.
    """
    wanted = (
        sa.select(AUDIT, PERSONAL.c.ip, PERSONAL.c.user_agent)
        .outerjoin(PERSONAL, PERSONAL.c.position == AUDIT.c.position)
        .where(AUDIT.c.position <= up_to)
        .order_by(AUDIT.c.position)
        .limit(PAGE)
    )
    if since is not None:
        wanted = wanted.where(AUDIT.c.at >= since)
    if until is not None:
        wanted = wanted.where(AUDIT.c.at < until)
    if case_id:
        wanted = wanted.where(AUDIT.c.case_id == case_id)
    position = 0
    while True:
        async with database.reading() as db:
            rows: list[Any] = list(await db.execute(wanted.where(AUDIT.c.position > position)))
        if rows:
            yield [Moment(link_of(row), row.ip, row.user_agent) for row in rows]
        if len(rows) < PAGE:
            return
        position = rows[-1].position


async def erase_personal_of(db: AsyncConnection, actor: str) -> int:
    """Erase the personal data of one person's entries; return how many lost theirs. Case does not matter."""
    theirs = sa.select(AUDIT.c.position).where(sa.func.lower(AUDIT.c.actor) == sa.func.lower(actor))
    return (await db.execute(sa.delete(PERSONAL).where(PERSONAL.c.position.in_(theirs)))).rowcount
