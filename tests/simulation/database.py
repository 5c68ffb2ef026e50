"""The databases of a simulation: SQLite within the step that uses it, and the faults of any database.

`sqlite+inline://` is SQLAlchemy's own SQLite, run in the event loop's thread: a step that only speaks to its database
never waits, so nothing but the scheduler decides what comes next. Faults are put between SQLAlchemy and its driver,
where a network or a disk would have them, and look to the product like what the driver raises.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import LRUCache, await_only

Kind = Literal[
    "cut", "cut before commit", "cut after commit", "disk full", "busy", "kill before commit", "kill after commit"
]
KINDS: tuple[Kind, ...] = (
    "cut",
    "cut before commit",
    "cut after commit",
    "disk full",
    "busy",
    "kill before commit",
    "kill after commit",
)

_CODES = {"disk full": sqlite3.SQLITE_FULL, "busy": sqlite3.SQLITE_BUSY}
_STATES = {"disk full": "53100", "busy": "40001"}


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
        positional, named = super().create_connect_args(url)
        return positional, {**named, "factory": InlineConnection}

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        # SQLAlchemy makes sure that an asynchronous driver was really waited for.
        await_only(_at_once())
        super().do_execute(cursor, statement, parameters, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        await_only(_at_once())
        super().do_executemany(cursor, statement, parameters, context)


async def _at_once() -> None:
    """Nothing to wait for."""


_COMPILED: Any = LRUCache(5_000)
"""Compiled statements of all engines: compiling them anew after every kill would take longer than running them."""

registry.register("sqlite.inline", __name__, "InlineDialect")


@dataclass
class Fault:
    """One thing that will go wrong in the given transaction from now, the present one being the first."""

    kind: Kind
    countdown: int


class Driver:
    """What lies between SQLAlchemy and the driver of one process: it lets through, cuts, or kills."""

    def __init__(self, engine: AsyncEngine, happened: Callable[[Kind], None]) -> None:
        self.armed: Fault | None = None
        self.dead = False
        self.commits = 0
        self._happened = happened
        self._dialect: Any = engine.sync_engine.dialect
        if isinstance(self._dialect, InlineDialect):
            engine.sync_engine._compiled_cache = _COMPILED
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(self._dialect, name, self._statement(getattr(self._dialect, name)))
        self._dialect.do_commit = self._commit(self._dialect.do_commit)

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
        if self.armed is not None and self.armed.countdown <= 1 and self._strikes("cut", "disk full", "busy"):
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
            if self.armed is not None and self.armed.kind in {"cut", "disk full", "busy"}:
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
