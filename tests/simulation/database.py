"""The databases of a simulation: SQLite within the step that uses it, and the faults of any database.

`sqlite+inline://` is SQLAlchemy's own SQLite, run in the event loop's thread: a step that only speaks to its database
never waits, so nothing but the scheduler decides what comes next. A service's database lies in memory and outlives its
processes; the next history finds the engine as this one left it, with all that it compiled, and other contents.

Faults are put between SQLAlchemy and its driver, where a network or a disk would have them, and look to the product
like what the driver raises.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import LRUCache

from reclaim.common.contracts import SERVICES
from reclaim.common.db import _begin_sqlite, open_engine

Kind = Literal[
    "cut",
    "cut before commit",
    "cut after commit",
    "disk full",
    "busy",
    "deadlock",
    "kill before commit",
    "kill after commit",
]
KINDS: tuple[Kind, ...] = (
    "cut",
    "cut before commit",
    "cut after commit",
    "disk full",
    "busy",
    "deadlock",
    "kill before commit",
    "kill after commit",
)

_WITHIN: tuple[Kind, ...] = ("cut", "disk full", "busy", "deadlock")
"""What strikes at a statement; the others do around a commit."""

_CODES = {"disk full": sqlite3.SQLITE_FULL, "busy": sqlite3.SQLITE_BUSY, "deadlock": sqlite3.SQLITE_LOCKED}
_STATES = {"disk full": "53100", "busy": "40001", "deadlock": "40P01"}


class Killed(BaseException):
    """The process ended here. Nothing in it may go on, so no `except Exception` may hold this up."""


class InlineCursor(sqlite3.Cursor):
    """Has all rows when it was executed, as asynchronous drivers have."""

    def execute(self, sql: str, parameters: Any = ()) -> InlineCursor:
        super().execute(sql, parameters)
        self._rows = deque(super().fetchall() if self.description else ())
        return self

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows = list(self._rows)
        self._rows.clear()
        return rows

    async def _async_soft_close(self) -> None:
        """Nothing is left open."""


class InlineConnection(sqlite3.Connection):
    def cursor(self, factory: Any = InlineCursor) -> Any:
        return super().cursor(factory)


class InlineDialect(SQLiteDialect_pysqlite):
    """SQLite without a thread: what SQLAlchemy takes for asynchronous answers at once."""

    driver = "inline"
    is_async = True
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        return AsyncAdaptedQueuePool

    def __eq__(self, other: object) -> bool:
        # What one engine compiled, and every type it prepared, is good for all.
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def create_connect_args(self, url: URL) -> Any:
        shared = f"file:{url.database}?mode=memory&cache=shared"
        return [shared], {"uri": True, "factory": InlineConnection, "cached_statements": 1_000}


class InlineTransaction(AsyncTransaction):
    """A transaction that begins and ends at once."""

    async def start(self, is_ctxmanager: bool = False) -> InlineTransaction:
        connection = self.connection.sync_connection
        assert connection is not None
        if not self.nested:
            _begin(connection)
        self.sync_transaction = connection.begin_nested() if self.nested else connection.begin()
        if is_ctxmanager:
            self.sync_transaction.__enter__()
        return self

    async def rollback(self) -> None:
        self._proxied.rollback()

    async def commit(self) -> None:
        self._proxied.commit()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._proxied.__exit__(kind, error, trace)


class InlineAsyncConnection(AsyncConnection):
    """What the product does with its connection, without the greenlet in which SQLAlchemy lets a driver wait."""

    async def start(self, is_ctxmanager: bool = False) -> InlineAsyncConnection:
        engine: Any = self.engine
        if engine.idle:
            self.sync_connection = engine.idle.pop()
        else:
            # Connecting for the first time SQLAlchemy takes a lock that it can only wait for in a greenlet.
            await super().start(is_ctxmanager)
        return self

    async def execution_options(self, **options: Any) -> InlineAsyncConnection:
        self._proxied.execution_options(**options)
        return self

    async def execute(self, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
        return self._proxied.execute(statement, parameters, execution_options=execution_options)

    async def exec_driver_sql(self, statement: str, parameters: Any = None, execution_options: Any = None) -> Any:
        return self._proxied.exec_driver_sql(statement, parameters, execution_options)

    def begin(self) -> InlineTransaction:
        return InlineTransaction(self)

    def begin_nested(self) -> InlineTransaction:
        return InlineTransaction(self, nested=True)

    async def close(self) -> None:
        """Keep the connection for the next transaction, or let the pool reset one that a fault left within one."""
        connection, engine = self.sync_connection, self.engine
        self.sync_connection = None
        if connection is None:
            return
        if connection.invalidated or connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            connection.close()
            return
        connection._execution_options = self.sync_engine._execution_options
        engine.idle.append(connection)  # type: ignore[attr-defined]

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await self.close()


class InlineEngine(AsyncEngine):
    """An engine that stays when the process ends that used it."""

    _connection_cls = InlineAsyncConnection

    def __init__(self, sync_engine: Any) -> None:
        super().__init__(sync_engine)
        self.idle: list[Any] = []

    async def dispose(self, close: bool = True) -> None:
        """Keep the connection: the database is as a killed process left it."""


def in_use(engine: AsyncEngine) -> int:
    """Return how many connections of a process are open."""
    pool: Any = engine.pool
    return int(pool.checkedout()) - len(getattr(engine, "idle", ()))


@dataclass(frozen=True)
class Content:
    """What is in a database: how it is made, and its rows by table."""

    schema: tuple[str, ...]
    rows: Mapping[str, Sequence[tuple[Any, ...]]]

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Content:
        made = connection.execute("SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        tables = sorted(name for name, kind, _ in made if kind == "table")
        schema = tuple(sql for name, _, sql in made if not name.startswith("sqlite_"))
        return cls(schema, {table: connection.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables})

    def into(self, connection: sqlite3.Connection) -> None:
        """Put the rows in the place of all that is there.

        The tables stay: what was prepared for them, by whatever connection, is good for the next history too.
        """
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in self.schema:
                connection.execute(statement)
        for table, rows in self.rows.items():
            connection.execute(f'DELETE FROM "{table}"')
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', rows)
        connection.commit()


class Databases:
    """The databases of all services, in memory for as long as this is."""

    def __init__(self) -> None:
        self.url = f"sqlite+inline:///{id(self):x}.{{service}}"
        self._engines: dict[str, InlineEngine] = {}
        names = (service.replace("-", "_") for service in SERVICES)
        self._kept = {name: _connect(self.url.format(service=name)) for name in names}

    def open_engine(self, url: str, **given: Any) -> AsyncEngine:
        """Return the engine of a database; takes the place of the product's own."""
        if make_url(url).get_driver_name() != InlineDialect.driver:
            return open_engine(url, **given)
        if url not in self._engines:
            engine = self._engines[url] = InlineEngine(open_engine(url).sync_engine)
            engine.sync_engine._compiled_cache = _COMPILED
            event.remove(engine.sync_engine, "begin", _begin_sqlite)
            # Nothing is left that listens; `InlineTransaction` begins.
            engine.sync_engine._has_events = False
        return self._engines[url]

    def contents(self) -> dict[str, Content]:
        """Return what is in each database, by service."""
        return {service: Content.of(kept) for service, kept in self._kept.items()}

    def fill(self, contents: Mapping[str, Content]) -> None:
        """Let each database hold this and nothing else."""
        for service, content in contents.items():
            content.into(self._kept[service])

    def close(self) -> None:
        """Forget everything."""
        for engine in self._engines.values():
            for idle in engine.idle:
                idle.close()
            engine.sync_engine.dispose()
        for connection in self._kept.values():
            connection.close()


