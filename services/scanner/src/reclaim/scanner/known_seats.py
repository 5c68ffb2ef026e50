"""The register: every seat as it was last read, when it was first seen, and what is known of who works for whom.

It is what a filter in SQL runs over, and where the clock of a seat that was never used starts if its assignment has no
date. A scan that reads a page of seats writes it here (`remember`), and the groups that were asked for
(`set_members`).
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import Money
from reclaim.common.db import Amount, UtcDateTime, among, insert_many
from reclaim.connectors.ports import Members, SeatRecord
from reclaim.scanner.filters.fields import Kind
from reclaim.scanner.filters.memory import FieldValue, Row, Superiors
from reclaim.scanner.filters.sql import Expression, Source, compile_sql
from reclaim.scanner.filters.tree import Condition, Related, walk
from reclaim.scanner.store import metadata

KNOWN_SEATS = sa.Table(
    "known_seats",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("holder_id", sa.Text, primary_key=True),
    sa.Column("device_id", sa.Text, primary_key=True),  # empty for a subscription
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("product_name", sa.Text, nullable=False),
    sa.Column("holder_name", sa.Text, nullable=False),
    sa.Column("holder_email", sa.Text),
    # By what usage records name the holder, see `usage.user_key`.
    sa.Column("holder_key", sa.Text, nullable=False),
    sa.Column("email_key", sa.Text),
    sa.Column("department", sa.Text),
    sa.Column("account_type", sa.Text),
    sa.Column("active", sa.Boolean),
    sa.Column("account_created_at", UtcDateTime),
    sa.Column("manager_id", sa.Text),
    sa.Column("manager_name", sa.Text),
    sa.Column("manager_email", sa.Text),
    # Whether that account could answer; none where there is no manager, or nobody has read it yet.
    sa.Column("manager_able", sa.Boolean),
    sa.Column("price", Amount),
    sa.Column("currency", sa.Text),
    sa.Column("granted_at", UtcDateTime),
    sa.Column("version", sa.Text),
    sa.Column("device_name", sa.Text),
    sa.Column("device_platform", sa.Text),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("first_seen_at", UtcDateTime, nullable=False),
    sa.Column("last_seen_at", UtcDateTime, nullable=False),
    # It was gone before it was first seen, so that use from before was of another grant.
    sa.Column("returned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("known_seats_holder_key", "holder_key"),
    sa.Index("known_seats_email_key", "email_key"),
)

READINGS = sa.Table(
    "readings",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("read_at", UtcDateTime, nullable=False),
)
"""When all seats of a product were last listed to the end: one that was not seen since then was gone."""

PEOPLE = sa.Table(
    "people",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("email", sa.Text),
    # Not known: who is only known as somebody's manager. Known and without a manager: the top.
    sa.Column("manager_known", sa.Boolean, nullable=False),
    sa.Column("manager_id", sa.Text),
    sa.Index("people_manager", "connection_id", "manager_id"),
)

GROUPS = sa.Table(
    "groups",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("read_at", UtcDateTime, nullable=False),
    # Whether all of its members are known: who is not listed then is not in it.
    sa.Column("whole", sa.Boolean, nullable=False),
)
"""The groups that a filter or an exclusion named when they were last read."""

MEMBERSHIPS = sa.Table(
    "memberships",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("person_id", sa.Text, primary_key=True),
    sa.Column("group_name", sa.Text, primary_key=True),
)

_SEAT_KEY: Final = ("connection_id", "product", "holder_id", "device_id")


def user_key(name: str) -> str:
    """Return the form in which names of users are compared: addresses and domain accounts have no case, ids do."""
    name = name.strip()
    return name.casefold() if "@" in name or "\\" in name else name


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSeat:
    """One seat as it was read. `granted_at` is when it was assigned or installed, None if nobody says."""

    product: str
    product_name: str
    holder_id: str
    holder_name: str
    kind: Kind = "subscription"
    device_id: str = ""
    holder_email: str | None = None
    department: str | None = None
    account_type: str | None = None
    active: bool | None = None
    account_created_at: datetime | None = None
    manager_id: str | None = None
    manager_name: str | None = None
    manager_email: str | None = None
    manager_able: bool | None = None
    price: Decimal | None = None
    currency: str | None = None
    granted_at: datetime | None = None
    version: str | None = None
    device_name: str | None = None
    device_platform: str | None = None
    last_used_at: datetime | None = None
    first_seen_at: datetime | None = None
    returned: bool = False

    @property
    def held_since(self) -> datetime | None:
        """Since when the holder has it, as far as that is certain: use from before does not bear on it."""
        return self.granted_at or (self.first_seen_at if self.returned else None)


def of_record(seat: SeatRecord, price: Money | None) -> KnownSeat:
    """Return what was read of a seat; most connected systems do not keep when it was assigned."""
    manager = seat.manager.person if seat.manager else None
    return KnownSeat(
        product=seat.product,
        product_name=seat.product_name,
        holder_id=seat.holder.id,
        holder_name=seat.holder.name,
        kind="installed" if seat.device else "subscription",
        device_id=seat.device,
        granted_at=seat.assigned_at,
        version=seat.version,
        # A feed has one name for a device, by which it tells it apart as well.
        device_name=seat.device or None,
        device_platform=seat.platform,
        holder_email=seat.holder.email,
        department=seat.department,
        # There is no account behind what is installed.
        account_type=None if seat.device else seat.usage_type,
        active=None if seat.device else seat.active,
        account_created_at=None if seat.device else seat.created_at,
        manager_id=manager.id if manager else None,
        manager_name=manager.name if manager else None,
        manager_email=manager.email if manager else None,
        manager_able=seat.manager.able if seat.manager else None,
        price=price.amount if price else None,
        currency=price.currency if price else None,
        last_used_at=seat.last_used_at,
    )


_COMMON_PATHS: Final = {
    "user/id": "holder_id",
    "user/name": "holder_name",
    "user/email": "holder_email",
    "user/department": "department",
    "user/type": "account_type",
    "user/active": "active",
    "user/created_at": "account_created_at",
    "user/manager/id": "manager_id",
    "user/manager/name": "manager_name",
    "user/manager/email": "manager_email",
    "product/id": "product",
    "product/name": "product_name",
    "price": "price",
    "currency": "currency",
    "first_seen_at": "first_seen_at",
    "last_used_at": "last_used_at",
}

PATHS: Final[Mapping[Kind, Mapping[str, str]]] = {
    "subscription": {**_COMMON_PATHS, "assigned_at": "granted_at"},
    "installed": {
        **_COMMON_PATHS,
        "installed_at": "granted_at",
        "version": "version",
        "device/id": "device_id",
        "device/name": "device_name",
        "device/platform": "device_platform",
    },
}
"""Where the fields of a filter are found: a column of the register, an attribute of `KnownSeat`."""


# ------------------------------------------------------------------------------------------------ writing

_MISSED: Final = sa.exists().where(
    READINGS.c.connection_id == KNOWN_SEATS.c.connection_id,
    READINGS.c.product == KNOWN_SEATS.c.product,
    READINGS.c.read_at > KNOWN_SEATS.c.last_seen_at,
)
"""Whether a whole reading did not find a seat since it was last seen."""


async def remember(db: AsyncConnection, connection_id: str, seats: Sequence[KnownSeat], now: datetime) -> None:
    """Take note of a page of seats: what was known of them is replaced, but for when they were first seen.

    One that a whole reading did not find since it was last seen was gone, and counts as first seen now. What an older
    reading says of a seat does not replace what a newer one said.
    """
    rows = {(seat.product, seat.holder_id, seat.device_id): _seat_row(seat, now) for seat in seats}
    await db.execute(
        sa.update(KNOWN_SEATS)
        .where(
            KNOWN_SEATS.c.connection_id == connection_id,
            among(KNOWN_SEATS.c.product, {seat.product for seat in seats}),
            among(KNOWN_SEATS.c.holder_id, {seat.holder_id for seat in seats}),
            KNOWN_SEATS.c.last_seen_at < now,
            _MISSED,
        )
        .values(first_seen_at=now, returned=True)
    )
    await insert_many(
        db,
        KNOWN_SEATS,
        list(rows.values()),
        same={"connection_id": connection_id, "last_seen_at": now},
        replacing=_SEAT_KEY,
        keeping=("first_seen_at", "returned"),
        unless_newer="last_seen_at",
    )
    people = {
        seat.holder_id: {
            "id": seat.holder_id,
            "email": seat.holder_email,
            "manager_known": True,
            "manager_id": seat.manager_id,
        }
        for seat in seats
        # A feed of installations names people, and not who is above them.
        if seat.kind == "subscription" or seat.manager_id is not None
    }
    await insert_many(
        db,
        PEOPLE,
        list(people.values()),
        same={"connection_id": connection_id},
        replacing=("connection_id", "id"),
    )
    above = {
        seat.manager_id: {
            "id": seat.manager_id,
            "email": seat.manager_email,
            "manager_known": False,
            "manager_id": None,
        }
        for seat in seats
        if seat.manager_id is not None and seat.manager_id not in people
    }
    await insert_many(
        db,
        PEOPLE,
        list(above.values()),
        same={"connection_id": connection_id},
        replacing=("connection_id", "id"),
        keeping=("email", "manager_known", "manager_id"),
    )


async def end_reading(db: AsyncConnection, connection_id: str, products: Collection[str], now: datetime) -> None:
    """Take note that all seats of some products were listed, each remembered as of `now`."""
    rows = [{"product": product} for product in sorted(set(products))]
    await insert_many(
        db,
        READINGS,
        rows,
        same={"connection_id": connection_id, "read_at": now},
        replacing=("connection_id", "product"),
        unless_newer="read_at",
    )


_SEAT_COLUMNS: Final = tuple(part.name for part in fields(KnownSeat))
_seat_values: Final = attrgetter(*_SEAT_COLUMNS)


def _seat_row(seat: KnownSeat, now: datetime) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(_SEAT_COLUMNS, _seat_values(seat), strict=True))
    row["first_seen_at"] = seat.first_seen_at or now
    row["holder_key"] = user_key(seat.holder_id)
    row["email_key"] = user_key(seat.holder_email) if seat.holder_email else None
    return row


@dataclass(frozen=True, slots=True, order=True)
class Since:
    """When a seat was first seen, and whether it had been gone before."""

    at: datetime
    returned: bool


@dataclass(slots=True)
class Unwritten:
    """The seats of a reading that the register does not take note of, as a preview's, and when they were read.

    What a scan would write of them, since when they are there, counts all the same. Held in memory for as long as the
    reading takes: about 400 bytes a seat.
    """

    now: datetime
    seats: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def add(self, page: Sequence[SeatRecord]) -> None:
        """Take in a page of seats, as the connected system lists them."""
        for seat in page:
            self.seats.setdefault(seat.holder.id, set()).add((seat.product, seat.device))


async def first_seen(
    db: AsyncConnection, connection_id: str, ids: Collection[str], unwritten: Unwritten | None = None
) -> dict[tuple[str, str, str], Since]:
    """Return when the seats of some holders were first seen, by product, holder and device (empty without one).

    Of those that were just read and not written down, it is what `remember` would write.
    """
    rows = await db.execute(
        sa.select(
            KNOWN_SEATS.c.product,
            KNOWN_SEATS.c.holder_id,
            KNOWN_SEATS.c.device_id,
            KNOWN_SEATS.c.first_seen_at,
            KNOWN_SEATS.c.returned,
            _MISSED.label("missed"),
        ).where(KNOWN_SEATS.c.connection_id == connection_id, among(KNOWN_SEATS.c.holder_id, ids))
    )
    there = unwritten.seats if unwritten is not None else {}
    found = {}
    if unwritten is not None:
        new = Since(unwritten.now, returned=False)
        found = {(product, one, device): new for one in ids for product, device in there.get(one, ())}
    for row in rows:
        came_back = row.missed and (row.product, row.device_id) in there.get(row.holder_id, ())
        known = Since(row.first_seen_at, row.returned)
        found[row.product, row.holder_id, row.device_id] = (
            Since(unwritten.now, returned=True) if came_back and unwritten is not None else known
        )
    return found


async def products(db: AsyncConnection, connection_id: str, about: Collection[str]) -> frozenset[str]:
    """Return of which of some products a connection is known to list seats."""
    rows = await db.execute(
        sa.select(KNOWN_SEATS.c.product)
        .where(KNOWN_SEATS.c.connection_id == connection_id, among(KNOWN_SEATS.c.product, about))
        .distinct()
    )
    return frozenset(rows.scalars())


async def set_members(db: AsyncConnection, connection_id: str, groups: Mapping[str, Members], now: datetime) -> None:
    """Replace who is in some groups, by name; of one that is in doubt only those are kept who certainly are."""
    if not groups:
        return
    # First of all, as it locks the groups: two readings at once would both delete, and both insert the same members.
    await insert_many(
        db,
        GROUPS,
        [{"name": name, "whole": not groups[name].doubt} for name in sorted(groups)],
        same={"connection_id": connection_id, "read_at": now},
        replacing=("connection_id", "name"),
    )
    named = among(MEMBERSHIPS.c.group_name, groups)
    await db.execute(sa.delete(MEMBERSHIPS).where(MEMBERSHIPS.c.connection_id == connection_id, named))
    rows = [{"person_id": one, "group_name": name} for name, members in groups.items() for one in sorted(members.ids)]
    await insert_many(db, MEMBERSHIPS, rows, same={"connection_id": connection_id})


# ------------------------------------------------------------------------------------------------ filters in memory


@dataclass(frozen=True, slots=True)
class Holders:
    """What filters may ask about the holders of a page: who is in which group, by the group's name, and who is above
    whom, by the holder's id. What is left out is not known.
    """

    groups: Mapping[str, Members]
    superiors: Mapping[str, Superiors]


@dataclass(slots=True)
class Reporting:
    """Who works for whom by one reading of a connection: it goes before what the register has from earlier ones.

    Held in memory for as long as the reading takes: 46 MB for 200,000 holders.
    """

    managers: dict[str, str | None] = field(default_factory=dict)
    emails: dict[str, str] = field(default_factory=dict)

    def add(self, page: Sequence[SeatRecord]) -> None:
        """Take in the managers of a page of seats."""
        for seat in page:
            above = seat.manager.person if seat.manager is not None else None
            # A feed of installations names people, and not who is above them.
            if above is not None or not seat.device:
                self.managers[seat.holder.id] = None if above is None else sys.intern(above.id)
            for person in (seat.holder, above):
                if person is not None and person.email is not None:
                    self.emails[person.id] = person.email


def filter_row(seat: KnownSeat, holders: Holders | None = None) -> Row:
    """Return a seat as a filter in memory sees it; only filters on groups and reporting lines need `holders`."""
    values: dict[str, FieldValue] = {path: getattr(seat, name) for path, name in PATHS[seat.kind].items()}
    if holders is None:
        return Row(values)
    groups = {name: members.has(seat.holder_id) for name, members in holders.groups.items()}
    return Row(values, groups, holders.superiors.get(seat.holder_id))


def asks_about_superiors(tree: Condition) -> bool:
    """Whether a filter asks who reports to whom."""
    return any(isinstance(node, Related) and node.how == "reports_to" for node, _ in walk(tree))


def named_groups(tree: Condition) -> frozenset[str]:
    """Return the groups that a filter names."""
    return frozenset(node.name for node, _ in walk(tree) if isinstance(node, Related) and node.how == "in_group")


@dataclass(frozen=True, slots=True)
class _Person:
    """Who is above somebody, if that is known, and what they are called beside their id."""

    email: str | None
    manager_known: bool
    manager_id: str | None


async def superiors(
    db: AsyncConnection, connection_id: str, ids: Collection[str], reading: Reporting | None = None
) -> dict[str, Superiors]:
    """Return the reporting lines of some holders, by at most a statement for each level of the hierarchy.

    Who was read in `reading` has the manager that they have there, and everybody else the one that the register knows.
    """
    known: dict[str, _Person] = {}
    asked: set[str] = set()
    wanted = set(ids)
    own = reading or Reporting()
    while wanted:
        asked |= wanted
        rows = await db.execute(
            sa.select(PEOPLE).where(PEOPLE.c.connection_id == connection_id, among(PEOPLE.c.id, wanted))
        )
        found = {row.id: _Person(row.email, row.manager_known, row.manager_id) for row in rows}
        for one in wanted:
            if one in own.managers:
                found[one] = _Person(own.emails.get(one), manager_known=True, manager_id=own.managers[one])
            elif one in own.emails:
                before = found.get(one) or _Person(None, manager_known=False, manager_id=None)
                found[one] = replace(before, email=own.emails[one])
        known.update(found)
        wanted = {one.manager_id for one in found.values() if one.manager_id is not None} - asked
    return {person: _above(person, known) for person in ids if person in known}


def _above(person: str, known: Mapping[str, _Person]) -> Superiors:
    names: set[str] = set()
    passed = set()
    at = person
    while at not in passed:
        passed.add(at)
        row = known.get(at)
        if row is None or not row.manager_known:
            return Superiors(frozenset(names), complete=False)
        if row.manager_id is None:
            break
        at = row.manager_id
        names.add(at)
        if at in known and (email := known[at].email) is not None:
            names.add(email)
    return Superiors(frozenset(names))


# ------------------------------------------------------------------------------------------------ filters in SQL


def source(db: AsyncConnection, kind: Kind) -> Source:
    """Return where a filter over the register finds its fields."""
    columns: dict[str, sa.ColumnElement[Any]] = {path: KNOWN_SEATS.c[name] for path, name in PATHS[kind].items()}
    return Source(db.dialect.name, columns, _in_group, _reports_to)


def _in_group(name: str) -> Expression:
    listed = _there(MEMBERSHIPS, MEMBERSHIPS.c.person_id, MEMBERSHIPS.c.group_name == name)
    whole = sa.select(GROUPS.c.connection_id).where(GROUPS.c.name == name, GROUPS.c.whole)
    return sa.case((listed, sa.true()), (KNOWN_SEATS.c.connection_id.in_(whole), sa.false()))


def _reports_to(name: str) -> Expression:
    below, unsure = _below(name), _unsure()
    return sa.case(
        (_there(below, below.c.id), sa.true()),
        (sa.or_(~_there(PEOPLE, PEOPLE.c.id), _there(unsure, unsure.c.id)), sa.null()),
        else_=sa.false(),
    )


def _there(table: sa.FromClause, person: sa.ColumnElement[str], *more: Expression) -> Expression:
    """Whether a table has a row for the holder of the seat. Not correlated: it is read once, not for every seat."""
    chosen = sa.select(table.c.connection_id, person).where(*more)
    return sa.tuple_(KNOWN_SEATS.c.connection_id, KNOWN_SEATS.c.holder_id).in_(chosen)


def _below(name: str) -> sa.CTE:
    """Return everybody who reports to somebody, directly or through others. A circle ends: no row comes in twice."""
    person, boss = PEOPLE.alias(), PEOPLE.alias()
    named = sa.exists().where(
        boss.c.connection_id == person.c.connection_id, boss.c.id == person.c.manager_id, boss.c.email == name
    )
    first = sa.select(person.c.connection_id, person.c.id).where(sa.or_(person.c.manager_id == name, named))
    return _with_those_below(first)


def _unsure() -> sa.CTE:
    """Return everybody whose line leads to somebody of whom nobody knows who is above."""
    person, boss = PEOPLE.alias(), PEOPLE.alias()
    gone = ~sa.exists().where(boss.c.connection_id == person.c.connection_id, boss.c.id == person.c.manager_id)
    first = sa.select(person.c.connection_id, person.c.id).where(
        sa.or_(~person.c.manager_known, sa.and_(person.c.manager_id.is_not(None), gone))
    )
    return _with_those_below(first)


def _with_those_below(first: sa.Select[tuple[str, str]]) -> sa.CTE:
    reached = first.cte(recursive=True)
    person = PEOPLE.alias()
    more = sa.select(person.c.connection_id, person.c.id).join(
        reached, sa.and_(person.c.connection_id == reached.c.connection_id, person.c.manager_id == reached.c.id)
    )
    return reached.union(more)


@dataclass(frozen=True, slots=True)
class Matched:
    """How many seats of the register a filter chooses, leaves, and cannot tell about."""

    chosen: int
    left: int
    unknown: int


async def match(db: AsyncConnection, tree: Condition, kind: Kind, now: datetime) -> Matched:
    """Count what a filter says about the seats that are known."""
    answer = compile_sql(tree, source(db, kind), now)
    counted = sa.select(
        *(sa.func.coalesce(sa.func.sum(sa.case((one, 1), else_=0)), 0) for one in (answer, sa.not_(answer))),
        sa.func.count(),
    ).where(KNOWN_SEATS.c.kind == kind)
    chosen, left, total = (await db.execute(counted)).one()
    return Matched(int(chosen), int(left), int(total) - int(chosen) - int(left))
