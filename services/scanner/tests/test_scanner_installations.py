"""What feeds say is installed: kept, replaced, refused with the reason, and gone when it is listed no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reclaim.common import migrate
from reclaim.common.db import Database
from reclaim.common.errors import Invalid
from reclaim.scanner import service
from reclaim.scanner.usage import InstallationRecord
from reclaim.scanner.usage_store import INSTALLATIONS, Taken, add_installations, end_inventory

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
async def database(tmp_path: Path, database_url: str | None) -> AsyncIterator[Database]:
    opened = Database(database_url or f"sqlite+aiosqlite:///{tmp_path}/scanner.db")
    await migrate.upgrade(opened.engine, Path(service.__file__).parent / "migrations")
    yield opened
    await opened.close()


def installed(device: str = "PC-1", **more: Any) -> InstallationRecord:
    return InstallationRecord(**{"user": "ACME\\Ann", "product": "visio", "device": device, **more})


async def keep(
    database: Database, rows: Sequence[InstallationRecord], *, source: str = "sccm", heard_at: datetime = NOW
) -> Taken:
    async with database.unit() as unit:
        return await add_installations(unit.db, source, rows, heard_at=heard_at)


async def end(database: Database, *, source: str = "sccm", heard_at: datetime = NOW, **more: Any) -> int:
    async with database.unit() as unit:
        return await end_inventory(unit.db, source, heard_at=heard_at, **more)


async def stored(database: Database) -> list[Any]:
    async with database.reading() as db:
        return list(await db.execute(sa.select(INSTALLATIONS).order_by(*INSTALLATIONS.primary_key)))


async def test_an_installation_that_is_listed_again_replaces_itself_and_keeps_when_it_was_first_seen(
    database: Database,
) -> None:
    await keep(database, [installed(version="1.0")], heard_at=NOW - DAY)
    await keep(database, [installed(version="2.0", user="acme\\BEN")])
    (row,) = await stored(database)
    assert (row.version, row.holder_key, row.user_name) == ("2.0", "acme\\ben", "acme\\BEN")
    assert (row.first_seen_at, row.heard_at) == (NOW - DAY, NOW)


async def test_an_older_list_that_comes_late_does_not_replace_a_newer_one(database: Database) -> None:
    await keep(database, [installed(version="2.0")])
    await keep(database, [installed(version="1.0")], heard_at=NOW - DAY)
    assert [row.version for row in await stored(database)] == ["2.0"]


async def test_what_a_newer_whole_list_does_not_have_is_not_brought_back_by_an_older_one(database: Database) -> None:
    await keep(database, [installed("PC-1"), installed("PC-2")], heard_at=NOW - 2 * DAY)
    await keep(database, [installed("PC-1")])
    assert await end(database) == 1
    late = await keep(database, [installed("PC-1"), installed("PC-2")], heard_at=NOW - DAY)
    assert (late.kept, late.outdated) == (0, True)
    assert await end(database, heard_at=NOW - DAY) == 0
    assert [row.device for row in await stored(database)] == ["PC-1"]
    other = await keep(database, [installed("PC-2")], source="jamf", heard_at=NOW - DAY)
    assert (other.kept, other.outdated) == (1, False)


async def test_good_rows_are_kept_and_bad_ones_listed(database: Database) -> None:
    rows = [installed(), installed(" "), installed("PC-2", installed_at=NOW + 2 * DAY), installed("PC-3", user="")]
    taken = await keep(database, rows)
    assert taken.kept == 2
    assert sorted(taken.refused) == [1, 2]
    assert [row.device for row in await stored(database)] == ["PC-1", "PC-3"]


async def test_what_a_source_lists_no_more_is_gone_and_other_sources_stay(database: Database) -> None:
    await keep(database, [installed("PC-1"), installed("PC-2")], heard_at=NOW - DAY)
    await keep(database, [installed("PC-9")], source="jamf", heard_at=NOW - DAY)
    await keep(database, [installed("PC-1")])
    assert await end(database) == 1
    assert [(row.source, row.device) for row in await stored(database)] == [("jamf", "PC-9"), ("sccm", "PC-1")]


async def test_two_paths_on_one_device_are_two_installations(database: Database) -> None:
    await keep(database, [installed(path="C:\\Users\\ann"), installed(path="C:\\Users\\ben", user="acme\\ben")])
    assert [row.holder_key for row in await stored(database)] == ["acme\\ann", "acme\\ben"]


@pytest.mark.parametrize("days", [0, 41])
async def test_how_long_a_source_may_be_silent_has_bounds(database: Database, days: int) -> None:
    with pytest.raises(Invalid):
        await end(database, silence=timedelta(days=days))
