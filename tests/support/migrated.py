"""Databases that tests begin with: a service's migrations run once a process, and their outcome is copied.

Only for new databases. Where there is something already, the migrations run as ever; that they run and do what they say
is what `tests/integration/test_integration_migrations.py` is about, which goes past this.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from reclaim.common.db import open_engine
from tests.support import servers
from tests.support.providers import Database

Upgrade = Callable[[AsyncEngine, Path], Awaitable[None]]

_CONTENT = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"


class Templates:
    """Fills new databases from templates: SQLite files in `folder`, and databases of the PostgreSQL server.

    On the server a copy takes the place of the empty database, which waits for the next test that wants an empty one.
    """

    def __init__(self, upgrade: Upgrade, folder: Path) -> None:
        self._upgrade = upgrade
        self._folder = folder
        self._files: dict[Path, Path] = {}
        self._databases: dict[tuple[URL, Path], str] = {}
        self._empty: list[str] = []

    @contextmanager
    def fresh_database(self, database: Database) -> Iterator[str]:
        """Lend an empty database of its own, as `servers.fresh_database` does."""
        with servers.fresh_database(database, self._empty.pop() if self._empty else None) as url:
            yield url

    async def upgrade(self, engine: AsyncEngine, versions: Path) -> None:
        """Bring a service's database to its newest revision."""
        database = engine.url.database
        if engine.dialect.name == "postgresql":
            await self._on_postgresql(engine, versions)
        elif not database or database == ":memory:" or _has_something(Path(database)):
            await self._upgrade(engine, versions)
        else:
            if versions not in self._files:
                self._files[versions] = await self._file(versions, self._folder / f"{len(self._files)}.db")
            Path(database).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._files[versions], database)

    async def _file(self, versions: Path, path: Path) -> Path:
        engine = open_engine(f"sqlite+aiosqlite:///{path}")
        await self._upgrade(engine, versions)
        # The last connection to a file takes its log into it as it closes.
        await engine.dispose()
        return path

    async def _on_postgresql(self, engine: AsyncEngine, versions: Path) -> None:
        server = engine.url.set(drivername="postgresql", database="postgres")
        name = str(engine.url.database)
        found = await _asked(server.set(database=name), _CONTENT)
        if "alembic_version" in found:
            await self._upgrade(engine, versions)
            return
        template = self._databases.get((server, versions))
        # A database is copied, renamed or dropped while nobody is connected to it.
        if template is None:
            await self._upgrade(engine, versions)
            await engine.dispose()
            template = self._databases[server, versions] = _name("migrated")
            await _copied(server, name, template)
            return
        await engine.dispose()
        if found:
            aside = f'DROP DATABASE "{name}"'
        else:
            self._empty.append(_name("empty"))
            aside = f'ALTER DATABASE "{name}" RENAME TO "{self._empty[-1]}"'
        await _copied(server, template, name, aside)

    def drop(self) -> None:
        """Drop what is left on servers."""
        for (server, _versions), template in self._databases.items():
            for name in (template, *self._empty):
                servers.execute(
                    server.render_as_string(hide_password=False), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
                )


def _has_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _name(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:12]}"


async def _asked(url: URL, question: str) -> set[str]:
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        return {row[0] for row in await connection.fetch(question)}
    finally:
        await connection.close()


async def _copied(url: URL, template: str, name: str, *before: str) -> None:
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    # Copying files is the faster strategy where nothing is flushed, and before PostgreSQL 15 the only one.
    strategy = "STRATEGY FILE_COPY" if connection.get_server_version().major >= 15 else ""
    try:
        for statement in (*before, f'CREATE DATABASE "{name}" TEMPLATE "{template}" {strategy}'):
            await connection.execute(statement)
    finally:
        await connection.close()
