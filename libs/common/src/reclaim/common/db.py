"""The database of one service: engine, portable column types, and the unit of work.

A unit is one transaction. Handlers, endpoints and jobs write through the unit they are given and never commit;
whoever opened it does, once. Events emitted in a unit become outbox rows in the same transaction.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from reclaim.common.clock import Clock, SystemClock
from reclaim.common.contracts import Event

MINOR_UNITS = 10_000
"""Money has four decimal places; SQLite, which has no exact decimals, keeps it as an integer of this fraction."""


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. Takes and gives timezone-aware UTC; a naive datetime is refused."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Amount(TypeDecorator[Decimal]):
    """An amount of money with four decimal places: `NUMERIC(19,4)`, on SQLite an integer of ten-thousandths."""

    impl = sa.Numeric(19, 4)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else sa.Numeric(19, 4))

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> Decimal | int | None:
        if value is None:
            return None
        if not value.is_finite():
            # PostgreSQL would keep a NaN, and make every sum it is part of one.
            raise ValueError("an amount of money is a finite number")
        exact = value.quantize(Decimal("0.0001"))
        return int(exact * MINOR_UNITS) if dialect.name == "sqlite" else exact

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Decimal | None:  # noqa: ARG002
        if value is None:
            return None
        exact = value if isinstance(value, Decimal) else Decimal(value) / MINOR_UNITS
        return exact.quantize(Decimal("0.0001"))


Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
"""A document: JSONB on PostgreSQL, text on SQLite."""

BigKey = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""An automatic 64-bit key (SQLite numbers rows by itself only under the name INTEGER)."""


