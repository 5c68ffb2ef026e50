"""All SQL of profiles: what each connection was found to offer, and the rule that was made for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import UtcDateTime, among, insert_many
from reclaim.common.ids import new_id
from reclaim.scanner.known_seats import KNOWN_SEATS
from reclaim.scanner.store import CONNECTIONS, PRESENT, RULES, metadata
from reclaim.scanner.sync_store import SYNCS
from reclaim.scanner.usage_store import REPORTS

How = Literal["direct", "sso"]

PROFILES = sa.Table(
    "profiles",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("how", sa.Text, nullable=False),
    # Of a direct profile the product's key, of an application its id in the tenant.
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("seats_connection_id", sa.Text, nullable=False, index=True),
    sa.Column("product", sa.Text, nullable=False),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("ended_why", sa.Text),
    # Of an application: for which time every sign-in is kept, and until when some of them named nobody.
    sa.Column("covered_since", UtcDateTime),
    sa.Column("covered_until", UtcDateTime),
    sa.Column("hidden_until", UtcDateTime),
    sa.UniqueConstraint("connection_id", "key", name="profiles_once"),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """One product of a connection with seats (`direct`), or one application of a sign-in log (`sso`), and its rule.

    `seats_connection_id` and `product` say whose use it is about. `ended_at` is set once it was taken away; its rule
    stays. `covered_since` and `covered_until` bound the time of which every sign-in is kept; until `hidden_until` some
    of them named nobody.
    """

    id: str
    connection_id: str
    how: How
    key: str
    name: str
    seats_connection_id: str
    product: str
    rule_id: str
    added_by: str
    added_at: datetime
    ended_at: datetime | None = None
    ended_why: str | None = None
    covered_since: datetime | None = None
    covered_until: datetime | None = None
    hidden_until: datetime | None = None


_COLUMNS: Final = tuple(Profile.__dataclass_fields__)


def _profile(row: Any) -> Profile:
    return Profile(**{name: getattr(row, name) for name in _COLUMNS})


async def profiles(db: AsyncConnection, connection_id: str | None = None, *, ended: bool = True) -> list[Profile]:
    """Return the profiles of one connection, or of all, by name; `ended` ones as well, unless told otherwise."""
    chosen = sa.select(PROFILES).order_by(PROFILES.c.name, PROFILES.c.id)
    if connection_id is not None:
        chosen = chosen.where(PROFILES.c.connection_id == connection_id)
    if not ended:
        chosen = chosen.where(PROFILES.c.ended_at.is_(None))
    return [_profile(row) for row in await db.execute(chosen)]


async def find(db: AsyncConnection, connection_id: str, key: str) -> Profile | None:
    """Return the profile that was made for something of a connection, if there is one; it may have ended."""
    one = sa.and_(PROFILES.c.connection_id == connection_id, PROFILES.c.key == key)
    row = (await db.execute(sa.select(PROFILES).where(one))).one_or_none()
    return None if row is None else _profile(row)


async def of_rule(db: AsyncConnection, rule_id: str) -> Profile | None:
    """Return the profile that a rule was made for; None for one that a person made."""
    row = (await db.execute(sa.select(PROFILES).where(PROFILES.c.rule_id == rule_id).limit(1))).one_or_none()
    return None if row is None else _profile(row)


async def put(
    db: AsyncConnection,
    connection_id: str,
    key: str,
    *,
    how: How,
    name: str,
    seats_id: str,
    product: str,
    rule_id: str,
    by: str,
    now: datetime,
) -> None:
    """Add a profile, or begin one anew that had ended."""
    row = {
        "id": new_id(),
        "connection_id": connection_id,
        "key": key,
        "how": how,
        "name": name,
        "seats_connection_id": seats_id,
        "product": product,
        "rule_id": rule_id,
        "added_by": by,
        "added_at": now,
        "ended_at": None,
        "ended_why": None,
    }
    await insert_many(db, PROFILES, [row], replacing=("connection_id", "key"), keeping=("id",))


async def change(db: AsyncConnection, profile_id: str, **values: Any) -> None:
    """Set columns of one profile."""
    await db.execute(sa.update(PROFILES).where(PROFILES.c.id == profile_id).values(values))


async def hide(db: AsyncConnection, profile_id: str, until: datetime) -> None:
    """Remember that somebody signed in without a name before an instant; of several, the latest."""
    later = sa.or_(PROFILES.c.hidden_until.is_(None), PROFILES.c.hidden_until < until)
    await db.execute(sa.update(PROFILES).where(PROFILES.c.id == profile_id, later).values(hidden_until=until))


async def end(db: AsyncConnection, profiles: Collection[Profile], why: str, now: datetime) -> None:
    """Say why profiles are no more; what they had covered counts for nothing from now on."""
    ids = [profile.id for profile in profiles]
    await db.execute(
        sa.update(PROFILES)
        .where(among(PROFILES.c.id, ids), PROFILES.c.ended_at.is_(None))
        .values(ended_at=now, ended_why=why, covered_since=None, covered_until=None, hidden_until=None)
    )


async def forget_reports(db: AsyncConnection, source: str, products: Collection[str]) -> None:
    """Let a source vouch for nothing any more that it said of some products; records of use stay."""
    await db.execute(sa.delete(REPORTS).where(REPORTS.c.source == source, among(REPORTS.c.product, products)))


async def about_other_seats(
    db: AsyncConnection, connection_id: str, products: Collection[str]
) -> frozenset[tuple[str, str]]:
    """Return the (source, product) of sign-in logs that tell about another connection's seats of some products."""
    rows = await db.execute(
        sa.select(SYNCS.c.source, PROFILES.c.product)
        .join(SYNCS, sa.and_(SYNCS.c.connection_id == PROFILES.c.connection_id, SYNCS.c.what == "usage"))
        .where(
            PROFILES.c.how == "sso",
            PROFILES.c.ended_at.is_(None),
            PROFILES.c.seats_connection_id != connection_id,
            among(PROFILES.c.product, products),
        )
    )
    return frozenset((row.source, row.product) for row in rows)


