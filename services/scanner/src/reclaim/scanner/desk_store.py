"""All SQL of the service desks that were heard of. Those that are gone are kept: no late word brings them back."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from msgspec.structs import asdict
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import DeskChanged
from reclaim.common.db import insert_many
from reclaim.scanner.desks import Desk
from reclaim.scanner.store import metadata

DESKS = sa.Table(
    "desks",
    metadata,
    sa.Column("desk_id", sa.Text, primary_key=True),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("asks", sa.Boolean, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("removed", sa.Boolean, nullable=False),
)

_DESK = [DESKS.c[name] for name in Desk.__dataclass_fields__]


async def learn(db: AsyncConnection, changes: Sequence[DeskChanged]) -> None:
    """Store what was said of desks, in whatever order it came: the newest version of each is kept."""
    newest = {change.desk_id: change for change in sorted(changes, key=lambda change: change.version)}
    rows = [asdict(change) for _desk_id, change in sorted(newest.items())]
    await insert_many(db, DESKS, rows, replacing=("desk_id",), unless_newer="version")


async def desks(db: AsyncConnection) -> list[Desk]:
    """Return every desk that was ever heard of, by its id."""
    return [Desk(*row) for row in (await db.execute(sa.select(*_DESK).order_by(DESKS.c.desk_id))).tuples()]
