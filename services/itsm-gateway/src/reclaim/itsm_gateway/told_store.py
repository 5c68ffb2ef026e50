"""All SQL of what was said about service desks, which outlives them: a desk that was removed keeps its count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from msgspec.structs import asdict, replace
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import DeskChanged
from reclaim.common.db import insert_many
from reclaim.itsm_gateway.store import metadata
from reclaim.itsm_gateway.ticket_store import DESK

DESK_TOLD = sa.Table(
    "desk_told",
    metadata,
    sa.Column("desk_id", sa.Text, primary_key=True),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("asks", sa.Boolean, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("removed", sa.Boolean, nullable=False),
)
"""What was said last of each desk, as `DeskChanged` has it."""

_TOLD = [DESK_TOLD.c[name] for name in DeskChanged.__struct_fields__]
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('reclaim.itsm_gateway.desk_told'))")


async def lock(db: AsyncConnection) -> None:
    """Let nobody else say anything of desks until the transaction ends."""
    if db.dialect.name == "postgresql":
        await db.execute(_LOCK)


async def untold(db: AsyncConnection) -> list[DeskChanged]:
    """Return what is to be said of desks that are otherwise than was said last, by their ids."""
    told = {one["desk_id"]: DeskChanged(**one) for one in (await db.execute(sa.select(*_TOLD))).mappings()}
    changes = {
        desk_id: replace(before, asks=False, version=before.version + 1, removed=True)
        for desk_id, before in told.items()
        if not before.removed
    }
    for desk_id, platform, asks in (await db.execute(sa.select(DESK.c.id, DESK.c.platform, DESK.c.asks))).tuples():
        before = told.get(desk_id)
        now = DeskChanged(desk_id=desk_id, platform=platform, asks=asks, version=before.version if before else 0)
        changes.pop(desk_id, None)
        if now != before:
            changes[desk_id] = replace(now, version=now.version + 1)
    return [change for _desk_id, change in sorted(changes.items())]


async def remember(db: AsyncConnection, changes: Sequence[DeskChanged]) -> None:
    """Store what is said of desks."""
    await insert_many(db, DESK_TOLD, [asdict(change) for change in changes], replacing=("desk_id",))
