"""All SQL of savings: the event log, the reporting tables, and the projection from one to the other.

The log is the record; the reporting tables are arithmetic over it. Both are written in one transaction that holds
the log's head row, so positions have no gaps and no reader ever sees one without the other. A projection is SQL
over a range of positions, the same for the newest batch and for a rebuild, and it only ever adds up or fills in:
the order of the events makes no difference to the result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import migrate
from reclaim.common.db import Amount, UtcDateTime, among, given, insert_many, prepared
from reclaim.common.errors import Transient
from reclaim.savings.domain import SIGN, DayTotal, Entry, Kind, Period, SeatTotal, book

log = logging.getLogger(__name__)

metadata = migrate.service_metadata()

Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that is compared and never read in order: bytes, as on SQLite; a language's order halves the rebuild's speed."""

EVENT_LOG = sa.Table(
    "event_log",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", Id, nullable=False, unique=True),
    sa.Column("case_id", Id, nullable=False),
    sa.Column("kind", Id, nullable=False),
    sa.Column("connection_id", Id, nullable=False),
    sa.Column("product", Id, nullable=False),
    sa.Column("product_name", sa.Text, nullable=False),
    sa.Column("department", Id),
    sa.Column("rule_id", Id),
    sa.Column("rule_name", sa.Text),
    sa.Column("currency", Id),
    sa.Column("monthly", Amount),
    sa.Column("occurred_at", UtcDateTime, nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    # A case passes each stage once: the same fact under a second id is still the same fact.
    sa.UniqueConstraint("case_id", "kind", name="event_log_stage"),
)

LOG_HEAD = sa.Table(
    "log_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)
"""One row: the last position given out. Whoever appends, or swaps the reporting tables, holds it."""

PROJECTION = sa.Table(
    "projection",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)
"""How far the log is projected: `live` into the reporting tables, `rebuild` into the fresh ones."""

REBUILD = sa.Table(
    "rebuild",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", Id, nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("snapshot", sa.BigInteger, nullable=False),
    sa.Column("last_case", Id),
    sa.Column("seat_events", sa.BigInteger, nullable=False),
)
"""At most one row: the latest rebuild. Its state is `requested`, then `seats`, then `days`, then `done`.

`snapshot` is the log's head when it began; seats are done up to `last_case`, which took `seat_events` of the events.
"""


@dataclass(frozen=True)
class Reporting:
    """One set of the tables that a report reads. Empty text stands for a department or currency nobody knows."""

    daily: sa.Table
    seats: sa.Table
    names: sa.Table

    @classmethod
    def named(cls, metadata: sa.MetaData, suffix: str) -> Reporting:
        """Declare a set."""
        return cls(
            daily=sa.Table(
                f"savings_daily{suffix}",
                metadata,
                sa.Column("day", sa.Date, primary_key=True),
                sa.Column("currency", Id, primary_key=True),
                sa.Column("connection_id", Id, primary_key=True),
                sa.Column("product", Id, primary_key=True),
                sa.Column("department", Id, primary_key=True),
                sa.Column("rule_id", Id, primary_key=True),
                sa.Column("seats_freed", sa.BigInteger, nullable=False),
                sa.Column("seats_returned", sa.BigInteger, nullable=False),
                sa.Column("monthly_delta", Amount, nullable=False),
            ),
            seats=sa.Table(
                f"seat_saving{suffix}",
                metadata,
                sa.Column("case_id", Id, primary_key=True),
                sa.Column("state", Id, nullable=False),
                sa.Column("connection_id", Id, nullable=False),
                sa.Column("product", Id, nullable=False),
                sa.Column("department", Id, nullable=False),
                sa.Column("rule_id", Id, nullable=False),
                sa.Column("currency", Id, nullable=False),
                sa.Column("monthly", Amount),
                sa.Column("dry_run", sa.Boolean, nullable=False),
                sa.Column("frozen_at", UtcDateTime),
                sa.Column("restored_at", UtcDateTime),
                sa.Column("reclaimed_at", UtcDateTime),
                sa.Column("reactivated_at", UtcDateTime),
                sa.Column("closed_at", UtcDateTime),
            ),
            names=sa.Table(
                f"savings_name{suffix}",
                metadata,
                sa.Column("kind", Id, primary_key=True),
                sa.Column("id", Id, primary_key=True),
                sa.Column("name", sa.Text, nullable=False),
            ),
        )

    def tables(self) -> tuple[sa.Table, ...]:
        return (self.daily, self.seats, self.names)


LIVE: Final = Reporting.named(metadata, "")
FRESH: Final = Reporting.named(sa.MetaData(), "_fresh")
"""Where a rebuild writes; exists only while one runs, and becomes the live set at its end."""

SWAP_WAITS: Final = "500ms"
"""How long the swap waits for readers of the tables, and lets those who append wait.

Shorter than the second after which PostgreSQL looks for deadlocks: a reader that takes the tables in another order is
never the one that has to go.
"""

LOCK_NOT_AVAILABLE: Final = "55P03"

_ENTRY_FIELDS: Final = [field.name for field in fields(Entry)]
_ENTRY_COLUMNS: Final = [EVENT_LOG.c[name] for name in _ENTRY_FIELDS]


# ------------------------------------------------------------------------------------------------ the log


_LOCK_HEAD: Final = sa.select(LOG_HEAD.c.position).with_for_update()
_MOVE_HEAD: Final = sa.update(LOG_HEAD).values(position=sa.bindparam("upto"))


async def append(db: AsyncConnection, entries: Sequence[Entry]) -> int:
    """Write what is new to the log, project it, and return how many entries that were.

    A constant number of statements for any number of entries.
    """
    head = (await db.execute(_LOCK_HEAD)).scalar_one()
    booking = book(entries, await _entries_of_cases(db, {entry.case_id for entry in entries}))
    for odd in booking.told_twice:
        log.warning("case %s: %s was told again as event %s; booked once", odd.case_id, odd.kind, odd.event_id)
    for odd in booking.corrected:
        log.warning("case %s: %s names another seat or price; booked as the case's first", odd.case_id, odd.kind)
    fresh = booking.fresh
    if not fresh:
        return 0
    upto = head + len(fresh)
    rows = [
        {"position": head + n, "day": entry.day, **{name: getattr(entry, name) for name in _ENTRY_FIELDS}}
        for n, entry in enumerate(fresh, start=1)
    ]
    await insert_many(db, EVENT_LOG, rows)
    await db.execute(_MOVE_HEAD, {"upto": upto})
    await project(db, LIVE, "live", after=head, upto=upto)
    return len(fresh)


_OF_CASES: Final = (
    sa.select(*_ENTRY_COLUMNS).where(among(EVENT_LOG.c.case_id, given("cases"))).order_by(EVENT_LOG.c.position)
)


async def _entries_of_cases(db: AsyncConnection, case_ids: set[str]) -> list[Entry]:
    return [Entry(*row) for row in await db.execute(_OF_CASES, {"cases": case_ids})]


# ------------------------------------------------------------------------------------------------ the projection


async def project(
    db: AsyncConnection, into: Reporting, name: str, *, after: int, upto: int, seats: bool = True
) -> None:
    """Add the log's positions from `after + 1` to `upto` to a set of reporting tables, and record how far it is.

    Without `seats`, for all tables but the one of the seats.
    """
    for table, statement in _projections(db.dialect, into).items():
        if seats or table is not into.seats:
            await db.execute(statement, {"after": after, "upto": upto})
    await db.execute(sa.update(PROJECTION).where(PROJECTION.c.name == name).values(position=upto))


@lru_cache
def _projections(dialect: sa.Dialect, into: Reporting) -> dict[sa.Table, sa.Executable]:
    # Kept, since it takes longer to put such a statement together than to run it for a small batch.
    return {
        into.daily: prepared(_project_daily(dialect.name, into.daily), dialect),
        into.seats: prepared(_project_seats(dialect.name, into.seats), dialect),
        into.names: prepared(_project_names(dialect.name, into.names), dialect),
    }


_SPAN = sa.and_(
    EVENT_LOG.c.position > sa.bindparam("after", type_=sa.BigInteger),
    EVENT_LOG.c.position <= sa.bindparam("upto", type_=sa.BigInteger),
)
# As a literal: PostgreSQL does not see that two bound parameters of a GROUP BY are the same.
_NOTHING = sa.literal_column("''", sa.Text)


def _insert(dialect: str, table: sa.Table) -> Any:
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


def _or_nothing(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(column, _NOTHING)


def daily_rows(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Real reclaims and reactivations, summed by day and dimension."""
    e = EVENT_LOG.c
    dimensions = (
        e.day,
        _or_nothing(e.currency),
        e.connection_id,
        e.product,
        _or_nothing(e.department),
        _or_nothing(e.rule_id),
    )
    return (
        sa.select(
            *dimensions,
            sa.func.sum(sa.case((e.kind == "reclaimed", 1), else_=0)),
            sa.func.sum(sa.case((e.kind == "reactivated", 1), else_=0)),
            sa.func.coalesce(sa.func.sum(e.monthly), sa.literal_column("0")),
        )
        .where(sa.or_(e.kind == "reclaimed", e.kind == "reactivated"), sa.not_(e.dry_run), *where)
        .group_by(*dimensions)
    )


def _project_daily(dialect: str, table: sa.Table) -> Any:
    insert = _insert(dialect, table).from_select([column.name for column in table.c], daily_rows(_SPAN))
    sums = ("seats_freed", "seats_returned", "monthly_delta")
    statement: sa.Executable = insert.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={name: table.c[name] + insert.excluded[name] for name in sums}
    )
    return statement


def seat_rows(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The case of every seat: each stage gives its own instant, and the furthest stage is the state."""
    e = EVENT_LOG.c
    instants = {stage: sa.func.max(sa.case((e.kind == stage, e.occurred_at))) for stage in SIGN}
    return (
        sa.select(
            e.case_id,
            _state(instants),
            sa.func.max(e.connection_id),
            sa.func.max(e.product),
            sa.func.max(_or_nothing(e.department)),
            sa.func.max(_or_nothing(e.rule_id)),
            sa.func.max(_or_nothing(e.currency)),
            sa.func.max(sa.func.abs(e.monthly)),
            sa.func.max(sa.case((e.dry_run, 1), else_=0)) == 1,
            *instants.values(),
        )
        .where(*where)
        .group_by(e.case_id)
    )


def _project_seats(dialect: str, table: sa.Table) -> Any:
    insert = _insert(dialect, table).from_select([column.name for column in table.c], seat_rows(_SPAN))
    filled = {
        stage: sa.func.coalesce(table.c[f"{stage}_at"], insert.excluded[f"{stage}_at"], type_=UtcDateTime)
        for stage in SIGN
    }
    # A freeze names no rule; what came first or comes later does.
    rule = sa.case((table.c.rule_id == "", insert.excluded.rule_id), else_=table.c.rule_id)
    statement: sa.Executable = insert.on_conflict_do_update(
        index_elements=[table.c.case_id],
        set_={"state": _state(filled), "rule_id": rule, **{f"{stage}_at": value for stage, value in filled.items()}},
    )
    return statement


def _state(instants: Mapping[Kind, sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
    return sa.case(
        (instants["reactivated"].is_not(None), "reactivated"),
        (instants["reclaimed"].is_not(None), "freed"),
        (instants["restored"].is_not(None), "restored"),
        (instants["closed"].is_not(None), "closed"),
        else_="frozen",
    )


def name_rows(where: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    """What products and rules are called: the name told last."""

    def latest(kind: str, identity: sa.Column[Any], name: sa.Column[Any]) -> sa.Select[Any]:
        positions = sa.select(sa.func.max(EVENT_LOG.c.position)).where(where, identity.is_not(None)).group_by(identity)
        return sa.select(sa.literal_column(f"'{kind}'", sa.Text).label("kind"), identity, name).where(
            EVENT_LOG.c.position.in_(positions)
        )

    e = EVENT_LOG.c
    return sa.union_all(latest("product", e.product, e.product_name), latest("rule", e.rule_id, e.rule_name))


def _project_names(dialect: str, table: sa.Table) -> Any:
    insert = _insert(dialect, table).from_select([column.name for column in table.c], name_rows(_SPAN))
    statement: sa.Executable = insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={"name": insert.excluded.name},
        # Positions are projected in their order, so a name that differs is a later one; one that does not is no write.
        where=insert.excluded.name != table.c.name,
    )
    return statement


# ------------------------------------------------------------------------------------------------ the rebuild


@dataclass(frozen=True)
class Rebuild:
    """How the latest rebuild stands: `requested`, `running` or `done`, with `position` of `target` steps done.

    Every event of the log is read twice, once for the seats and once for the days.
    """

    state: str
    requested_by: str
    requested_at: datetime
    finished_at: datetime | None
    position: int
    target: int


async def request_rebuild(db: AsyncConnection, requested_by: str, now: datetime) -> bool:
    """Ask for a rebuild; return False if one is under way already."""
    await db.execute(sa.select(LOG_HEAD.c.position).with_for_update())
    state = (await db.execute(sa.select(REBUILD.c.state))).scalar_one_or_none()
    if state not in {None, "done"}:
        return False
    await db.execute(sa.delete(REBUILD))
    await db.execute(
        sa.insert(REBUILD).values(
            id=1, state="requested", requested_by=requested_by, requested_at=now, snapshot=0, seat_events=0
        )
    )
    await _set_rebuilt(db, 0)
    return True


async def rebuild_status(db: AsyncConnection) -> Rebuild | None:
    """Return how the latest rebuild stands, or None if there never was one."""
    row = (await db.execute(sa.select(REBUILD))).one_or_none()
    if row is None:
        return None
    snapshot = row.snapshot if row.state != "requested" else await _head(db)
    position = min(row.seat_events, snapshot) + await _rebuilt(db)
    target = snapshot + max(snapshot, await _head(db))
    state = "running" if row.state in {"seats", "days"} else row.state
    if state == "done":
        position = target = snapshot + await _rebuilt(db)
    return Rebuild(state, row.requested_by, row.requested_at, row.finished_at, position, target)


async def rebuild_step(db: AsyncConnection, chunk: int, now: datetime) -> bool:
    """Do the next part of a rebuild that was asked for; return whether there was one to do.

    One transaction each: fresh tables; then the seats, some cases at a time, each row written once from all events
    of its case; then the days and names, a chunk of positions at a time; and at the end, while nobody can append, what
    has come since, and the swap. A process that dies leaves all that was committed; whoever calls next, in any
    process, goes on from there.
    """
    row = (await db.execute(sa.select(REBUILD).with_for_update(skip_locked=True))).one_or_none()
    if row is None or row.state == "done":
        return False
    if db.dialect.name == "postgresql":
        # So that a chunk is sorted and grouped in memory.
        await db.exec_driver_sql("SET LOCAL work_mem = '64MB'")
    match row.state:
        case "requested":
            await create_fresh(db)
            await db.execute(sa.update(REBUILD).values(state="seats", snapshot=await _head(db)))
        case "seats":
            await _rebuild_seats(db, row.snapshot, row.last_case, chunk)
        case _:
            await _rebuild_days(db, row.snapshot, chunk, now)
    return True


async def _rebuild_seats(db: AsyncConnection, snapshot: int, last_case: str | None, chunk: int) -> None:
    e = EVENT_LOG.c
    beyond = sa.true() if last_case is None else e.case_id > last_case
    some = sa.select(e.case_id).where(beyond).order_by(e.case_id).limit(chunk).subquery()
    upto, events = (await db.execute(sa.select(sa.func.max(some.c.case_id), sa.func.count()))).one()
    if upto is None:
        await db.execute(sa.update(REBUILD).values(state="days"))
        return
    # In order, so that the rows go to the end of the table's index one after the other.
    rows = seat_rows(beyond, e.case_id <= upto, e.position <= snapshot).order_by(e.case_id)
    await db.execute(sa.insert(FRESH.seats).from_select([column.name for column in FRESH.seats.c], rows))
    await db.execute(sa.update(REBUILD).values(last_case=upto, seat_events=REBUILD.c.seat_events + events))


async def _rebuild_days(db: AsyncConnection, snapshot: int, chunk: int, now: datetime) -> None:
    done = await _rebuilt(db)
    # What has come since the snapshot is in no fresh table yet, so that it goes through the whole projection.
    seats = done >= snapshot
    # Every position up to the head is visible: the head moves in the transaction that wrote them.
    end = await _head(db) if seats else snapshot
    if end - done > chunk:
        await project(db, FRESH, "rebuild", after=done, upto=done + chunk, seats=seats)
        return
    if not seats:
        await project(db, FRESH, "rebuild", after=done, upto=snapshot, seats=False)
        done = snapshot
    head = (await db.execute(sa.select(LOG_HEAD.c.position).with_for_update())).scalar_one()
    await project(db, FRESH, "rebuild", after=done, upto=head)
    await _swap(db)
    await db.execute(sa.update(REBUILD).values(state="done", finished_at=now))


async def _head(db: AsyncConnection) -> int:
    return int((await db.execute(sa.select(LOG_HEAD.c.position))).scalar_one())


async def _rebuilt(db: AsyncConnection) -> int:
    return int((await db.execute(sa.select(PROJECTION.c.position).where(PROJECTION.c.name == "rebuild"))).scalar_one())


async def _set_rebuilt(db: AsyncConnection, position: int) -> None:
    await db.execute(sa.update(PROJECTION).where(PROJECTION.c.name == "rebuild").values(position=position))


async def create_fresh(db: AsyncConnection) -> None:
    """Make an empty set of tables for a rebuild, in the place of what an earlier one may have left."""

    def create(connection: sa.Connection) -> None:
        for table in FRESH.tables():
            table.drop(connection, checkfirst=True)
            table.create(connection)

    await db.run_sync(create)


async def _swap(db: AsyncConnection) -> None:
    """Put the fresh tables in the place of the live ones, under the views that show them."""
    if db.dialect.name == "sqlite":
        await _swap_sqlite(db)
    else:
        await _swap_postgresql(db)


async def _swap_sqlite(db: AsyncConnection) -> None:
    views = (await db.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))).all()
    for name, _ in views:
        await db.exec_driver_sql(f'DROP VIEW "{name}"')
    for live, fresh in zip(LIVE.tables(), FRESH.tables(), strict=True):
        await db.exec_driver_sql(f"DROP TABLE IF EXISTS {live.name}")
        await db.exec_driver_sql(f"ALTER TABLE {fresh.name} RENAME TO {live.name}")
    for _, definition in views:
        await db.exec_driver_sql(definition)


async def _swap_postgresql(db: AsyncConnection) -> None:
    # A reader's long query must not make every later reader queue behind this: give up and try again instead.
    await db.exec_driver_sql(f"SET LOCAL lock_timeout = '{SWAP_WAITS}'")
    names = [table.name for table in LIVE.tables()]
    views = (
        await db.execute(
            sa.text(
                "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema() AND viewname IN "
                "(SELECT view_name FROM information_schema.view_table_usage "
                " WHERE view_schema = current_schema() AND table_name = ANY(:names))"
            ).bindparams(sa.bindparam("names", names, type_=postgresql.ARRAY(sa.Text)))
        )
    ).all()
    try:
        for live, fresh in zip(LIVE.tables(), FRESH.tables(), strict=True):
            await db.exec_driver_sql(f"ALTER TABLE IF EXISTS {live.name} RENAME TO {live.name}_replaced")
            await db.exec_driver_sql(f"ALTER TABLE {fresh.name} RENAME TO {live.name}")
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        raise Transient(
            "A long query is reading the reporting tables; the rebuilt ones are put in place later."
        ) from error
    # A view holds on to its tables, not to their names. Replacing it keeps what was granted on it.
    for name, definition in views:
        await db.exec_driver_sql(f'CREATE OR REPLACE VIEW "{name}" AS {definition}')
    for live in LIVE.tables():
        await db.exec_driver_sql(f"DROP TABLE IF EXISTS {live.name}_replaced")


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Logged:
    """An entry of the log with its position."""

    position: int
    entry: Entry


async def entries_after(db: AsyncConnection, position: int, limit: int) -> list[Logged]:
    """Return entries from a position on, oldest first."""
    rows = await db.execute(
        sa.select(EVENT_LOG.c.position, *_ENTRY_COLUMNS)
        .where(EVENT_LOG.c.position > position)
        .order_by(EVENT_LOG.c.position)
        .limit(limit)
    )
    return [Logged(row[0], Entry(*row[1:])) for row in rows]


async def latest_entries(db: AsyncConnection, limit: int) -> list[Logged]:
    """Return the newest entries, newest first."""
    rows = await db.execute(
        sa.select(EVENT_LOG.c.position, *_ENTRY_COLUMNS).order_by(EVENT_LOG.c.position.desc()).limit(limit)
    )
    return [Logged(row[0], Entry(*row[1:])) for row in rows]


async def seat_totals(db: AsyncConnection, period: Period, dimension: str | None) -> list[SeatTotal]:
    """Return freed and pending seats by currency and one dimension; as they are now, or at the end of a past year."""
    s = LIVE.seats.c
    freed = s.state == "freed"
    pending = s.state == "frozen"
    if not period.running:
        end = datetime.combine(period.end, time(), UTC)
        freed = sa.and_(s.reclaimed_at < end, sa.or_(s.reactivated_at.is_(None), s.reactivated_at >= end))
        pending = sa.false()
    key = s[dimension] if dimension else _NOTHING
    groups = (s[dimension], s.currency) if dimension else (s.currency,)
    rows = await db.execute(
        sa.select(
            key,
            s.currency,
            sa.func.count(sa.case((freed, 1))),
            _sum(s.monthly, freed),
            sa.func.count(sa.case((pending, 1))),
            _sum(s.monthly, pending),
        )
        .where(sa.not_(s.dry_run))
        .group_by(*groups)
        .order_by(*groups)
    )
    return [SeatTotal(*row) for row in rows]


async def day_totals(db: AsyncConnection, period: Period, dimension: str | None) -> list[DayTotal]:
    """Return a year's changes by day, currency and one dimension; all earlier ones as one on the day before it."""
    d = LIVE.daily.c
    key = d[dimension] if dimension else _NOTHING
    before = sa.literal(date.fromordinal(period.start.toordinal() - 1), sa.Date)
    changes = sa.select(
        key.label("key"),
        d.currency,
        sa.case((d.day < period.start, before), else_=d.day).label("day"),
        d.seats_freed,
        d.seats_returned,
        d.monthly_delta,
    )
    c = changes.where(d.day < date(period.year + 1, 1, 1)).subquery().c
    rows = await db.execute(
        sa.select(
            c.key,
            c.currency,
            c.day,
            sa.func.sum(c.seats_freed, type_=sa.BigInteger),
            sa.func.sum(c.seats_returned, type_=sa.BigInteger),
            sa.func.sum(c.monthly_delta, type_=Amount),
        )
        .group_by(c.key, c.currency, c.day)
        .order_by(c.key, c.currency, c.day)
    )
    return [DayTotal(*row) for row in rows]


def _sum(amount: sa.Column[Any], condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Decimal]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, amount))), sa.literal_column("0"), type_=Amount)


