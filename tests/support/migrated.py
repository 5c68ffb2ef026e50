"""Databases that tests begin with: a service's migrations run once a process, and their outcome is copied.

Only for new databases. Where there is something already, the migrations run as ever; that they run and do what they say
is what `tests/integration/test_integration_migrations.py` is about, which goes past this.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from reclaim.common.db import open_engine

Upgrade = Callable[[AsyncEngine, Path], Awaitable[None]]


class Templates:
    """Fills new databases from templates: SQLite files in `folder`, and databases of the PostgreSQL server."""

    def __init__(self, upgrade: Upgrade, folder: Path) -> None:
        self._upgrade = upgrade
        self._folder = folder
        self._files: dict[Path, Path] = {}
        self._databases: dict[tuple[URL, Path], str] = {}

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
        if await _asked(server.set(database=name), "SELECT to_regclass('alembic_version') IS NOT NULL"):
            await self._upgrade(engine, versions)
            return
        template = self._databases.get((server, versions))
        # A database is copied, and dropped, while nobody is connected to it.
        if template is None:
            await self._upgrade(engine, versions)
            await engine.dispose()
            template = f"migrated_{uuid.uuid4().hex[:12]}"
            await _told(server, f'CREATE DATABASE "{template}" TEMPLATE "{name}"')
            self._databases[server, versions] = template
        else:
            await engine.dispose()
            await _told(server, f'DROP DATABASE "{name}"', f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def drop(self) -> None:
        """Drop the templates that are on servers."""
        for (server, _versions), template in self._databases.items():
            asyncio.run(_told(server, f'DROP DATABASE IF EXISTS "{template}" WITH (FORCE)'))


def _has_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


async def _asked(url: URL, question: str) -> object:
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def _told(url: URL, *statements: str) -> None:
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
