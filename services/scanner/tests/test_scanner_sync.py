"""Reading a sign-in log again and again: from where it came to, no record twice, and honest about what is not known."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from libs.connectors.tests.connectors_logs import HERE, MAIL, QUICK, WIKI
from reclaim.common import timing
from reclaim.common.errors import Permanent, Transient
from reclaim.connectors import okta
from reclaim.connectors.ports import UsagePage
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.okta import API_TOKEN, Tenant
from reclaim.scanner import actions, profile_store, profiles, sync_jobs, sync_store, usage_cases, usage_store
from reclaim.scanner.store import Connection
from reclaim.scanner.sync_store import Sync
from reclaim.scanner.usage import Report
from services.scanner.tests.feeds_world import DAY, Log, choose, connect, connect_log, give_log, refused, sync
from services.scanner.tests.scanner_world import NOON, Scanner

ANN, BEN = "u1@acme.example", "u2@acme.example"
HIDDEN = "5d41402abc4b2a76b9719d911017c592"


async def logged(scanner: Scanner, log: Log | None = None) -> tuple[Log, Connection, Connection]:
    """Connect an org and a log of which one application is chosen; nothing is read yet."""
    log = give_log(scanner, log)
    log.sign_in(ANN, "wiki", at=NOON - 50 * DAY)
    org, sso = await connect(scanner), await connect_log(scanner)
    await sync(scanner)
    await choose(scanner, sso, "wiki", org)
    return log, org, sso


async def records(scanner: Scanner) -> list[tuple[str, str, str, int]]:
    rows = await scanner.rows(
        "SELECT user_name, product, period_start, runs FROM usage_records ORDER BY period_start, user_name"
    )
    return [(row.user_name, row.product, str(row.period_start)[:10], row.runs) for row in rows]


async def reports(scanner: Scanner) -> list[Report]:
    async with scanner.deps.database.reading() as db:
        return await usage_store.reports(db)


async def state(scanner: Scanner, sso: Connection) -> Sync:
    async with scanner.deps.database.reading() as db:
        found = await sync_store.find(db, sso.id, "usage")
    assert found is not None
    return found


async def read_again(scanner: Scanner, sso: Connection) -> None:
    await profiles.sync_now(scanner.deps, sso.id, by="otto")
    await sync(scanner)


async def test_sign_ins_become_records_of_the_product_and_the_time_read_is_vouched_for(both: Scanner) -> None:
    log, _org, sso = await logged(both)
    log.sign_in(BEN, "wiki", at=NOON - DAY, ok=False)
    log.sign_in(BEN, "mail", at=NOON - DAY)
    await sync(both)
    assert await records(both) == [(ANN, "SFDC", "2026-10-01", 1)]
    (report,) = await reports(both)
    assert (report.source, report.product, report.channels) == ("SSO", "SFDC", frozenset({"sso"}))
    assert (report.period.start, report.period.end) == (NOON - 90 * DAY, NOON - timedelta(hours=1))
    assert (report.complete, report.timed, report.anonymised) == (True, False, False)
    now = await state(both, sso)
    assert (now.status, now.records, now.failed, now.problem, now.succeeded_at) == ("idle", 1, 1, None, NOON)
    assert log.only == [("wiki",)]


async def test_the_next_reading_goes_on_where_the_last_one_ended(both: Scanner) -> None:
    log, _org, sso = await logged(both)
    await sync(both)
    both.clock.advance(3 * DAY)
    log.sign_in(BEN, "wiki", at=NOON + 2 * DAY)
    await read_again(both, sso)
    # The day on which the first reading ended was not over: it is read whole.
    assert log.asked == [NOON - 90 * DAY, NOON.replace(hour=0)]
    assert await records(both) == [(ANN, "SFDC", "2026-10-01", 1), (BEN, "SFDC", "2026-11-22", 1)]
    (report,) = await reports(both)
    assert (report.period.start, report.period.end) == (NOON - 90 * DAY, NOON + 3 * DAY - timedelta(hours=1))


async def test_an_event_that_comes_late_only_makes_its_day_right(both: Scanner) -> None:
    log, _org, sso = await logged(both)
    log.sign_in(BEN, "wiki", at=NOON - timedelta(hours=3))
    log.sign_in(BEN, "wiki", at=NOON - timedelta(hours=2), late=timedelta(hours=4))
    await sync(both)
    assert (await records(both))[-1] == (BEN, "SFDC", "2026-11-20", 1)
    both.clock.advance(timedelta(hours=6))
    await read_again(both, sso)
    assert (await records(both))[-1] == (BEN, "SFDC", "2026-11-20", 2)


@pytest.mark.parametrize("days", [0, 1, 3])
async def test_a_reading_that_is_killed_goes_on_where_it_came_to(
    both: Scanner, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """A process dies in mid-reading: its lease runs out, another one goes on, and each sign-in is there once."""
    log, _org, sso = await logged(both)
    for day in (40, 30, 20, 10):
        log.sign_in(BEN, "wiki", at=NOON - day * DAY)
    log.breaks_after, log.breaks_with = days, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        await both.job("sync")
    assert len(await records(both)) == days
    assert await reports(both) == []
    assert not await both.job("sync")
    log.breaks_after = None
    monkeypatch.setattr(timing, "_source", lambda: time.time() + 60)
    await sync(both)
    assert [record[2] for record in await records(both)] == [
        "2026-10-01", "2026-10-11", "2026-10-21", "2026-10-31", "2026-11-10"
    ]  # fmt: skip
    assert log.asked[1] == (NOON - 90 * DAY if days == 0 else (NOON - (60 - 10 * days) * DAY).replace(hour=0))
    (report,) = await reports(both)
    assert report.period.start == NOON - 90 * DAY
    assert (await state(both, sso)).records >= 5


async def test_a_process_that_was_held_up_past_its_lease_writes_nothing_more(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _org, _sso = await logged(both)
    log.sign_in(BEN, "wiki", at=NOON - DAY)
    taken: list[Any] = []

    async def take_over(page: UsagePage) -> None:
        if page.day > NOON - 10 * DAY and not taken:
            monkeypatch.setattr(timing, "_source", lambda: time.time() + 60)
            async with both.deps.database.unit() as unit:
                taken.append(await sync_store.claim(unit.db, lease_seconds=30, now=unit.now))

    log.before_page = take_over
    assert await both.job("sync")
    assert taken[0].attempt == 2
    assert [record[0] for record in await records(both)] == [ANN]
    assert await reports(both) == []


async def test_a_reading_that_is_stopped_is_handed_to_another_process_at_once(both: Scanner) -> None:
    log, _org, sso = await logged(both)
    log.breaks_after, log.breaks_with = 0, asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await both.job("sync")
    assert (await state(both, sso)).status == "queued"
    log.breaks_after = None
    assert await both.job("sync")
    assert len(await records(both)) == 1


async def test_a_failure_is_told_and_tried_again_later_and_later(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _org, sso = await logged(both)
    log.down = Transient("the log is away")
    waits = []
    monkeypatch.setattr(sync_jobs, "backoff", lambda attempt, **_: waits.append(attempt) or 0.0)
    for _ in range(3):
        assert await both.job("sync")
    now = await state(both, sso)
    assert (now.status, now.problem, now.succeeded_at, waits) == ("waiting", "the log is away", None, [1, 2, 3])
    log.down = None
    await sync(both)
    now = await state(both, sso)
    assert (now.status, now.problem, now.attempts) == ("idle", None, 0)


async def test_what_a_person_has_to_mend_is_told_and_not_tried_at_once(both: Scanner) -> None:
    log, _org, sso = await logged(both)
    log.down = Permanent("the token has ended: make another")
    assert await both.job("sync")
    assert not await both.job("sync")
    now = await state(both, sso)
    assert now.problem == "the token has ended: make another"
    assert now.remedy is not None
    assert "Read now" in now.remedy


async def test_a_gap_in_the_log_is_not_vouched_for(both: Scanner) -> None:
    """Nobody read for longer than the log keeps: what it forgot meanwhile may have been use."""
    log, _org, sso = await logged(both)
    await sync(both)
    both.clock.advance(100 * DAY)
    await read_again(both, sso)
    ends = sorted((report.period.start, report.period.end) for report in await reports(both))
    assert ends == [
        (NOON - 90 * DAY, NOON - timedelta(hours=1)),
        (NOON + 10 * DAY, NOON + 100 * DAY - timedelta(hours=1)),
    ]
    assert log.asked[1] == NOON + 10 * DAY


async def test_a_day_on_which_somebody_hid_proves_nobodys_absence_and_later_days_do(both: Scanner) -> None:
    log, _org, sso = await logged(both)
    log.sign_in(HIDDEN, "wiki", at=NOON - 20 * DAY)
    await sync(both)
    found = {report.anonymised: report.period for report in await reports(both)}
    midnight = (NOON - 19 * DAY).replace(hour=0)
    assert (found[True].start, found[True].end) == (NOON - 90 * DAY, midnight)
    assert (found[False].start, found[False].end) == (midnight, NOON - timedelta(hours=1))
    log.sign_in(HIDDEN, "wiki", at=NOON - timedelta(hours=2))
    await read_again(both, sso)
    assert all(report.anonymised for report in await reports(both) if report.period.end == NOON - timedelta(hours=1))
    both.clock.advance(2 * DAY)
    await read_again(both, sso)
    latest = max(await reports(both), key=lambda report: report.period.start)
    assert (latest.anonymised, latest.period.start) == (False, (NOON + DAY).replace(hour=0))


async def test_an_application_that_is_chosen_later_is_read_from_as_far_back(both: Scanner) -> None:
    log, org, sso = await logged(both)
    await sync(both)
    log.sign_in(BEN, "mail", at=NOON - 60 * DAY)
    both.org.licences["AUL"] = 5
    await choose(both, sso, "mail", org, "AUL")
    await sync(both)
    assert log.asked[-1] == NOON - 90 * DAY
    assert {record[1] for record in await records(both)} == {"SFDC", "AUL"}
    assert {report.product: report.period.start for report in await reports(both)} == {
        "SFDC": NOON - 90 * DAY,
        "AUL": NOON - 90 * DAY,
    }


async def test_choosing_while_a_reading_is_under_way_begins_it_anew(both: Scanner) -> None:
    log, org, sso = await logged(both)
    both.org.licences["AUL"] = 5

    async def meanwhile(_page: UsagePage) -> None:
        log.before_page = None
        log.sign_in(BEN, "mail", at=NOON - 60 * DAY)
        await choose(both, sso, "mail", org, "AUL")

    log.before_page = meanwhile
    assert await both.job("sync")
    assert await reports(both) == []
    await sync(both)
    assert log.only[-1] == ("mail", "wiki")
    assert {report.product for report in await reports(both)} == {"SFDC", "AUL"}


async def test_a_source_that_was_not_heard_from_is_stale_everywhere(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _org, sso = await logged(both)
    await sync(both)
    gauged: dict[str, Any] = {}
    monkeypatch.setattr(usage_cases._stale, "set", lambda value: gauged.update(stale=value))
    monkeypatch.setattr(sync_jobs._troubled, "set", lambda value: gauged.update(troubled=value))
    for job in ("usage-freshness", "measure_syncs"):
        await both.job(job)
    assert gauged == {"stale": 0, "troubled": 0}
    log.down = Permanent("the token has ended")
    both.clock.advance(10 * DAY)
    await read_again(both, sso)
    for job in ("usage-freshness", "measure_syncs"):
        await both.job(job)
    assert gauged == {"stale": 1, "troubled": 1}
    async with both.deps.database.reading() as db:
        (fresh,) = await usage_store.sources(db, both.clock.now())
    assert (fresh.source, fresh.stale) == ("SSO", True)


async def test_a_connection_that_is_removed_while_it_is_read_keeps_nothing_more(both: Scanner) -> None:
    log, _org, sso = await logged(both)

    async def meanwhile(_page: UsagePage) -> None:
        await actions.remove_connection(both.deps, sso.id, by="anna")

    log.before_page = meanwhile
    assert await both.job("sync")
    assert await records(both) == []
    assert await both.rows("SELECT * FROM syncs WHERE what = 'usage'") == []


async def test_a_log_without_applications_is_not_read(both: Scanner) -> None:
    give_log(both)
    sso = await connect_log(both)
    assert not await both.job("sync")
    assert "choose applications first" in await refused(profiles.sync_now(both.deps, sso.id, by="otto"))


async def test_no_transaction_is_open_while_the_log_is_asked(scanner: Scanner) -> None:
    """SQLite has one writer: a page that could not be written meanwhile would show an open transaction."""
    log, org, _sso = await logged(scanner)

    async def write(_page: UsagePage) -> None:
        async with asyncio.timeout(5):
            await actions.change_connection(scanner.deps, org.id, name=f"Org {org.version}", test=False)

    log.before_page = write
    await sync(scanner)
    async with scanner.deps.database.reading() as db:
        (profile,) = [one for one in await profile_store.profiles(db) if one.how == "sso"]
    assert profile.covered_until == NOON - timedelta(hours=1)


async def test_a_tenant_is_read_over_http_from_its_applications_to_the_records(scanner: Scanner) -> None:
    async with Sandbox(clock=scanner.clock, users=0) as sandbox:
        tenant = Tenant(scanner.clock)
        sandbox.world.okta.attach(tenant)
        for number in range(2_500):
            tenant.sign_in(f"u{number % 50}@acme.example", WIKI, app_name="Wiki", at=NOON - (number % 60 + 1) * DAY)
        tenant.sign_in(ANN, MAIL, app_name="Mail", at=NOON - DAY)
        scanner.connectors.usage_reader = partial(  # type: ignore[attr-defined]
            okta.open_reader, clock=scanner.clock, tuning=QUICK, outgoing=HERE
        )
        org = await connect(scanner)
        sso = await actions.add_connection(
            scanner.deps,
            name="SSO",
            kind="okta",
            settings={"org_url": sandbox.url},
            credentials={"api_token": API_TOKEN},
            test=False,
        )
        offered = await profiles.applications(scanner.deps, sso.id)
        assert [(each.application.id, each.application.name) for each in offered] == [(MAIL, "Mail"), (WIKI, "Wiki")]
        await choose(scanner, sso, WIKI, org)
        await sync(scanner)
        now = await state(scanner, sso)
        assert (now.status, now.problem, now.records) == ("idle", None, 300)
        assert sum(record[3] for record in await records(scanner)) == 2_500
        # Two lists of applications, and three pages of the log.
        assert len(sandbox.world.okta.requests) == 5
        sandbox.world.faults.add("server_unavailable", path_regex="^/api/v1/logs", times=None)
        await profiles.sync_now(scanner.deps, sso.id, by="otto")
        assert await scanner.job("sync")
        assert "503" in str((await state(scanner, sso)).problem)
