"""Usage in both databases: feeds sent twice and in any order, and pages of verdicts that counting by hand gives."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import migrate
from reclaim.common.db import Database, open_engine
from reclaim.common.errors import Invalid
from reclaim.scanner import known_seats, service, usage_store
from reclaim.scanner.known_seats import KnownSeat, user_key
from reclaim.scanner.usage import (
    CHANNELS,
    Activity,
    Hours,
    Plan,
    Report,
    Span,
    UsageCondition,
    UsageRecord,
    Verdict,
    Window,
    judge,
    live_report,
)
from reclaim.scanner.usage_store import (
    REPORTS,
    USAGE,
    UsageSeat,
    add_records,
    add_report,
    judge_seats,
    judged,
    make_plan,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OCTOBER = Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
HOUR = timedelta(hours=1)
UNDER_20 = UsageCondition(span=Span("months", 1), minimum_hours=Decimal(20), channels=("ui",))
IDLE_90 = UsageCondition(span=Span("days", 90), channels=("ui",))


@pytest.fixture
async def database(tmp_path: Path, database_url: str | None) -> AsyncIterator[Database]:
    opened = Database(database_url or f"sqlite+aiosqlite:///{tmp_path}/scanner.db")
    await migrate.upgrade(opened.engine, Path(service.__file__).parent / "migrations")
    yield opened
    await opened.close()


def record(user: str = "u1", product: str = "office", **more: Any) -> UsageRecord:
    given = {"period_start": OCTOBER.start, "period_end": OCTOBER.end, "seconds": 3600, **more}
    return UsageRecord(user=user, product=product, **given)


def report(source: str = "agent", product: str = "", **more: Any) -> Report:
    return Report(source=source, product=product, **{"period": Window(LONG_AGO, NOW), "heard_at": NOW, **more})


async def keep(
    database: Database, records: Sequence[UsageRecord], *, source: str = "agent", heard_at: datetime = NOW
) -> None:
    async with database.unit() as unit:
        taken = await add_records(unit.db, source, records, heard_at=heard_at)
        assert taken.refused == {}


async def tell(database: Database, *said: Report) -> None:
    async with database.unit() as unit:
        for one in said:
            await add_report(unit.db, one)


async def stored(database: Database) -> list[Any]:
    async with database.reading() as db:
        return list(await db.execute(sa.select(USAGE).order_by(*USAGE.primary_key)))


def seat(holder: str = "u1", **more: Any) -> UsageSeat:
    return UsageSeat(**{"holder_id": holder, "granted_at": LONG_AGO, "first_seen_at": LONG_AGO, **more})


async def verdicts(
    database: Database, condition: UsageCondition, *seats: UsageSeat, product: str = "office", **more: Any
) -> list[Verdict]:
    async with database.reading() as db:
        chosen = await make_plan(db, condition, product, now=NOW, **more)
        if "connection_id" not in more:
            chosen = await usage_store.witnessed(db, chosen, seats=seats)
        return await judge_seats(db, chosen, seats)


# ------------------------------------------------------------------------------------------------ ingest


async def test_a_feed_that_is_sent_twice_counts_once(database: Database) -> None:
    batch = [record(seconds=20 * 3600), record("u2"), record(channel="mobile"), record(device="laptop")]
    await keep(database, batch)
    once = await stored(database)
    assert len(once) == 4
    await keep(database, batch)
    assert await stored(database) == once


async def test_an_older_report_that_comes_late_does_not_replace_a_newer_one(database: Database) -> None:
    await keep(database, [record(seconds=100)], heard_at=NOW - timedelta(days=2))
    await keep(database, [record(seconds=300)], heard_at=NOW)
    await keep(database, [record(seconds=200)], heard_at=NOW - timedelta(days=1))
    (row,) = await stored(database)
    assert (row.seconds, row.heard_at) == (300, NOW)


async def test_of_two_records_of_one_batch_with_the_same_key_the_last_counts(database: Database) -> None:
    await keep(database, [record(seconds=100), record(seconds=7)])
    assert [row.seconds for row in await stored(database)] == [7]


async def test_versions_and_processes_of_one_period_are_records_of_their_own_and_are_added_up(
    database: Database,
) -> None:
    hours = {"1.0": 12, "2.0": 8}
    batch = [record(version=version, seconds=most * 3600) for version, most in hours.items()]
    batch.append(record("u2", process="winword.exe", seconds=19 * 3600))
    await keep(database, batch)
    await keep(database, batch)
    assert [(row.process, row.version) for row in await stored(database)] == [
        ("", "1.0"),
        ("", "2.0"),
        ("winword.exe", ""),
    ]
    await tell(database, report())
    found = await verdicts(database, UNDER_20, seat("u1"), seat("u2"))
    assert [verdict.state for verdict in found] == ["USED", "UNUSED"]


async def test_a_day_does_not_take_the_place_of_the_month_that_begins_with_it(database: Database) -> None:
    await keep(database, [record(seconds=25 * 3600)])
    await keep(database, [record(seconds=3600, period_end=OCTOBER.start + 24 * HOUR)], heard_at=NOW + HOUR)
    await tell(database, report())
    (found,) = await verdicts(database, UNDER_20, seat())
    assert found.state == "USED"


async def test_reports_that_begin_together_replace_what_they_reach_over_or_take_back(database: Database) -> None:
    start = OCTOBER.start

    def until(days: int, heard: int, **more: Any) -> Report:
        return report(period=Window(start, start + timedelta(days=days)), heard_at=NOW + heard * HOUR, **more)

    async def after(*said: Report) -> list[tuple[int, bool]]:
        await tell(database, *said)
        async with database.reading() as db:
            return [((one.period.end - start).days, one.complete) for one in await usage_store.reports(db)]

    assert await after(until(10, 0), until(20, 1)) == [(20, True)], "a report that grows is one"
    assert await after(until(5, 2)) == [(5, True), (20, True)], "a shorter one takes nothing from a longer"
    assert await after(until(15, 0)) == [(5, True), (20, True)], "an older word that comes late is no news"
    assert await after(until(3, 3, complete=False)) == [(3, False)], "what is taken back proves nothing more"
    assert await after(until(20, 2)) == [(3, False)]
    assert await after(until(20, 4)) == [(20, True)]


async def test_usage_from_before_processes_and_versions_stays(tmp_path: Path, database_url: str | None) -> None:
    engine = open_engine(database_url or f"sqlite+aiosqlite:///{tmp_path}/old.db")
    versions = Path(service.__file__).parent / "migrations"
    old = [column for column in USAGE.c if column.name not in ("process", "version")]

    reported = {"source": "agent", "product": "", "period_start": LONG_AGO, "period_end": NOW, "heard_at": NOW}
    reported |= {"complete": True, "channels": ["ui"], "timed": True, "anonymised": False}
    reported |= {"late_seconds": 259_200, "silence_seconds": 259_200}

    def as_it_was(db: sa.Connection) -> None:
        config = migrate._config(versions, db)
        ours = ScriptDirectory.from_config(config).get_revision("scanner_0009")
        command.upgrade(config, str(ours.down_revision))
        said = sa.Table("usage_reports", sa.MetaData(), *(sa.Column(one.name, one.type) for one in REPORTS.c))
        db.execute(sa.insert(said).values(reported))
        table = sa.Table("usage_records", sa.MetaData(), *(sa.Column(one.name, one.type) for one in old))
        row = {one.name: "x" for one in old} | dict.fromkeys(("period_start", "period_end", "heard_at"), NOW)
        row |= {"seconds": 3600, "runs": 1, "session": False, "last_used_from": None, "last_used_by": None}
        db.execute(sa.insert(table).values(row))

    async with engine.begin() as db:
        await db.run_sync(as_it_was)
    await migrate.upgrade(engine, versions)
    assert await migrate.differences(engine, service.metadata) == []
    async with engine.connect() as db:
        (row,) = await db.execute(sa.select(USAGE))
        assert await usage_store.reports(db) == [report()]
    await engine.dispose()
    assert (row.user_key, row.seconds, row.process, row.version) == ("x", 3600, "", "")


async def test_good_records_are_kept_and_bad_ones_listed(database: Database) -> None:
    async with database.unit() as unit:
        taken = await add_records(
            unit.db, "agent", [record(), record("u2", seconds=-1), record(" "), record("u3")], heard_at=NOW
        )
    assert taken.kept == 2
    assert sorted(taken.refused) == [1, 2]
    assert [row.user_key for row in await stored(database)] == ["u1", "u3"]


async def test_what_a_report_may_not_claim(database: Database) -> None:
    for wrong in (
        report(period=Window(NOW, NOW)),
        report(period=Window(LONG_AGO, NOW + HOUR)),
        report(late=timedelta(days=30)),
        report(silence=timedelta(days=90)),
        report(silence=timedelta(0)),
    ):
        with pytest.raises(Invalid):
            await tell(database, wrong)


async def test_a_report_comes_back_as_it_was_said_and_the_newest_word_counts(database: Database) -> None:
    said = report(
        channels=frozenset({"ui", "sso"}), timed=False, anonymised=True, late=HOUR, silence=timedelta(days=35)
    )
    await tell(database, said, replace(said, heard_at=NOW - HOUR, complete=False))
    async with database.reading() as db:
        assert await usage_store.reports(db, ["office"]) == [said]
        (found,) = await usage_store.sources(db, NOW + timedelta(days=36))
    assert (found.source, found.complete_until, found.stale) == ("agent", NOW, True)


async def test_users_that_belong_to_nobody_are_kept_and_listed(database: Database) -> None:
    ann = KnownSeat(
        product="office", product_name="Office", holder_id="u1", holder_name="Ann", holder_email="Ann@Acme.example"
    )
    async with database.unit() as unit:
        await known_seats.remember(unit.db, "c1", [ann], NOW)
    await keep(database, [record("u1"), record("ann@acme.EXAMPLE"), record("Leaver"), record("Leaver", "word")])
    await keep(database, [record("Else")], source="other")
    assert await counted(database, NOW) == [("agent", "Leaver", 2), ("other", "Else", 1)]
    async with database.reading() as db:
        assert [one.user for one in await usage_store.unmatched(db, "other")] == ["Else"]
        assert [one.user for one in await usage_store.unmatched(db, limit=1)] == ["Leaver"]
    async with database.unit() as unit:
        await known_seats.remember(unit.db, "c1", [replace(ann, holder_id="Leaver", holder_email=None)], NOW)
    assert await counted(database, NOW + HOUR) == [("other", "Else", 1)]


async def test_of_each_source_no_more_users_without_a_seat_are_listed_than_a_page_needs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_store, "MOST_UNMATCHED", 2)
    await keep(database, [record(f"x{number}") for number in range(5)])
    await keep(database, [record("y")], source="other")
    assert await counted(database, NOW) == [("agent", "x0", 1), ("agent", "x1", 1), ("other", "y", 1)]


async def counted(database: Database, now: datetime) -> list[tuple[str, str, int]]:
    """Count the users without a seat, and return what a page lists."""
    async with database.reading() as db:
        found = await usage_store.count_unmatched(db)
    async with database.unit() as unit:
        await usage_store.keep_unmatched(unit.db, found, now)
        return [(one.source, one.user, one.records) for one in await usage_store.unmatched(unit.db)]


def test_addresses_and_domain_accounts_have_no_case_and_ids_do() -> None:
    assert user_key(" Ann@ACME.example ") == "ann@acme.example"
    assert user_key("ACME\\Ann") == "acme\\ann"
    assert user_key("005A") != user_key("005a")


# ------------------------------------------------------------------------------------------------ verdicts


async def test_hours_are_summed_over_devices_and_channels_that_count_and_never_over_sources(
    database: Database,
) -> None:
    five = 5 * 3600
    await keep(database, [record(seconds=five, device="a"), record(seconds=five - 1, device="b")])
    await keep(database, [record(seconds=12 * 3600, channel="mobile")])
    await keep(database, [record(seconds=8 * 3600)], source="vendor")
    await tell(database, report(channels=frozenset({"ui", "mobile"})), report("vendor", channels=frozenset({"ui"})))
    (found,) = await verdicts(database, UNDER_20, seat(), preference=["agent"])
    assert (found.state, found.reason[:10]) == ("UNUSED", "9.99 hours")
    (found,) = await verdicts(database, UNDER_20, seat(), preference=["vendor"])
    assert (found.state, found.reason[:10]) == ("UNUSED", "8.00 hours")
    with_mobile = UsageCondition(span=UNDER_20.span, minimum_hours=Decimal(20), channels=("ui", "mobile"))
    (found,) = await verdicts(database, with_mobile, seat())
    assert (found.state, found.reason[:11]) == ("USED", "21.99 hours")


async def test_who_is_only_in_the_source_that_does_not_come_first_is_not_idle(database: Database) -> None:
    spent = {"u1": 20, "u2": 1, "u3": 12}
    await keep(database, [record(user, seconds=hours * 3600) for user, hours in spent.items()], source="vendor")
    await keep(database, [record("u3", seconds=9 * 3600), record("u4")])
    await tell(database, report(), report("vendor"))
    eager = UsageCondition(span=UNDER_20.span, minimum_hours=Decimal(20), include_no_activity=True, channels=("ui",))
    seats = [seat(f"u{number}") for number in range(1, 6)]
    for preference in ([], ["agent"]):
        found = await verdicts(database, eager, *seats, preference=preference)
        assert [one.state for one in found] == ["USED", "UNKNOWN", "UNKNOWN", "UNUSED", "UNUSED"]
    assert "Up to 21.00 hours" in found[2].reason


async def test_what_a_source_that_proves_nothing_measured_is_not_set_aside(database: Database) -> None:
    down = NOW - timedelta(days=10)
    await keep(database, [record("u1"), record("u2"), record("u3")])
    await keep(database, [record("u1")], source="proxy", heard_at=down)
    await keep(database, [record("u2", seconds=None, runs=1)], source="log")
    await tell(database, report(), report("proxy", period=Window(LONG_AGO, down), heard_at=down))
    found = await verdicts(database, UNDER_20, seat("u1"), seat("u2"), seat("u3"))
    assert [one.state for one in found] == ["UNKNOWN", "UNUSED", "UNUSED"]
    assert found[0].reason.startswith("proxy measured use as well")


@pytest.mark.parametrize("until", [10, 100], ids=["silent", "replaced"])
async def test_whom_a_source_knew_that_fell_silent_is_not_idle_by_the_others(database: Database, until: int) -> None:
    old, down = NOW - timedelta(days=200), NOW - timedelta(days=until)
    around = {"seconds": None, "period_start": old, "period_end": down, "last_used_at": old}
    await keep(database, [record("u1", **around)], source="proxy", heard_at=down)
    await keep(database, [record("u2", **around)])
    await tell(database, report(), report("proxy", period=Window(LONG_AGO, down), heard_at=down))
    found = await verdicts(database, IDLE_90, seat("u1"), seat("u2"))
    assert [one.state for one in found] == ["UNKNOWN", "UNUSED"]
    await tell(database, report("proxy"))
    found = await verdicts(database, IDLE_90, seat("u1"), seat("u2"))
    assert [one.state for one in found] == ["UNUSED", "UNUSED"], "it has reported the whole time since"


async def test_last_use_is_the_latest_over_all_sources(database: Database) -> None:
    old, new = NOW - timedelta(days=200), NOW - timedelta(days=10)
    around = {"seconds": None, "period_start": old, "period_end": NOW}
    await keep(database, [record(**around, last_used_at=old), record("u2", **around, last_used_at=old)])
    await keep(database, [record(**around, last_used_at=new)], source="vendor")
    await tell(database, report())
    assert [one.state for one in await verdicts(database, IDLE_90, seat("u1"), seat("u2"))] == ["USED", "UNUSED"]
    (found,) = await verdicts(database, IDLE_90, seat("u2", last_used_at=new))
    assert found.state == "USED", "what the connected system itself says counts too"


async def test_a_system_that_was_asked_says_never_without_a_record(database: Database) -> None:
    live = [live_report("org", "office", NOW, ("ui",))]
    never, recent = seat(asked=True), seat("u2", asked=True, last_used_at=NOW - HOUR)
    found = await verdicts(database, IDLE_90, never, recent, seat("u3"), live=live)
    assert [one.state for one in found] == ["UNUSED", "USED", "UNKNOWN"]


async def test_a_source_down_for_ten_days_flags_nobody(database: Database) -> None:
    down = NOW - timedelta(days=10)
    await keep(database, [record(), record("u2", seconds=90 * 3600)], heard_at=down)
    await tell(database, report(period=Window(LONG_AGO, down), heard_at=down))
    for condition in (UNDER_20, IDLE_90):
        eager = UsageCondition(
            span=condition.span, minimum_hours=condition.minimum_hours, include_no_activity=True, channels=("ui",)
        )
        found = await verdicts(database, eager, seat(), seat("u2"), seat("u3"))
        assert "UNUSED" not in [one.state for one in found]
    async with database.reading() as db:
        assert [one.source for one in (await make_plan(db, UNDER_20, "office", now=NOW)).stale] == ["agent"]


async def test_word_used_keeps_the_suite_and_three_times_three_hours_are_nine(database: Database) -> None:
    suite = ("word", "excel", "outlook")
    three = 3 * 3600
    await keep(database, [record("u1", name, seconds=three) for name in suite])
    await keep(database, [record("u2", "word", seconds=three), record("u3", "other", seconds=90 * 3600)])
    await tell(database, *(report(product=name) for name in suite))
    condition = UsageCondition(span=UNDER_20.span, minimum_hours=Decimal(8), include_no_activity=True, channels=("ui",))
    found = await verdicts(database, condition, seat("u1"), seat("u2"), seat("u3"), components=suite)
    assert [one.state for one in found] == ["USED", "UNUSED", "UNUSED"]
    found = await verdicts(database, IDLE_90, seat("u2"), seat("u3"), components=suite)
    assert [one.state for one in found] == ["USED", "UNKNOWN"], "Word was used, the suite otherwise idle"


@pytest.mark.parametrize(
    ("known", "state"), [({"holder_id": "ACME-7"}, "UNKNOWN"), ({"product": "word"}, "UNKNOWN"), ({}, "UNUSED")]
)
async def test_absence_proves_nothing_where_the_source_names_nobody_with_a_seat(
    database: Database, known: dict[str, Any], state: str
) -> None:
    ann = KnownSeat(**{"product": "office", "product_name": "Office", "holder_id": "u1", "holder_name": "Ann", **known})
    async with database.unit() as unit:
        await known_seats.remember(unit.db, "c1", [ann], NOW)
        await known_seats.remember(unit.db, "c2", [replace(ann, product="office", holder_id="u1")], NOW)
    await keep(database, [record("u1")])
    await tell(database, report())
    eager = UsageCondition(span=UNDER_20.span, minimum_hours=Decimal(20), include_no_activity=True, channels=("ui",))
    (found,) = await verdicts(database, eager, seat("u9"), connection_id="c1")
    assert found.state == state
    async with database.reading() as db:
        chosen = await make_plan(db, eager, "office", connection_id="c3", now=NOW)
        assert not chosen.witnessed
        assert not (await usage_store.witnessed(db, chosen, seats=[seat("u9")])).witnessed
        assert (await usage_store.witnessed(db, chosen, seats=[seat("u9"), seat("u1")])).witnessed


@pytest.mark.parametrize("condition", [UNDER_20, IDLE_90], ids=["hours", "last use"])
async def test_a_source_that_never_named_the_product_proves_nothing_by_the_records_of_another(
    database: Database, condition: UsageCondition
) -> None:
    eager = UsageCondition(
        span=condition.span, minimum_hours=condition.minimum_hours, include_no_activity=True, channels=("ui",)
    )
    await keep(database, [record("u1")], source="notes")
    await keep(database, [record("u1", "visio")], source="agent")
    await tell(database, report("agent"))
    seats = [seat("u1"), seat("u9")]
    _, found = await verdicts(database, eager, *seats)
    assert found.state == "UNKNOWN", "agent told everything, and never of this product"
    half = Window(OCTOBER.start - 90 * 24 * HOUR, OCTOBER.start + 240 * HOUR)
    await tell(database, report("notes", period=half))
    _, found = await verdicts(database, eager, *seats)
    assert found.state == "UNKNOWN", "it told a part, and agent alone the rest"
    assert "agent has never named it" in found.reason
    await keep(database, [record("u1")], source="agent")
    _, found = await verdicts(database, eager, *seats)
    assert found.state == "UNUSED"


async def test_many_sources_may_report_on_a_suite_of_many_components(database: Database) -> None:
    await keep(database, [record("u1")], source="agent00")
    await tell(database, *(report(f"agent{number:02}") for number in range(20)))
    async with database.reading() as db:
        chosen = await make_plan(
            db, IDLE_90, "office", components=[f"part{number}" for number in range(30)], connection_id="c3", now=NOW
        )
    assert "has never named it" in chosen.unproven[0]


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([record(seconds=2 * 3600)], "UNKNOWN"),
        ([record(seconds=2 * 3600), record(period_start=LONG_AGO, period_end=LONG_AGO + HOUR, seconds=0)], "UNKNOWN"),
        ([record(seconds=2 * 3600), record(period_start=LONG_AGO, period_end=LONG_AGO + HOUR)], "UNUSED"),
    ],
    ids=["the month itself", "a record without use", "use before it"],
)
async def test_a_seat_that_use_alone_dates_is_no_older_than_that_use_can_be(
    database: Database, told: list[UsageRecord], state: str
) -> None:
    await keep(database, told)
    await tell(database, report())
    (found,) = await verdicts(database, UNDER_20, seat(granted_at=None, first_seen_at=OCTOBER.end - 4 * 24 * HOUR))
    assert found.state == state
    if state == "UNKNOWN":
        assert "too recently" in found.reason


async def test_sessions_are_cut_merged_and_counted_once(database: Database) -> None:
    start = OCTOBER.start

    def session(begin: float, end: float, **more: Any) -> UsageRecord:
        return record(
            seconds=None, session=True, period_start=start + begin * HOUR, period_end=start + end * HOUR, **more
        )

    await keep(database, [session(-5, 5), session(3, 8, device="b"), session(7.5, 9), session(1, 4, product="word")])
    await keep(database, [session(0, 9)], source="vendor")
    await tell(database, report(), report("vendor"))
    minimum = UsageCondition(span=UNDER_20.span, minimum_hours=Decimal(13), channels=("ui",))
    (found,) = await verdicts(database, minimum, seat(), components=["word"])
    assert (found.state, found.reason[:11]) == ("UNUSED", "12.00 hours"), "office 0 to 9, word 1 to 4"


async def test_an_installation_belongs_to_its_device_whoever_uses_it(database: Database) -> None:
    used = 30 * 3600
    await keep(
        database,
        [
            record("guest", device="shared", seconds=used),
            record("u1", device="laptop", seconds=used),
            record("u2", seconds=used),
        ],
    )
    await tell(database, report())
    strict = UsageCondition(span=UNDER_20.span, minimum_hours=Decimal(20), include_no_activity=True, channels=("ui",))
    found = await verdicts(
        database,
        strict,
        seat("u1", device_id="shared"),
        seat("u1", device_id="laptop"),
        seat("u1", device_id="tablet"),
        seat("u1"),
        seat("u2", device_id="tablet"),
    )
    assert [one.state for one in found] == ["USED", "USED", "UNUSED", "USED", "USED"]


async def test_a_month_of_another_zone_is_not_divided(database: Database) -> None:
    await keep(database, [record(seconds=20 * 3600 - 600), record("u2", seconds=20 * 3600 + 3600)])
    await tell(database, report())
    # Berlin's October begins two hours before that of the source, and ends an hour before it.
    found = await verdicts(database, UNDER_20, seat("u1"), seat("u2"), zone="Europe/Berlin")
    assert [one.state for one in found] == ["UNUSED", "USED"]
    await keep(database, [record("u1", period_start=OCTOBER.start - timedelta(days=30), period_end=OCTOBER.start)])
    (found_one,) = await verdicts(database, UNDER_20, seat("u1"), zone="Europe/Berlin")
    assert found_one.state == "UNKNOWN", "part of September's hour may have been in Berlin's October"


NEW_YORK = "America/New_York"
"""Its October begins four hours after that of UTC, and ends four hours after it."""


@pytest.mark.parametrize(
    ("hours", "zone", "state", "says"),
    [
        ("15.99", NEW_YORK, "UNUSED", "with the 4.00 at its edge that no report covers, still less"),
        ("16", NEW_YORK, "UNKNOWN", "4.00 hours at its edge that no report covers"),
        ("20", NEW_YORK, "UNKNOWN", "lies across the edge"),
        ("24", NEW_YORK, "USED", "20.00 hours of 20"),
        ("16", "UTC", "UNUSED", "16.00 hours of 20"),
        ("20", "UTC", "USED", "20.00 hours of 20"),
    ],
)
async def test_what_a_month_in_utc_proves_of_a_month_in_the_west(
    database: Database, hours: str, zone: str, state: str, says: str
) -> None:
    await keep(database, [record(seconds=int(Decimal(hours) * 3600))])
    await tell(database, report(period=OCTOBER))
    (found,) = await verdicts(database, UNDER_20, seat("u1"), zone=zone)
    assert (found.state, says in found.reason) == (state, True), found.reason
    if state == "UNKNOWN":
        assert "Set the rule's time zone to the one that its source cuts months by" in found.reason


async def test_an_edge_in_the_west_names_the_zone_to_choose(database: Database) -> None:
    await keep(database, [record(seconds=17 * 3600)])
    await tell(database, report(period=OCTOBER))
    (found,) = await verdicts(database, UNDER_20, seat("u1"), zone=NEW_YORK)
    assert found.reason.endswith("cuts months by (UTC).")


@pytest.mark.parametrize(
    "period",
    [Window(OCTOBER.start, OCTOBER.end - 27 * HOUR), Window(OCTOBER.start + 27 * HOUR, OCTOBER.end)],
    ids=["its end", "its beginning"],
)
async def test_what_no_zone_explains_is_not_covered(database: Database, period: Window) -> None:
    await keep(database, [record(seconds=3600, period_start=period.start, period_end=period.end)])
    await tell(database, report(period=period))
    (found,) = await verdicts(database, UNDER_20, seat("u1"))
    assert (found.state, "No source covers the use of office" in found.reason) == ("UNKNOWN", True)


async def test_the_hours_that_no_report_covers_count_for_each_component(database: Database) -> None:
    parts = ("word", "excel")
    await keep(database, [record(product=part, seconds=7 * 3600) for part in parts])
    for part in parts:
        await tell(database, report(product=part, period=OCTOBER))
    (found,) = await verdicts(database, UNDER_20, seat("u1"), components=parts, zone=NEW_YORK)
    assert found.state == "UNKNOWN", "14 hours, and 4 of each"
    (found,) = await verdicts(database, UNDER_20, seat("u1"), components=parts)
    assert found.state == "UNUSED"


# ------------------------------------------------------------------------------------------------ many


class Statements:
    """Counts what a connection executes."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        sa.event.listen(database.engine.sync_engine, "before_cursor_execute", self._one)

    def _one(self, *_: Any) -> None:
        self.count += 1