async def names(db: AsyncConnection, kind: str) -> dict[str, str]:
    """Return what products (`product`) or rules (`rule`) are called, by id."""
    n = LIVE.names.c
    return {row.id: row.name for row in await db.execute(sa.select(n.id, n.name).where(n.kind == kind))}


async def rehearsed(db: AsyncConnection) -> dict[str, int]:
    """Return how many seats dry-run rules would have, by state."""
    s = LIVE.seats.c
    rows = await db.execute(sa.select(s.state, sa.func.count()).where(s.dry_run).group_by(s.state))
    return {row[0]: row[1] for row in rows}


async def years(db: AsyncConnection) -> list[int]:
    """Return the years from the first booking to the last, newest first."""
    first, last = (await db.execute(sa.select(sa.func.min(LIVE.daily.c.day), sa.func.max(LIVE.daily.c.day)))).one()
    return [] if first is None else list(range(last.year, first.year - 1, -1))


@dataclass(frozen=True)
class CurrencySums:
    """What three records say that the freed seats of a currency cost a month; None is *no price*."""

    currency: str | None
    event_log: Decimal
    savings_daily: Decimal
    seat_saving: Decimal

    @property
    def agree(self) -> bool:
        return self.event_log == self.savings_daily == self.seat_saving


@dataclass(frozen=True)
class Verification:
    """What a check of the log and the tables found.

    `differing` counts, by table, the rows that the log does not give or that are missing.
    """

    events: int
    first: int | None
    last: int | None
    head: int
    projected: int
    sums: list[CurrencySums]
    differing: dict[str, int]

    @property
    def gap_free(self) -> bool:
        """Positions run from 1 to the head without a gap; being distinct, they need only be counted."""
        return self.events == self.head and (self.first, self.last) in {(1, self.head), (None, None)}

    @property
    def ok(self) -> bool:
        return (
            self.gap_free
            and self.projected == self.head
            and all(sums.agree for sums in self.sums)
            and not any(self.differing.values())
        )


