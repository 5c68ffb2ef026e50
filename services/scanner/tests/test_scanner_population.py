"""A population that goes missing a little at a time: each scan is near the one before, and all of them are not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from reclaim.common import migrate
from reclaim.common.clock import FixedClock
from reclaim.common.db import open_engine
from reclaim.scanner import actions, catalog_store, service, store
from reclaim.scanner.domain import Baseline, Highest, Stopped, check_population, read_terms
from services.scanner.tests.scanner_world import NOON, Scanner, filled, idle, started
from services.scanner.tests.suite_world import SuiteOrg, ruled, world
from services.scanner.tests.test_scanner_domain import RAW
from services.scanner.tests.test_scanner_scan import found, ready, scanned

WEEK = timedelta(days=7)


def after(reclaimed: int) -> Baseline:
    """A scan whose highest was 100, of which we took so many."""
    return Baseline(("SFDC",), expected=85, seen=85, highest=Highest(100, 100, NOON - 4 * WEEK, reclaimed))


@pytest.mark.parametrize(("seats", "reclaimed"), [(80, 0), (78, 3)])
def test_a_fifth_fewer_than_the_highest_is_believed_and_what_we_took_ourselves(seats: int, reclaimed: int) -> None:
    check_population(read_terms(RAW), after(reclaimed), expected=seats, seen=seats)


@pytest.mark.parametrize(("seats", "reclaimed"), [(79, 0), (77, 3)])
def test_more_than_a_fifth_fewer_than_the_highest_stops_the_scan(seats: int, reclaimed: int) -> None:
    with pytest.raises(Stopped, match=f"{seats} seats in use, where the scan of 2026-10-23 had 100") as caught:
        check_population(read_terms(RAW), after(reclaimed), expected=seats, seen=None)
    assert caught.value.acceptable


def test_growing_by_and_by_is_believed() -> None:
    check_population(read_terms(RAW), after(0), expected=93, seen=93)


def leave(scanner: Scanner, number: int) -> None:
    there = [user for user in scanner.org.users.values() if user.active and user.id != "boss"]
    for user in there[:number]:
        user.active = False


async def test_a_slow_loss_stops_the_scan_until_a_person_accepts_it(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    org = filled(clock, [idle(number, days=1) for number in range(1, 50)])
    async with started(tmp_path, org, clock, database_url=database_url) as scanner:
        rule = await ready(scanner)
        assert (await scanned(scanner, rule)).seen == 50
        for seats in (46, 42):
            clock.advance(WEEK)
            leave(scanner, 4)
            run = await scanned(scanner, rule)
            assert (run.status, run.seen) == ("finished", seats), run.reason
        clock.advance(WEEK)
        leave(scanner, 4)
        run = await scanned(scanner, rule)
        assert (run.status, run.acceptable) == ("stopped", True)
        assert "where the scan of 2026-11-20 had 50" in (run.reason or "")
        accepted = await scanned(scanner, rule, accept_population=True)
        assert accepted.status == "finished"
        assert (await scanned(scanner, rule)).status == "finished", "from there on it counts anew"
        assert (await found(scanner, run.id)).status == "stopped"


async def test_what_was_there_a_quarter_ago_is_not_held_against_a_scan(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    org = filled(clock, [idle(number, days=1) for number in range(1, 50)])
    async with started(tmp_path, org, clock, database_url=database_url) as scanner:
        rule = await ready(scanner)
        await scanned(scanner, rule)
        for seats in (46, 42, 38, 35):
            clock.advance(timedelta(days=60))
            leave(scanner, 4 if seats > 35 else 3)
            run = await scanned(scanner, rule)
            assert (run.status, run.seen) == ("finished", seats), run.reason


async def test_a_scan_says_why_its_population_was_compared_with_none(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    org = filled(clock, [idle(number, days=1) for number in range(1, 50)])
    async with started(tmp_path, org, clock, database_url=database_url) as scanner:
        rule = await ready(scanner)
        assert (await scanned(scanner, rule)).uncompared == "There is no good scan of this rule before it."
        assert (await scanned(scanner, rule)).uncompared is None
        assert "accepted" in ((await scanned(scanner, rule, accept_population=True)).uncompared or "")


@pytest.mark.parametrize("left", [4, 30], ids=["near", "far"])
async def test_the_first_scan_of_a_suite_after_an_upgrade_says_that_it_compared_with_none(
    tmp_path: Path, clock: FixedClock, database_url: str | None, left: int
) -> None:
    owned = {f"holder{number:02}": {"WORD": 1, "EXCEL": 1} for number in range(40)}
    async with world(tmp_path, clock, database_url, owned) as scanner:
        rule = await ruled(scanner, "OFFICE")
        await run_of(scanner, rule)
        async with scanner.running.database.unit() as unit:
            # As the migration leaves what an earlier release wrote, which counted each part by itself.
            await unit.db.execute(sa.update(store.RUNS).values(suites=sa.null(), seen=80, expected=80))
        org = scanner.org
        assert isinstance(org, SuiteOrg)
        for holder in sorted(org.owned)[:left]:
            del org.owned[holder]
        first = await run_of(scanner, rule)
        assert (first.status, first.seen) == ("finished", 40 - left)
        assert "did not record which suites" in (first.uncompared or "")
        second = await run_of(scanner, rule)
        assert (second.status, second.uncompared) == ("finished", None)
        for holder in sorted(org.owned)[:8]:
            del org.owned[holder]
        third = await run_of(scanner, rule)
        assert (third.status, third.acceptable) == ("stopped", True), "from the second scan on it is compared"


async def run_of(scanner: Scanner, rule: store.Rule) -> store.Run:
    run = await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
    await scanner.scan_all()
    return await found(scanner, run.id)


async def test_what_earlier_releases_did_not_record_of_suites_is_unknown_after_the_upgrade(
    tmp_path: Path, database_url: str | None
) -> None:
    engine = open_engine(database_url or f"sqlite+aiosqlite:///{tmp_path}/old.db")
    versions = Path(service.__file__).parent / "migrations"

    def as_it_was(db: sa.Connection) -> None:
        command.upgrade(migrate._config(versions, db), "scanner_0013")
        for name, suites in (("unknown", "[]"), ("known", '["OFFICE"]')):
            db.execute(
                sa.text(
                    "INSERT INTO scan_runs (id, rule_id, connection_id, asked_by, dry_run, accept_population, status, "
                    "requested_at, products, suites, expected, pages, seen, used, flagged, left_alone, missing, "
                    "acceptable, attempts) VALUES (:name, 'r', 'c', 'otto', false, false, 'finished', "
                    f"'2026-11-20 12:00:00', '[]', '{suites}', 0, 0, 0, 0, 0, '{{}}', '{{}}', false, 1)"
                ),
                {"name": name},
            )
        db.execute(sa.text("INSERT INTO openings VALUES ('r', 'OFFICE', 'ann', 'known', false, '[]')"))
        db.execute(
            sa.text("INSERT INTO reviews (rule_id, product, asked_at, attempts) VALUES ('r', 'OFFICE', :at, 110)"),
            {"at": "2026-11-20 12:00:00"} if db.dialect.name == "sqlite" else {"at": NOON},
        )

    async with engine.begin() as db:
        await db.run_sync(as_it_was)
    await migrate.upgrade(engine, versions)
    async with engine.connect() as db:
        suites = dict((await db.execute(sa.select(store.RUNS.c.id, store.RUNS.c.suites))).tuples().all())
        waiting = await catalog_store.anything_to_review(db)
    await engine.dispose()
    assert suites == {"unknown": None, "known": ["OFFICE"]}
    assert waiting, "an opening that was given up with its review is looked at by itself"