async def lock_around(db: AsyncConnection, connection_id: str, *more: str) -> None:
    """Keep scans from opening cases on a connection, and on those whose seats its profiles are about.

    In the order of their ids, as everybody does who locks several.
    """
    about = sa.select(PROFILES.c.seats_connection_id).where(PROFILES.c.connection_id == connection_id)
    wanted = sa.or_(among(CONNECTIONS.c.id, {connection_id, *more}), CONNECTIONS.c.id.in_(about))
    await db.execute(sa.select(CONNECTIONS.c.id).where(wanted).order_by(CONNECTIONS.c.id).with_for_update())


async def holders_of(db: AsyncConnection, product: str, *, but: str) -> Sequence[str]:
    """Return the names of other connections that are known to have seats of a product."""
    seen = sa.select(KNOWN_SEATS.c.connection_id).where(KNOWN_SEATS.c.product == product)
    offered = sa.select(PROFILES.c.connection_id).where(
        PROFILES.c.product == product, PROFILES.c.how == "direct", PROFILES.c.ended_at.is_(None)
    )
    there = CONNECTIONS.c.id.in_(sa.union(seen, offered))
    chosen = sa.select(CONNECTIONS.c.name).where(there, PRESENT, CONNECTIONS.c.id != but).order_by(CONNECTIONS.c.name)
    return list((await db.execute(chosen)).scalars())


async def free_name(db: AsyncConnection, wanted: str) -> str:
    """Return a name that no rule has: the wanted one, or that with a number."""
    taken = set((await db.execute(sa.select(RULES.c.name_key))).scalars())
    name, number = wanted, 1
    while name.casefold() in taken:
        number += 1
        name = f"{wanted} ({number})"
    return name
