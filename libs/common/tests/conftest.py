"""Fixtures: either database, and the wall clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from libs.common.tests.common_world import Listening, Said, Wall, sqlite_url, with_tables
from reclaim.common import timing
from tests.support import servers
from tests.support.providers import plain_url
from tests.support.servers import Servers


@pytest.fixture(scope="module")
def module_database(_servers: Servers) -> Iterator[str]:
    """A PostgreSQL database for the tests of one module: to make one takes longer than most of them."""
    with servers.fresh_database(_servers.database) as url:
        yield url


@pytest.fixture
async def emptied_database(module_database: str) -> str:
    """The URL of the module's PostgreSQL database, emptied."""
    connection = await asyncpg.connect(plain_url(module_database))
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()
    return module_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    url = request.getfixturevalue("emptied_database")
    assert isinstance(url, str)
    return url


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    moved = Wall()
    monkeypatch.setattr(timing, "_source", moved)
    return moved


@pytest.fixture
async def said(database_url: str) -> AsyncIterator[Said]:
    made = Said(database_url)
    await with_tables(made.database.engine)
    yield made
    await made.database.close()


@pytest.fixture
async def listening(database_url: str) -> AsyncIterator[Listening]:
    made = Listening(database_url)
    await made.create()
    yield made
    await made.database.close()
