"""The SQL of exclusions: what people want left alone, and the open cases that an exclusion covers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import Person, Seat
from reclaim.common.db import UtcDateTime, among
from reclaim.common.errors import Conflict, NotFound
from reclaim.common.ids import new_id
from reclaim.connectors.ports import Members
from reclaim.scanner import catalog_store
from reclaim.scanner.domain import Exclusion, Exclusions, ExclusionTerms, Kin, Names, folded
from reclaim.scanner.known_seats import KNOWN_SEATS, user_key
from reclaim.scanner.store import CANDIDATES, CONNECTIONS, OPEN, PRESENT, metadata

IN_FORCE: Final = sa.text("ended_at IS NULL")

EXCLUSIONS = sa.Table(
    "exclusions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("connection_id", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("ended_by", sa.Text),
    sa.Index("exclusions_in_force", "created_at", sqlite_where=IN_FORCE, postgresql_where=IN_FORCE),
)

_EXCLUSION: Final = sa.select(EXCLUSIONS, CONNECTIONS.c.name.label("connection_name")).outerjoin(
    CONNECTIONS, CONNECTIONS.c.id == EXCLUSIONS.c.connection_id
)


def _exclusion(row: Any) -> Exclusion:
    return Exclusion(
        id=row.id,
        kind=row.kind,
        value=row.value,
        connection_id=row.connection_id,
        connection_name=row.connection_name,
        reason=row.reason,
        author=row.author,
        created_at=row.created_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
    )


async def exclusions(db: AsyncConnection, now: datetime, *, past: bool = False) -> list[Exclusion]:
    """Return the exclusions that are in force, the newest first; with `past` those that are over instead."""
    over = sa.or_(EXCLUSIONS.c.ended_at.is_not(None), EXCLUSIONS.c.expires_at <= now)
    query = _EXCLUSION.where(over if past else _holds(now))
    rows = await db.execute(query.order_by(EXCLUSIONS.c.created_at.desc(), EXCLUSIONS.c.id.desc()))
    return [_exclusion(row) for row in rows]


async def on(
    db: AsyncConnection, connection_id: str, now: datetime, groups: Mapping[str, Members] | None = None
) -> Exclusions:
    """Return what is excluded on one connection at an instant; a product with what it goes with.

    `groups` are its groups as they were just read; whoever a group that is left out may have in it counts as excluded.
    """
    rows = await db.execute(
        _EXCLUSION.where(
            _holds(now),
            sa.or_(EXCLUSIONS.c.connection_id.is_(None), EXCLUSIONS.c.connection_id == connection_id),
        ).order_by(EXCLUSIONS.c.created_at, EXCLUSIONS.c.id)
    )
    found = [_exclusion(row) for row in rows]
    return Exclusions(found, connection_id, now, await kin(db, found), await names(db, found), groups)


async def groups(db: AsyncConnection, connection_id: str, now: datetime) -> frozenset[str]:
    """Return the groups that are excluded on one connection."""
    rows = await db.execute(
        sa.select(EXCLUSIONS.c.value).where(
            _holds(now), EXCLUSIONS.c.kind == "group", EXCLUSIONS.c.connection_id == connection_id
        )
    )
    return frozenset(rows.scalars())


async def kin(db: AsyncConnection, exclusions: Sequence[Exclusion]) -> Kin:
    """Return what goes with the products that exclusions name, see `Exclusions`; read only if one names a product."""
    if not any(one.kind == "product" for one in exclusions):
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for key, name, other in await catalog_store.kindred(db):
        found[folded(key)].add(other)
        found[folded(name)].add(other)
    return found


async def names(db: AsyncConnection, exclusions: Sequence[Exclusion]) -> Names:
    """Return the addresses of the persons that exclusions name by an account, see `Exclusions`."""
    values = {one.value.strip() for one in exclusions if one.kind == "person"}
    if not values:
        return {}
    spelt = {spelling for value in values for spelling in _spellings(value)}
    found: dict[str, set[str]] = defaultdict(set)
    rows = await db.execute(
        sa.select(KNOWN_SEATS.c.holder_id, KNOWN_SEATS.c.email_key)
        .where(among(KNOWN_SEATS.c.holder_key, spelt), KNOWN_SEATS.c.email_key.is_not(None))
        .distinct()
    )
    for row in rows:
        found[folded(row.holder_id)].add(row.email_key)
    return found


async def names_somebody(db: AsyncConnection, exclusion: Exclusion) -> bool:
    """Tell whether a seat that has been read is of the person whom an exclusion names, by id or address."""
    value = exclusion.value.strip()
    spelt = _spellings(value)
    query = sa.select(KNOWN_SEATS.c.holder_id).where(
        sa.or_(
            among(KNOWN_SEATS.c.holder_key, spelt),
            among(KNOWN_SEATS.c.email_key, spelt),
            sa.func.lower(KNOWN_SEATS.c.holder_id) == folded(value),
        )
    )
    if exclusion.connection_id is not None:
        query = query.where(KNOWN_SEATS.c.connection_id == exclusion.connection_id)
    return (await db.execute(query.limit(1))).first() is not None


def _spellings(value: str) -> frozenset[str]:
    return frozenset((user_key(value), value.casefold(), value.upper()))


def _holds(now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(
        EXCLUSIONS.c.ended_at.is_(None), sa.or_(EXCLUSIONS.c.expires_at.is_(None), EXCLUSIONS.c.expires_at > now)
    )


async def exclusion(db: AsyncConnection, exclusion_id: str) -> Exclusion:
    """Return one exclusion; NotFound if there is none of that id."""
    row = (await db.execute(_EXCLUSION.where(EXCLUSIONS.c.id == exclusion_id))).one_or_none()
    if row is None:
        raise NotFound("There is no such exclusion.")
    return _exclusion(row)


async def add(db: AsyncConnection, terms: ExclusionTerms, *, author: str, now: datetime) -> Exclusion:
    """Add an exclusion that holds from now on."""
    exclusion_id = new_id()
    await db.execute(
        sa.insert(EXCLUSIONS).values(
            id=exclusion_id,
            kind=terms.kind,
            value=terms.value,
            connection_id=terms.connection_id,
            reason=terms.reason,
            author=author,
            created_at=now,
            expires_at=terms.expires_at,
        )
    )
    return await exclusion(db, exclusion_id)


async def end(db: AsyncConnection, exclusion_id: str, *, by: str, now: datetime) -> Exclusion:
    """End an exclusion before it expires; Conflict if it is over already."""
    before = await exclusion(db, exclusion_id)
    ended = await db.execute(
        sa.update(EXCLUSIONS)
        .where(EXCLUSIONS.c.id == exclusion_id, EXCLUSIONS.c.ended_at.is_(None))
        .values(ended_at=now, ended_by=by)
    )
    if not before.holds(now) or ended.rowcount == 0:
        raise Conflict("This exclusion is over already.")
    return await exclusion(db, exclusion_id)


async def lock_connections(db: AsyncConnection, connection_id: str | None) -> None:
    """Keep scans from opening cases on a connection (None: on any) until the transaction ends.

    A scan holds the same rows, shared, while it opens cases: so either it sees an exclusion that is being added, or
    whoever adds it sees the cases.
    """
    query = sa.select(CONNECTIONS.c.id).where(PRESENT).order_by(CONNECTIONS.c.id).with_for_update()
    if connection_id is not None:
        query = query.where(CONNECTIONS.c.id == connection_id)
    await db.execute(query)


async def share_connection(db: AsyncConnection, connection_id: str) -> None:
    """Keep exclusions from being added to a connection until the transaction ends; scans do not wait for each other."""
    await db.execute(sa.select(CONNECTIONS.c.id).where(CONNECTIONS.c.id == connection_id).with_for_update(read=True))


async def open_seats(
    db: AsyncConnection, *, connection_id: str | None = None, rule_id: str | None = None
) -> Sequence[tuple[str, Seat]]:
    """Return the open cases of a connection, of a rule, or all: (case id, seat), in the order they were flagged."""
    query = sa.select(
        CANDIDATES.c.id,
        CANDIDATES.c.connection_id,
        CANDIDATES.c.product,
        CANDIDATES.c.product_name,
        CANDIDATES.c.holder_id,
        CANDIDATES.c.holder_name,
        CANDIDATES.c.holder_email,
        CANDIDATES.c.department,
        CANDIDATES.c.devices,
    ).where(OPEN)
    if connection_id is not None:
        query = query.where(CANDIDATES.c.connection_id == connection_id)
    if rule_id is not None:
        query = query.where(CANDIDATES.c.rule_id == rule_id)
    return [
        (
            row.id,
            Seat(
                connection_id=row.connection_id,
                product=row.product,
                product_name=row.product_name,
                holder=Person(id=row.holder_id, name=row.holder_name, email=row.holder_email),
                department=row.department,
                devices=tuple(row.devices),
            ),
        )
        for row in await db.execute(query.order_by(CANDIDATES.c.id))
    ]