async def verify(db: AsyncConnection) -> Verification:
    """Check the positions, and hold every reporting table against what one pass over the whole log gives.

    The connection must see one state throughout, as one of `Database.reading` does.
    """
    position = EVENT_LOG.c.position
    count, first, last = (
        await db.execute(sa.select(sa.func.count(), sa.func.min(position), sa.func.max(position)))
    ).one()
    head = await _head(db)
    projected = (await db.execute(sa.select(PROJECTION.c.position).where(PROJECTION.c.name == "live"))).scalar_one()
    expected: dict[sa.Table, sa.Select[Any] | sa.CompoundSelect[Any]] = {
        LIVE.daily: daily_rows(),
        LIVE.seats: seat_rows(),
        LIVE.names: name_rows(sa.true()),
    }
    differing = {table.name: await _differing(db, table, rows) for table, rows in expected.items()}
    return Verification(count, first, last, head, projected, await _sums(db), differing)


async def _differing(db: AsyncConnection, table: sa.Table, rows: sa.Select[Any] | sa.CompoundSelect[Any]) -> int:
    # Each side as a subquery: SQLite takes no compound select inside another.
    expected, found = sa.select(rows.subquery()), sa.select(table)
    counts = [
        (await db.execute(sa.select(sa.func.count()).select_from(sa.except_(*sides).subquery()))).scalar_one()
        for sides in ((expected, found), (found, expected))
    ]
    return sum(counts)


async def _sums(db: AsyncConnection) -> list[CurrencySums]:
    e, d, s = EVENT_LOG.c, LIVE.daily.c, LIVE.seats.c
    booked = sa.and_(e.kind.in_(("reclaimed", "reactivated")), sa.not_(e.dry_run))
    net = _sum(s.monthly, s.reclaimed_at.is_not(None)) - _sum(s.monthly, s.reactivated_at.is_not(None))
    queries = (
        sa.select(_or_nothing(e.currency), _sum(e.monthly, sa.true())).where(booked).group_by(_or_nothing(e.currency)),
        sa.select(d.currency, _sum(d.monthly_delta, sa.true())).group_by(d.currency),
        sa.select(s.currency, sa.type_coerce(net, Amount)).where(sa.not_(s.dry_run)).group_by(s.currency),
    )
    found: list[dict[str, Decimal]] = [{row[0]: row[1] for row in await db.execute(query)} for query in queries]
    nothing = Decimal("0.0000")
    return [
        CurrencySums(currency or None, *(sums.get(currency, nothing) for sums in found))
        for currency in sorted(set().union(*found))
    ]