async def test_many_seats_are_judged_a_page_at_a_time_by_a_few_statements(database: Database) -> None:
    seats = [
        KnownSeat(
            product="office",
            product_name="Office",
            holder_id=f"u{number:05}",
            holder_name=f"Holder {number}",
            granted_at=LONG_AGO,
        )
        for number in range(2_300)
    ]
    async with database.unit() as unit:
        await known_seats.remember(unit.db, "c1", seats, NOW)
        elsewhere = [replace(one, product="other") for one in seats[:10]]
        await known_seats.remember(unit.db, "c1", elsewhere, NOW)
        await known_seats.remember(unit.db, "c2", seats[:10], NOW)
    await keep(
        database,
        [record(one.holder_id, seconds=3600 * (number % 40)) for number, one in enumerate(seats) if number % 3],
    )
    await tell(database, report())
    states: dict[str, str] = {}
    pages = []
    async with database.reading() as db:
        chosen = await make_plan(db, UNDER_20, "office", now=NOW)
        statements = Statements(database)
        async for page in judged(db, chosen, connection_id="c1", page_size=500):
            pages.append((len(page), statements.count))
            statements.count = 0
            states.update((one.holder_id, found.state) for one, found in page)
    assert [size for size, _ in pages] == [500, 500, 500, 500, 300]
    assert {count for _, count in pages} == {4}, "one for the page, one for its records, two for its source"
    assert states == {
        one.holder_id: "UNKNOWN" if not number % 3 else "USED" if number % 40 >= 20 else "UNUSED"
        for number, one in enumerate(seats)
    }