def _begin(connection: Any) -> None:
    # As the product does, without SQLAlchemy's ceremony for a statement: a history has some 250 transactions.
    reading = connection.get_execution_options().get("reading", False)
    connection.connection.driver_connection.execute("BEGIN" if reading else "BEGIN IMMEDIATE")


def _connect(url: str) -> sqlite3.Connection:
    positional, named = InlineDialect().create_connect_args(make_url(url))
    return sqlite3.connect(*positional, **named)


_COMPILED: Any = LRUCache(5_000)
"""Compiled statements of all engines."""

registry.register("sqlite.inline", __name__, "InlineDialect")


@dataclass
class Fault:
    """One thing that will go wrong in the given transaction from now, the present one being the first."""

    kind: Kind
    countdown: int


class Life:
    """One process's, from its start to its end."""


class Driver:
    """What lies between SQLAlchemy and the driver of one process: it lets through, cuts, or kills."""

    def __init__(self, dialect: Any) -> None:
        self.armed: Fault | None = None
        self.dead = False
        self.commits = 0
        self.life = Life()
        self._happened: Callable[[Kind], None] = lambda _kind: None
        self._dialect = dialect
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(dialect, name, self._statement(getattr(dialect, name)))
        dialect.do_commit = self._commit(dialect.do_commit)

    @classmethod
    def of(cls, engine: AsyncEngine, happened: Callable[[Kind], None]) -> Driver:
        """Return the driver of a process that starts on this engine."""
        dialect: Any = engine.sync_engine.dialect
        driver: Driver = vars(dialect).setdefault("simulated", None) or cls(dialect)
        dialect.simulated = driver
        driver.armed, driver.dead, driver.life, driver._happened = None, False, Life(), happened
        return driver

    def _statement(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(cursor: Any, statement: str, *args: Any, **more: Any) -> Any:
            # Only SQLite is told that a transaction begins, and one without any statement has its end to fail at.
            if not statement.startswith("BEGIN"):
                self._within()
            return original(cursor, statement, *args, **more)

        return run

    def _within(self) -> None:
        """Let a fault strike in the middle of a transaction.

        That is at its first statement, since one database needs more of them than the other for the same.
        """
        self._alive()
        if self.armed is not None and self.armed.countdown <= 1 and self._strikes(*_WITHIN):
            raise self._error()

    def _commit(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(connection: Any) -> None:
            self._within()
            if self._strikes("cut before commit"):
                raise self._error()
            if self._strikes("kill before commit"):
                self.dead = True
                raise Killed
            after = self._strikes("cut after commit", "kill after commit")
            original(connection)
            self.commits += 1
            if self.armed is not None and self.armed.kind in _WITHIN:
                self.armed.countdown -= 1
            if after == "kill after commit":
                self.dead = True
                raise Killed
            if after:
                raise self._error()

        return run

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    def _strikes(self, *kinds: Kind) -> Kind | None:
        if self.armed is None or self.armed.kind not in kinds:
            return None
        self.armed.countdown -= 1
        if self.armed.countdown > 0:
            return None
        kind, self._struck, self.armed = self.armed.kind, self.armed.kind, None
        self._happened(kind)
        return kind

    def _error(self) -> Exception:
        if self._dialect.name == "sqlite":
            error: Any = sqlite3.OperationalError(f"simulated: {self._struck}")
            error.sqlite_errorcode = _CODES.get(self._struck, sqlite3.SQLITE_IOERR)
        else:
            error = self._dialect.loaded_dbapi.OperationalError(f"simulated: {self._struck}")
            error.sqlstate = _STATES.get(self._struck, "08006")
        return error  # type: ignore[no-any-return]