class Listed(TypeDecorator[Collection[str]]):
    """Any number of texts as one bound value, instead of a statement compiled anew for each length of an IN list."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Collection[str] | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else msgspec.json.encode(list(value)).decode()


class Among(FunctionElement[bool]):
    """Whether a column has one of some values; made by `among`."""

    name = "among"
    type = sa.Boolean()
    inherit_cache = True


@compiles(Among)
def _among(element: Among, compiler: SQLCompiler, **how: Any) -> str:
    column, values = (compiler.process(clause, **how) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM {listed(compiler.dialect, values)})"  # noqa: S608 - compiled, values bound


def listed(dialect: sa.Dialect, values: str) -> str:
    """Return SQL for a table with one text column `value`, from SQL for what `Listed` sends."""
    if dialect.name == "sqlite":
        return f"json_each({values})"
    return f"json_array_elements_text(CAST({values} AS json)) AS listed(value)"


def among(column: sa.ColumnElement[Any], values: Collection[str] | sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
    """Return whether a text column has one of some values: these, or those of `given(name)`."""
    if not isinstance(values, sa.BindParameter):
        values = sa.bindparam(column.key, values, type_=Listed(), unique=True)
    return Among(column, values)


def given(name: str) -> sa.BindParameter[Any]:
    """Return a parameter for `among` in a statement that is put together once: it takes a collection of texts."""
    return sa.bindparam(name, type_=Listed())


def prepared(statement: sa.Insert, dialect: sa.Dialect, columns: Collection[str] | None = None) -> sa.TextClause:
    """Return an INSERT ... ON CONFLICT as text: SQLAlchemy compiles such statements anew each time they are run.

    `columns` are those it inserts, if it does not say so itself. It may not hold an IN with a list of values. Keep
    what is returned.
    """
    named = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}[dialect.name](paramstyle="named")
    compiled = statement.compile(dialect=named, column_keys=columns)
    # A parameter right before a cast is none to `text`, which also reads backslashes.
    sql = re.sub(r"(:\w+)::", r"\1 ::", str(compiled).replace("\\", "\\\\"))
    return sa.text(sql).bindparams(
        *(
            sa.bindparam(name, bound.value, type_=bound.type, required=bound.required)
            for bound, name in compiled.bind_names.items()
        )
    )


InsertT = TypeVar("InsertT", postgresql.Insert, sqlite.Insert)


async def insert_many(
    db: AsyncConnection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    same: Mapping[str, Any] | None = None,
    replacing: tuple[str, ...] = (),
    keeping: tuple[str, ...] = (),
    unless_newer: str = "",
) -> None:
    """Insert rows that all have the same columns, by one statement.

    `same` has the columns with one value for all rows: it is sent once. `replacing` names the columns of a unique
    key: a stored row with the same key takes the new values, but for the columns in `keeping`; none of them if its own
    value of the column `unless_newer` is later than the given one. No two of the given rows may have the same key.
    """
    if not rows:
        return
    same = same or {}
    names = tuple(rows[0])
    if db.dialect.name == "sqlite":
        statement = (
            _insert_or_replace(table, (*names, *same), replacing, keeping, unless_newer, db.dialect)
            if replacing
            else _insert(table)
        )
        await db.execute(statement, [{**row, **same} for row in rows])
    elif replacing:
        replace = _replace_records(table, names, tuple(same), replacing, keeping, unless_newer)
        await db.execute(replace, _text(table, names, rows, same, db.dialect))
    elif not await _copied(db, table, names, rows, same):
        await db.execute(_insert_arrays(table, names, tuple(same)), _arrays(names, rows, same))


async def _copied(
    db: AsyncConnection,
    table: sa.Table,
    names: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
    same: Mapping[str, Any],
) -> bool:
    """Insert rows by COPY, which costs both sides about half of what any INSERT does; return whether it was done.

    It goes past SQLAlchemy to the driver. SQLAlchemy begins its transaction with the first statement it sends itself:
    before that there is none to copy in.
    """
    driver: asyncpg.Connection | None = (await db.get_raw_connection()).driver_connection
    assert driver is not None
    if not driver.is_in_transaction():
        return False
    columns = (*names, *same)
    values: list[Iterable[Any]] = [[row[name] for row in rows] for name in names]
    values += [repeat(value, len(rows)) for value in same.values()]
    for at, process in _preparing(table, columns, db.dialect):
        values[at] = map(process, values[at])
    records = list(zip(*values, strict=True))
    await driver.copy_records_to_table(table.name, records=records, columns=columns)
    return True


@cache
def _preparing(
    table: sa.Table, columns: tuple[str, ...], dialect: sa.Dialect
) -> tuple[tuple[int, Callable[[Any], Any]], ...]:
    """Return what SQLAlchemy does to the values of some columns on their way in: (position, function)."""
    found = ((at, table.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for at, name in enumerate(columns))
    return tuple((at, process) for at, process in found if process is not None)


async def update_many(
    db: AsyncConnection,
    table: sa.Table,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    same: Mapping[str, Any] | None = None,
) -> None:
    """Set the other columns of each row where its column `key` has the row's value, by one statement.

    `same` has the columns that take one value in all rows.
    """
    if not rows:
        return
    same = same or {}
    names = tuple(rows[0])
    if db.dialect.name == "sqlite":
        await db.execute(
            _update_at(table, key),
            [{"at_key" if name == key else name: value for name, value in {**row, **same}.items()} for row in rows],
        )
    else:
        await db.execute(_update_arrays(table, key, names, tuple(same)), _arrays(names, rows, same))


@cache
def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


@cache
def _insert_or_replace(
    table: sa.Table,
    names: tuple[str, ...],
    replacing: tuple[str, ...],
    keeping: tuple[str, ...],
    unless_newer: str,
    dialect: sa.Dialect,
) -> sa.TextClause:
    statement = _replacing(sqlite.insert(table), names, replacing, keeping, unless_newer)
    return prepared(statement, dialect, names)


@cache
def _update_at(table: sa.Table, key: str) -> sa.Update:
    return sa.update(table).where(table.c[key] == sa.bindparam("at_key"))


def _arrays(names: Sequence[str], rows: Sequence[Mapping[str, Any]], same: Mapping[str, Any]) -> dict[str, Any]:
    arrays: dict[str, Any] = {f"given_{name}": [row[name] for row in rows] for name in names}
    return arrays | {f"same_{name}": value for name, value in same.items()}


def _unnested(table: sa.Table, names: Sequence[str]) -> sa.TableValuedAlias:
    # PostgreSQL plans and runs a statement once for each row it is executed with. One statement over an array for
    # each column costs a fraction, on both sides.
    arrays = [sa.bindparam(f"given_{name}", type_=postgresql.ARRAY(table.c[name].type, dimensions=1)) for name in names]
    return sa.func.unnest(*arrays).table_valued(*names, name="given").render_derived()


def _text(
    table: sa.Table,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    same: Mapping[str, Any],
    dialect: sa.Dialect,
) -> dict[str, Any]:
    records = [dict(row) for row in rows]
    for at, process in _preparing(table, tuple(names), dialect):
        for record in records:
            record[names[at]] = process(record[names[at]])
    for name in names:
        if isinstance(table.c[name].type, sa.LargeBinary):
            for record in records:
                record[name] = None if record[name] is None else f"\\x{record[name].hex()}"
    return {"given": msgspec.json.encode(records).decode()} | {f"same_{name}": value for name, value in same.items()}


def _records(table: sa.Table, names: Sequence[str]) -> list[sa.ColumnElement[Any]]:
    # Of many columns one text costs the driver a tenth of what an array for each does. Of whole documents it costs
    # both sides more.
    text = sa.cast(sa.bindparam("given", type_=sa.Text), postgresql.JSON)
    documents = {name for name in names if isinstance(table.c[name].type, sa.JSON)}
    columns = [sa.column(name, sa.Text() if name in documents else table.c[name].type) for name in names]
    given = sa.func.json_to_recordset(text).table_valued(*columns, name="given").render_derived(with_types=True)
    # A document comes as text: as a part of the record its null would be none.
    return [sa.cast(given.c[name], postgresql.JSONB) if name in documents else given.c[name] for name in names]


def _shared(table: sa.Table, names: Sequence[str]) -> dict[str, sa.BindParameter[Any]]:
    return {name: sa.bindparam(f"same_{name}", type_=table.c[name].type) for name in names}


@cache
def _insert_arrays(table: sa.Table, names: tuple[str, ...], same: tuple[str, ...]) -> sa.Insert:
    given = sa.select(*_unnested(table, names).c, *_shared(table, same).values())
    return sa.insert(table).from_select((*names, *same), given)


@cache
def _replace_records(
    table: sa.Table,
    names: tuple[str, ...],
    same: tuple[str, ...],
    replacing: tuple[str, ...],
    keeping: tuple[str, ...],
    unless_newer: str,
) -> sa.Insert:
    every = (*names, *same)
    given = sa.select(*_records(table, names), *_shared(table, same).values())
    return _replacing(postgresql.insert(table).from_select(every, given), every, replacing, keeping, unless_newer)


def _replacing(
    statement: InsertT, names: Sequence[str], key: Sequence[str], keeping: Sequence[str], unless_newer: str
) -> InsertT:
    if not key:
        return statement
    fresh = {name: statement.excluded[name] for name in names if name not in key and name not in keeping}
    if not fresh:
        return statement.on_conflict_do_nothing(index_elements=key)
    still = statement.table.c[unless_newer] <= statement.excluded[unless_newer] if unless_newer else None
    return statement.on_conflict_do_update(index_elements=key, set_=fresh, where=still)


@cache
def _update_arrays(table: sa.Table, key: str, names: tuple[str, ...], same: tuple[str, ...]) -> sa.Update:
    given = _unnested(table, names)
    own = {name: given.c[name] for name in names if name != key}
    return sa.update(table).where(table.c[key] == given.c[key]).values({**own, **_shared(table, same)})


class Unit:
    """One transaction: `db` to read and write through, `now` for the whole of it, `emit` for what it says."""

    def __init__(self, db: AsyncConnection, now: datetime) -> None:
        self.db = db
        self.now = now
        self.emitted: list[Event] = []
        self._woken: set[str] = set()
        self._last: list[Callable[[], Awaitable[None]]] = []

    def emit(self, *events: Event) -> None:
        """Say these facts: they leave through the outbox if, and only if, the unit commits."""
        self.emitted.extend(events)

    def at_end(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run this right before the commit, in the order given, when the unit will lock nothing else and emit nothing.

        For what every transaction wants to lock (the head of a log): taken earlier, and followed by other locks, it
        would sooner or later be one half of a deadlock.
        """
        self._last.append(run)

    async def finish(self) -> None:
        """Run what was left for the end; whoever opened the unit calls it."""
        for run in self._last:
            await run()

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Open a part of the unit that is taken back by itself if it raises, with all that it emitted and asked for."""
        emitted, last, woken = len(self.emitted), len(self._last), set(self._woken)
        try:
            async with self.db.begin_nested():
                yield
        except BaseException:
            del self.emitted[emitted:]
            del self._last[last:]
            self._woken = woken
            raise

    def wake(self, job: str) -> None:
        """Let a job of the service look for work right after the commit, instead of at its next round."""
        self._woken.add(job)

    @property
    def woken(self) -> frozenset[str]:
        return frozenset(self._woken)


class Database:
    """Opens units. `on_commit` is told which jobs to wake, and `"relay"` when events wait in the outbox.

    `append` writes a unit's events to the outbox and returns what to call once they are committed; it is given by
    whoever wires the service, so that this module does not depend on the messaging it carries.
    """

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        append: Callable[[AsyncConnection, Sequence[Event], datetime], Awaitable[Callable[[], None]]] | None = None,
        pool_size: int = 10,
    ) -> None:
        self.engine = open_engine(url, pool_size=pool_size)
        self.clock: Clock = clock or SystemClock()
        self.on_commit: Callable[[frozenset[str]], None] = lambda _jobs: None
        self._append = append
        self._reading: dict[str, Any] = (
            {"reading": True} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        )
        self._writer = asyncio.Lock() if self.engine.dialect.name == "sqlite" else None

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[Unit]:
        """Open a transaction that commits when the block ends and rolls back when it raises."""
        committed: Callable[[], None] | None = None
        async with AsyncExitStack() as stack:
            if self._writer is not None:
                # SQLite has one writer; waiting here is fair and cheap, waiting inside it is neither.
                await stack.enter_async_context(self._writer)
            connection = await stack.enter_async_context(self.engine.connect())
            async with connection.begin():
                unit = Unit(connection, self.clock.now())
                yield unit
                if unit.emitted:
                    if self._append is None:
                        raise RuntimeError("this database was opened without an outbox and cannot emit")
                    committed = await self._append(connection, unit.emitted, unit.now)
                await unit.finish()
        if committed is not None:
            committed()
        woken = unit.woken | {"relay"} if unit.emitted else unit.woken
        if woken:
            self.on_commit(woken)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for reading one consistent state; nothing that is written through it stays."""
        async with self.engine.connect() as connection:
            await connection.execution_options(**self._reading)
            async with connection.begin() as transaction:
                yield connection
                await transaction.rollback()

    async def close(self) -> None:
        await self.engine.dispose()


