"""All SQL of set-ups: how far each connection to a service desk has come, and what was seen on the way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import UtcDateTime
from reclaim.itsm_gateway.delivery_store import WEBHOOK_DELIVERY, Delivery
from reclaim.itsm_gateway.store import metadata

DESK_SETUP = sa.Table(
    "desk_setup",
    metadata,
    sa.Column("desk_id", sa.Text, primary_key=True),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("fields", sa.Text),
    sa.Column("results", sa.Text),
    sa.Column("tested_at", UtcDateTime),
    sa.Column("trial", sa.Text),
    sa.Column("trial_at", UtcDateTime),
    sa.Column("listening_at", UtcDateTime),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False, server_default=""),
    sa.Column("attempt", sa.Text),
)
"""Set-ups. `fields` are what the platform reported, `results` what the test of the connection found, `trial` the test
ticket with what was tried on it: each as JSON. A webhook counts that came after `listening_at`. The `token` tells the
test ticket from those of set-ups before. `attempt` is the ticket on which the test of the connection tries what it
needs, as JSON, until that is closed.
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """A set-up as it stands; `step` is the furthest that was reached."""

    desk_id: str
    platform: str
    step: str
    fields: str | None
    results: str | None
    tested_at: datetime | None
    trial: str | None
    trial_at: datetime | None
    listening_at: datetime | None
    changed_at: datetime
    changed_by: str
    token: str
    attempt: str | None = None


_SETUP = [DESK_SETUP.c[name] for name in Setup.__dataclass_fields__]
_DELIVERY = [WEBHOOK_DELIVERY.c[name] for name in Delivery.__dataclass_fields__]


async def setups(db: AsyncConnection) -> list[Setup]:
    """Return every set-up, by connection."""
    return [Setup(*row) for row in (await db.execute(sa.select(*_SETUP).order_by(DESK_SETUP.c.desk_id))).tuples()]


async def setup(db: AsyncConnection, desk_id: str) -> Setup | None:
    """Return the set-up of a connection, or None."""
    row = (await db.execute(sa.select(*_SETUP).where(DESK_SETUP.c.desk_id == desk_id))).tuples().one_or_none()
    return None if row is None else Setup(*row)


async def begin(db: AsyncConnection, begun: Setup) -> None:
    """Store a new set-up."""
    await db.execute(sa.insert(DESK_SETUP).values({name: getattr(begun, name) for name in Setup.__dataclass_fields__}))


async def change(db: AsyncConnection, desk_id: str, *, by: str, now: datetime, **values: Any) -> None:
    """Change parts of a set-up."""
    await db.execute(
        sa.update(DESK_SETUP).where(DESK_SETUP.c.desk_id == desk_id).values(changed_by=by, changed_at=now, **values)
    )


async def remove(db: AsyncConnection, desk_id: str) -> None:
    """Forget a set-up."""
    await db.execute(sa.delete(DESK_SETUP).where(DESK_SETUP.c.desk_id == desk_id))


async def arrived(db: AsyncConnection, desk_id: str, since: datetime) -> Delivery | None:
    """Return the newest webhook of a connection that came since an instant; what was found by polling is none."""
    row = (
        (
            await db.execute(
                sa.select(*_DELIVERY)
                .where(
                    WEBHOOK_DELIVERY.c.connection_id == desk_id,
                    WEBHOOK_DELIVERY.c.received_at >= since,
                    WEBHOOK_DELIVERY.c.webhook_id.not_like("poll:%"),
                )
                .order_by(WEBHOOK_DELIVERY.c.received_at.desc(), WEBHOOK_DELIVERY.c.number.desc())
                .limit(1)
            )
        )
        .tuples()
        .one_or_none()
    )
    return None if row is None else Delivery(*row)
