"""Limits: what was set last holds, whatever the clocks of the hosts say, as a share of the seats that are there."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from reclaim.common.db import UtcDateTime, open_engine
from reclaim.common.migrate import upgrade
from reclaim.lifecycle import brake_store, service
from reclaim.lifecycle.brakes import Limits
from services.lifecycle.tests.test_lifecycle_brake_service import WIDE, crowd, frozen, limit, revoke
from services.lifecycle.tests.test_lifecycle_service import DAY, NOW, World, flagged, world

AHEAD = "01a00000-0000-7000-8000-000000000000"
BEHIND = "019f0000-0000-7000-8000-000000000000"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


async def in_force(it: World) -> Limits:
    async with it.running.database.reading() as db:
        return brake_store.as_limits(await brake_store.limits_of(db, "c1"), Limits())


async def test_limits_lowered_on_a_host_whose_clock_is_behind_hold(
    database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        monkeypatch.setattr(brake_store, "new_id", lambda: AHEAD)
        await limit(it)
        monkeypatch.setattr(brake_store, "new_id", lambda: BEHIND)
        it.clock.advance(timedelta(minutes=-10))
        await limit(it, day_most=2)
        monkeypatch.undo()
        assert await in_force(it) == replace(WIDE, day_most=2)
        await revoke(it, 5)
        await it.act()
        assert frozen(it) == 2


async def test_limits_set_at_once_are_all_on_record_under_numbers_of_their_own(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path) as it:
        await asyncio.gather(*(limit(it, day_most=number) for number in range(8)))
        async with it.running.database.reading() as db:
            rows = await db.execute(sa.select(brake_store.LIMIT).order_by(brake_store.LIMIT.c.number))
            stored = [(row.number, row.day_most) for row in rows]
        assert [number for number, _ in stored] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert (await in_force(it)).day_most == stored[-1][1]


@pytest.mark.parametrize("dry_run", [False, True], ids=["live", "dry"])
async def test_limits_are_set_when_nobody_is_taking_permits_under_the_old_ones(
    database_url: str | None, tmp_path: Path, dry_run: bool
) -> None:
    async with world(database_url, tmp_path) as it:
        async with it.running.database.unit() as unit:
            await brake_store.lock(unit.db, "c1", dry_run=dry_run)
            setting = asyncio.create_task(limit(it, day_most=1))
            await asyncio.wait([setting], timeout=0.3)
            assert not setting.done()
        await setting
        assert (await in_force(it)).day_most == 1


async def test_limits_of_before_keep_their_order(database_url: str | None, tmp_path: Path) -> None:
    """Those that held before the upgrade hold after it, and what is set next comes behind them."""
    versions = Path(service.__file__).parent / "migrations"
    before = tmp_path / "before"
    shutil.copytree(versions, before, ignore=shutil.ignore_patterns("0008_*", "0009_*", "001*", "__pycache__"))
    engine = open_engine(database_url or f"sqlite+aiosqlite:///{tmp_path}/lifecycle.db")
    try:
        await upgrade(engine, before)
        row = {**asdict(WIDE), "set_by": "admin", "reason": "the test's", "set_at": NOW}
        named = [sa.column(name) for name in ("id", "connection_id", *row) if name != "set_at"]
        old = sa.table("brake_limit", *named, sa.column("set_at", UtcDateTime))
        async with engine.begin() as db:
            for connection_id, ids in {"c1": [AHEAD, BEHIND], "c2": [BEHIND[:-1] + "2"]}.items():
                for one in ids:
                    most = 1 if one == AHEAD else 9
                    await db.execute(
                        old.insert().values({**row, "id": one, "connection_id": connection_id, "day_most": most})
                    )
        await upgrade(engine, versions)
        async with engine.begin() as db:
            numbered = sa.select(brake_store.LIMIT.c.connection_id, brake_store.LIMIT.c.number)
            assert sorted(map(tuple, await db.execute(numbered))) == [("c1", 1), ("c1", 2), ("c2", 1)]
            held = await brake_store.limits_of(db, "c1")
            assert held is not None
            assert held.day_most == 1
            await brake_store.set_limits(
                db, "c1", asdict(replace(WIDE, day_most=5)), by="admin", reason="the test's", now=NOW
            )
            latest = await brake_store.limits_of(db, "c1")
            assert latest is not None
            assert (latest.number, latest.day_most) == (3, 5)
    finally:
        await engine.dispose()


async def test_a_replica_of_before_the_numbers_sets_no_limits_and_those_that_held_stay(
    database_url: str | None, tmp_path: Path
) -> None:
    """It stores what it was asked for without a number, while an upgrade is under way."""
    async with world(database_url, tmp_path) as it:
        await limit(it, day_most=3)
        row = {**asdict(WIDE), "id": AHEAD, "connection_id": "c1", "set_by": "admin", "reason": "wider", "set_at": NOW}
        columns = [sa.column(name, UtcDateTime) if name == "set_at" else sa.column(name) for name in row]
        old = sa.table("brake_limit", *columns)
        with pytest.raises(exc.IntegrityError):
            async with it.running.database.unit() as unit:
                await unit.db.execute(old.insert().values(row))
        assert (await in_force(it)).day_most == 3


# Of which seats a share is.


async def scanned(it: World, name: str, product: str, seats: int, *, at: datetime | None = None) -> None:
    """Let a scan flag one seat of a product, of which it saw so many."""
    event = flagged(name, name)
    seat = msgspec.structs.replace(event.seat, product=product)
    event = msgspec.structs.replace(event, seat=seat, seats_total=seats, flagged_at=at or it.clock.now())
    await it.tell(event, source="scanner")


async def counted(it: World) -> int | None:
    async with it.running.database.reading() as db:
        return await brake_store.seats_of(db, "c1", it.clock.now())


async def test_seats_that_were_moved_to_another_product_count_once(database_url: str | None, tmp_path: Path) -> None:
    """An org that moves from one product to another is not twice as large for ever, nor its limits twice as wide."""
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_share=5)
        await scanned(it, "before", "A", 1000, at=NOW - 10 * DAY)
        await revoke(it, 5)  # of 60 seats of another product, now
        assert await counted(it) == 1060
        it.clock.advance(26 * DAY)
        assert await counted(it) == 60
        await it.act()
        assert frozen(it) == 3, "5 % of 60 seats"


async def test_products_that_are_scanned_in_turn_all_count(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        assert await counted(it) is None
        for month in range(3):
            for number, product in enumerate("ABC", start=1):
                await scanned(it, f"{product}-{month}", product, 100 * number)
                it.clock.advance(10 * DAY)
        assert await counted(it) == 600


async def test_what_was_seen_last_counts_until_something_is_seen_again(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await scanned(it, "one", "A", 700)
        it.clock.advance(DAY)
        await scanned(it, "two", "B", 40)
        it.clock.advance(400 * DAY)
        assert await counted(it) == 40
        await scanned(it, "three", "A", 650)
        assert await counted(it) == 650