def open_engine(url: str, *, pool_size: int = 10) -> AsyncEngine:
    """Return an engine for a SQLite or PostgreSQL URL, set up as every service expects it.

    Its errors leave out the values a statement was given: they reach logs and the reasons of parked events.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(parsed, hide_parameters=True, connect_args={"timeout": 30})
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        event.listen(engine.sync_engine, "invalidate", _let_go_sqlite)
        return engine
    return create_async_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "timeout": 10,
            # A statement prepared while its table was empty would keep that table's plan.
            "server_settings": {"plan_cache_mode": "force_custom_plan", "timezone": "UTC"},
        },
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout=30000", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    # The change takes the whole file, and SQLite does not wait for another process that is making it right now.
    deadline = time.monotonic() + 30
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _SQLITE_AWAY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that began by reading could find, at its first write, that it must start over (SQLITE_BUSY).
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _let_go_sqlite(connection: Any, _record: object, error: BaseException | None) -> None:
    # A statement that was cancelled runs to its end, and what is left of it would keep the file locked after the close.
    if isinstance(error, asyncio.CancelledError):
        connection.rollback()


_SQLITE_AWAY: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Primary result codes; an extended one has its primary one in the lowest byte."""


def is_outage(error: BaseException) -> bool:
    """Tell whether an error means that the database itself is away, rather than that a statement was wrong."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, OSError | exc.TimeoutError | TimeoutError):
        return True
    if isinstance(error, asyncpg.InterfaceError):
        # What was sent past SQLAlchemy: its own checks come too late to say so.
        return "closed" in str(error)
    if not isinstance(error, exc.DBAPIError | asyncpg.PostgresError):
        return False
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    state = getattr(original, "sqlstate", None)
    if state is not None:
        # PostgreSQL: class 08 connection, 40 rolled back to retry, 53 resources, 57 operator, 58 system.
        return str(state)[:2] in {"08", "40", "53", "57", "58"}
    code = getattr(original, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _SQLITE_AWAY