async def test_pages_say_what_counting_by_hand_says(database: Database) -> None:
    """Random records of two sources, three products and every channel, against sums over all of them in Python."""
    chance = random.Random("usage")
    records: dict[str, list[UsageRecord]] = {"agent": [], "vendor": []}
    for _ in range(600):
        start = datetime(2026, 9, 28, tzinfo=UTC) + timedelta(days=chance.randrange(38))
        records[chance.choice(["agent", "vendor"])].append(
            UsageRecord(
                user=f"u{chance.randrange(25)}",
                product=chance.choice(["office", "word", "excel"]),
                period_start=start,
                period_end=start + timedelta(days=1),
                channel=chance.choice(CHANNELS),
                device=chance.choice(["", "", "d1"]),
                seconds=chance.randrange(4 * 3600),
            )
        )
    for source, of_source in records.items():
        await keep(database, of_source, source=source)
        await tell(database, report(source, channels=frozenset(CHANNELS)))
    condition = UsageCondition(
        span=Span("months", 1), minimum_hours=Decimal(8), include_no_activity=True, channels=("ui", "api", "sso")
    )
    seats = [seat(f"u{number}") for number in range(27)]
    async with database.reading() as db:
        chosen = await make_plan(db, condition, "office", components=["word"], preference=["vendor"], now=NOW)
        chosen = await usage_store.witnessed(db, chosen, seats=seats)
        found = await judge_seats(db, chosen, seats)
        assert await _one_by_one(db, chosen, seats) == found
    latest = {source: {_key(one): one for one in of_source} for source, of_source in records.items()}
    expected = []
    for one in seats:
        its = {
            source: [
                each.seconds or 0
                for each in of_source.values()
                if each.user == one.holder_id
                and each.product in ("office", "word")
                and each.channel in condition.channels
                and OCTOBER.start <= each.period_start < OCTOBER.end
            ]
            for source, of_source in latest.items()
        }
        time, other = (timedelta(seconds=sum(its[source])) for source in ("vendor", "agent"))
        activity = Activity(
            records=len(its["vendor"]),
            hours=Hours(time, time),
            alone=max(time, other),
            together=time + other,
            beside=len(its["agent"]),
        )
        expected.append(judge(chosen, activity, granted_at=one.granted_at, first_seen_at=one.first_seen_at))
    assert found == expected
    assert {one.state for one in found} == {"USED", "UNUSED", "UNKNOWN"}


def _key(one: UsageRecord) -> tuple[Any, ...]:
    return one.product, one.user, one.device, one.channel, one.period_start


async def _one_by_one(db: AsyncConnection, chosen: Plan, seats: Sequence[UsageSeat]) -> list[Verdict]:
    return [(await judge_seats(db, chosen, [one]))[0] for one in seats]
