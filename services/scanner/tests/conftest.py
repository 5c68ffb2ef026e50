"""Fixtures: a scanner over an org in memory, on either database, and the same one behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reclaim.common.clock import FixedClock
from services.scanner.tests.scanner_world import NOON, Scanner, Served, serving, small_org, started


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite in the test's own folder, else an empty PostgreSQL database."""
    if request.param == "sqlite":
        return None
    url = request.getfixturevalue("fresh_database")
    assert isinstance(url, str)
    return url


@pytest.fixture
async def scanner(tmp_path: Path, clock: FixedClock) -> AsyncIterator[Scanner]:
    """A scanner on SQLite over an org of six: two to flag, one in use, two left alone, and their manager."""
    async with started(tmp_path, small_org(clock), clock) as built:
        yield built


@pytest.fixture
async def both(tmp_path: Path, clock: FixedClock, database_url: str | None) -> AsyncIterator[Scanner]:
    """The same, once on SQLite and once on PostgreSQL."""
    async with started(tmp_path, small_org(clock), clock, database_url=database_url) as built:
        yield built


@pytest.fixture
async def served(tmp_path: Path, clock: FixedClock) -> AsyncIterator[Served]:
    async with serving(tmp_path, small_org(clock), clock) as host:
        yield host
