"""Scans: what they open, and that nothing is lost, doubled or opened too early, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reclaim.common import migrate
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseClosed, Money, Seat, SeatReactivated, UserFlagged
from reclaim.common.db import open_engine
from reclaim.common.errors import Conflict, Permanent, Transient
from reclaim.connectors.fake import FakeReader
from reclaim.connectors.ports import Incomplete, SeatRecord
from reclaim.scanner import actions, store
from reclaim.scanner.scan import Preview, preview
from reclaim.scanner.store import Connection, Rule, Run
from services.scanner.tests.scanner_world import (
    FAST,
    NOON,
    SECRET,
    SETTINGS,
    TERMS,
    WARNS,
    Scanner,
    filled,
    idle,
    small_org,
    started,
)


async def connected(scanner: Scanner, name: str = "Acme") -> Connection:
    return await actions.add_connection(
        scanner.deps, name=name, kind="salesforce", settings=SETTINGS, credentials={"client_secret": SECRET}
    )


async def ruled(scanner: Scanner, connection: Connection, **terms: Any) -> Rule:
    rule = await actions.add_rule(scanner.deps, connection.id, {**TERMS, **terms}, author="otto")
    return await actions.activate_rule(scanner.deps, rule.id)


async def ready(scanner: Scanner, **terms: Any) -> Rule:
    return await ruled(scanner, await connected(scanner), **terms)


async def scanned(scanner: Scanner, rule: Rule, **how: Any) -> Run:
    """Ask for a scan and work until nothing is due."""
    asked = {"dry_run": False, "accept_population": False, **how}
    run = await actions.start_scan(scanner.deps, rule.id, asked_by="otto", **asked)
    await scanner.scan_all()
    return await found(scanner, run.id)


async def found(scanner: Scanner, run_id: str) -> Run:
    async with scanner.running.database.reading() as db:
        return await store.run(db, run_id)


async def when_read(scanner: Scanner, run_id: str) -> Run:
    """Return a run when its first page was counted."""
    for _ in range(1_000):
        if (run := await found(scanner, run_id)).seen:
            return run
        await asyncio.sleep(0.01)
    raise AssertionError("nothing was read within ten seconds")


async def flagged(scanner: Scanner) -> list[str]:
    return [event.seat.holder.id for event in await scanner.said(UserFlagged)]


def tally_of(shown: Preview) -> dict[str, int]:
    """Who a preview lists as left alone, counted by check."""
    counted = dict(Counter(spared.finding.check for spared in shown.spared))
    assert counted == dict(shown.tally.left_alone)
    return counted


def adds_up(run: Run) -> bool:
    return run.seen == run.used + run.flagged + sum(run.left_alone.values())


def disturb(scanner: Scanner, monkeypatch: pytest.MonkeyPatch, after_pages: int, error: BaseException) -> None:
    """Let the org's list of seats end with an error after so many pages, once."""
    original = FakeReader.seats
    troubles = [error]

    async def seats(self: FakeReader, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        count = 0
        async for page in original(self, products):
            if count == after_pages and troubles:
                raise troubles.pop()
            count += 1
            yield page

    monkeypatch.setattr(FakeReader, "seats", seats)


# ------------------------------------------------------------------------------------------------ the plain path


async def test_a_scan_flags_what_is_unused_and_left_in_peace_by_every_check(both: Scanner) -> None:
    run = await scanned(both, await ready(both))
    assert (run.status, run.seen, run.used, run.flagged) == ("finished", 6, 2, 2)
    assert run.left_alone == {"administrator": 1, "queue_member": 1}
    assert adds_up(run)
    assert (run.percent, run.expected, run.missing, run.reason) == (100, 6, {}, None)
    events = await both.said(UserFlagged)
    assert [event.seat.holder.id for event in events] == ["u00001", "u00002"]
    first = events[0]
    assert first.seat == Seat(
        connection_id=run.connection_id,
        product="SFDC",
        product_name="SFDC",
        holder=first.seat.holder,
        department="Sales",
        price=Money(amount=first.seat.price.amount, currency="USD"),
    )
    assert first.seat.price.amount == 175
    assert first.approver.id == "boss"
    assert first.approver.email == "boss@acme.example"
    assert first.last_used_at == NOON - timedelta(days=120)
    assert events[1].last_used_at is None
    assert len(first.findings) == 10
    assert first.policy.rule_version == 1
    assert not first.policy.dry_run


async def test_a_scan_stores_each_candidate_with_its_evidence(both: Scanner) -> None:
    run = await scanned(both, await ready(both))
    async with both.running.database.reading() as db:
        stored = await store.candidates(db, run_id=run.id)
        assert await store.open_count(db) == 2
        assert [money.amount for money in await store.yearly_of(db, run.id)] == [4200]
    events = {event.case_id: event for event in await both.said(UserFlagged)}
    assert [candidate.case_id for candidate in stored] == sorted(events)
    for candidate in stored:
        event = events[candidate.case_id]
        assert candidate.holder == event.seat.holder
        assert candidate.price == event.seat.price
        assert candidate.approver == event.approver
        assert candidate.findings == event.findings
        assert candidate.last_used_at == event.last_used_at
        assert candidate.outcome is None


async def test_a_second_scan_flags_nobody_twice(both: Scanner) -> None:
    rule = await ready(both)
    await scanned(both, rule)
    again = await scanned(both, rule)
    assert again.flagged == 0
    assert again.left_alone["already_frozen"] == 2
    assert adds_up(again)
    assert await flagged(both) == ["u00001", "u00002"]


async def test_a_dry_run_scan_rehearses_a_live_rule(scanner: Scanner) -> None:
    rule = await ready(scanner, dry_run=False)
    await scanned(scanner, rule, dry_run=True)
    assert {event.policy.dry_run for event in await scanner.said(UserFlagged)} == {True}


async def test_a_live_scan_of_a_dry_rule_stays_dry(scanner: Scanner) -> None:
    rule = await ready(scanner, dry_run=True)
    run = await scanned(scanner, rule, dry_run=False)
    assert (run.dry_run, run.rehearsal) == (False, True)
    assert {event.policy.dry_run for event in await scanner.said(UserFlagged)} == {True}


@pytest.mark.parametrize(
    "changes",
    [{"manager_id": None}, {"manager_id": "u00001"}, {"manager_id": "gone"}],
    ids=["none", "the holder", "unknown"],
)
async def test_without_a_manager_who_can_answer_there_is_no_approver(scanner: Scanner, changes: dict[str, Any]) -> None:
    scanner.org.users["u00001"] = replace(scanner.org.users["u00001"], **changes)
    await scanned(scanner, await ready(scanner))
    event = next(event for event in await scanner.said(UserFlagged) if event.seat.holder.id == "u00001")
    assert event.approver is None


async def test_an_inactive_manager_is_no_approver(scanner: Scanner) -> None:
    scanner.org.users["boss"] = replace(scanner.org.users["boss"], active=False)
    await scanned(scanner, await ready(scanner))
    assert [event.approver for event in await scanner.said(UserFlagged)] == [None, None]


async def test_a_check_that_warns_lets_the_seat_be_flagged_with_the_warning(scanner: Scanner) -> None:
    run = await scanned(scanner, await ready(scanner, **WARNS))
    assert run.flagged == 3
    event = next(event for event in await scanner.said(UserFlagged) if event.seat.holder.id == "u00005")
    assert ("queue_member", "warn") in {(finding.check, finding.outcome) for finding in event.findings}
    assert event.policy.warn_only == ("queue_member",)


@pytest.mark.parametrize(
    ("part", "check"),
    [
        ("last_seen_elsewhere", "active_elsewhere"),
        ("administrators", "administrator"),
        ("frozen", "already_frozen"),
        ("queues", "queue_member"),
        ("open_business", "no_successor"),
        ("thawed_at", "new_account"),
    ],
)
async def test_what_could_not_be_read_flags_nobody_and_is_named(scanner: Scanner, part: str, check: str) -> None:
    rule = await ready(scanner, **WARNS)
    scanner.org.unreadable = {part: "no permission: grant View All Data"}
    run = await scanned(scanner, rule)
    assert run.status == "finished"
    assert run.missing == {part: "no permission: grant View All Data"}
    assert run.flagged == 0
    assert run.left_alone[check] >= 2
    assert adds_up(run)
    assert await flagged(scanner) == []


# ------------------------------------------------------------------------------------------------ preview is scan


async def test_the_preview_shows_exactly_what_the_scan_opens(tmp_path: Path, clock: FixedClock) -> None:
    users = [
        idle(
            number,
            days=number,
            administrator="yes" if number % 7 == 0 else None,
            queue="Support" if number % 11 == 0 else None,
            product="SFDC" if number % 3 else "AUL",
        )
        for number in range(1, 301)
    ]
    org = filled(clock, users, page_size=37)
    org.licences = {"SFDC": 500, "AUL": 500}
    async with started(tmp_path, org, clock) as scanner:
        connection = await connected(scanner)
        excluded = {"kind": "person", "value": "u00150", "reason": "on leave"}
        await actions.add_exclusion(scanner.deps, excluded, author="otto")
        rule = await ruled(scanner, connection, products=["SFDC", "AUL"], **WARNS)
        before = await preview(scanner.deps, connection, rule.terms, rule.id)
        assert await scanner.said(UserFlagged) == []
        run = await scanned(scanner, rule)
        opened = await scanner.said(UserFlagged)
        after = await preview(scanner.deps, connection, rule.terms, rule.id)
    assert before.stopped is None
    assert tally_of(before)["exempt"] == 1
    assert len(before.spared) == sum(tally_of(before).values())
    assert [(f.seat, f.approver, f.findings, f.last_used_at) for f in before.found] == [
        (e.seat, e.approver, e.findings, e.last_used_at) for e in opened
    ]
    tally = before.tally
    assert (tally.seen, tally.used, tally.flagged, dict(tally.left_alone)) == (
        run.seen,
        run.used,
        run.flagged,
        dict(run.left_alone),
    )
    monthly = sum(event.seat.price.amount for event in opened)
    assert [money.amount for money in tally.money()] == [monthly * 12]
    assert after.tally.flagged == 0
    assert after.tally.left_alone["already_frozen"] == run.flagged


async def test_a_preview_says_when_a_scan_would_stop(scanner: Scanner) -> None:
    connection = await connected(scanner)
    rule = await ruled(scanner, connection)
    await scanned(scanner, rule)
    del scanner.org.users["u00003"]
    seen = await preview(scanner.deps, connection, rule.terms, rule.id)
    assert seen.stopped is not None
    assert "10 %" in seen.stopped.reason


# ------------------------------------------------------------------------------------------------ interrupted


@pytest.mark.parametrize("pages", [0, 1, 2])
async def test_a_transient_error_in_mid_scan_waits_and_goes_on(
    both: Scanner, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    both.org.page_size = 2
    rule = await ready(both)
    disturb(both, monkeypatch, pages, Transient("503 SERVER_UNAVAILABLE"))
    run = await actions.start_scan(both.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
    assert await both.job("scan")
    resting = await found(both, run.id)
    assert resting.status == "waiting"
    assert "503" in (resting.reason or "")
    assert "tried again" in (resting.remedy or "")
    assert await flagged(both) == []
    await asyncio.sleep(0.05)
    await both.scan_all()
    done = await found(both, run.id)
    assert (done.status, done.flagged, done.attempts, done.reason) == ("finished", 2, 2, None)
    assert adds_up(done)
    assert await flagged(both) == ["u00001", "u00002"]


async def test_a_scan_gives_up_after_its_last_attempt(tmp_path: Path, clock: FixedClock) -> None:
    few = FAST.model_copy(update={"most_attempts": 3})
    async with started(tmp_path, small_org(clock), clock, scanner_settings=few) as scanner:
        rule = await ready(scanner)
        scanner.org.down = Transient("no answer")
        run = await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
        for _ in range(6):
            await scanner.scan_all()
            await asyncio.sleep(0.03)
        over = await found(scanner, run.id)
        assert (over.status, over.attempts) == ("failed", 3)
        assert "Tried 3 times" in (over.reason or "")
        assert "start the scan again" in (over.remedy or "")
        assert not await scanner.job("scan")


async def test_a_permanent_error_fails_the_scan_and_says_what_to_do(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = await ready(scanner)
    disturb(scanner, monkeypatch, 0, Permanent("The secret is wrong. Enter it again."))
    run = await scanned(scanner, rule)
    assert run.status == "failed"
    assert run.reason == "The secret is wrong. Enter it again."
    assert "scan again" in (run.remedy or "")
    assert await flagged(scanner) == []


async def test_a_defect_fails_the_scan_without_showing_its_insides(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rule = await ready(scanner)
    disturb(scanner, monkeypatch, 0, ZeroDivisionError(SECRET))
    run = await scanned(scanner, rule)
    assert run.status == "failed"
    assert run.reason == "An error on our side: ZeroDivisionError."


@pytest.mark.parametrize("where", ["before the first page", "between pages", "between opening pages"])
async def test_a_scan_whose_process_dies_is_taken_over_and_loses_and_doubles_nothing(
    both: Scanner, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    both.org.page_size = 1
    rule = await ready(both)

    class Killed(BaseException):
        """Like the end of the process: nothing of ours handles it."""

    if where == "between opening pages":
        original = store.take_page
        takes = Counter[str]()

        async def take_page(db: Any, run_id: str) -> Any:
            takes["n"] += 1
            if takes["n"] == 2:
                raise Killed
            return await original(db, run_id)

        monkeypatch.setattr(store, "take_page", take_page)
    else:
        disturb(both, monkeypatch, 0 if where == "before the first page" else 3, Killed())
    run = await actions.start_scan(both.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
    with pytest.raises(Killed):
        await both.job("scan")
    assert await flagged(both) == (["u00001"] if where == "between opening pages" else [])
    assert (await found(both, run.id)).status == "running"
    assert not await both.job("scan"), "its lease is not over yet"
    async with both.running.database.unit() as unit:
        await unit.db.execute(sa.update(store.RUNS).values(look_at=0))
    await both.scan_all()
    done = await found(both, run.id)
    assert (done.status, done.flagged, done.attempts) == ("finished", 2, 2)
    assert adds_up(done)
    assert await flagged(both) == ["u00001", "u00002"]
    assert await both.rows("SELECT * FROM scan_pages") == []


async def test_a_scan_that_is_shut_down_is_handed_back_at_once(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner.org.page_size = 1
    rule = await ready(scanner)
    started_reading = asyncio.Event()
    original = FakeReader.seats

    async def seats(self: FakeReader, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        async for page in original(self, products):
            yield page
            started_reading.set()
            await asyncio.sleep(30)

    monkeypatch.setattr(FakeReader, "seats", seats)
    run = await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
    work = asyncio.create_task(scanner.job("scan"))
    await started_reading.wait()
    under_way = await when_read(scanner, run.id)
    assert (under_way.status, under_way.seen, under_way.pages, under_way.percent) == ("running", 1, 1, 16)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    monkeypatch.setattr(FakeReader, "seats", original)
    await scanner.scan_all()
    assert (await found(scanner, run.id)).flagged == 2
    assert await flagged(scanner) == ["u00001", "u00002"]


async def test_a_process_held_up_past_its_lease_writes_nothing_any_more(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.org.page_size = 2
    rule = await ready(both)
    reached, go_on = asyncio.Event(), asyncio.Event()
    original = FakeReader.seats
    slow = [True]

    async def seats(self: FakeReader, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        held_up = slow and slow.pop()
        async for page in original(self, products):
            yield page
            if held_up:
                reached.set()
                await go_on.wait()

    monkeypatch.setattr(FakeReader, "seats", seats)
    run = await actions.start_scan(both.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
    first = asyncio.create_task(both.job("scan"))
    await reached.wait()
    await when_read(both, run.id)
    async with both.running.database.unit() as unit:
        await unit.db.execute(sa.update(store.RUNS).values(look_at=0))
    assert await both.job("scan")
    go_on.set()
    assert await first
    assert (await found(both, run.id)).status == "finished"
    assert await flagged(both) == ["u00001", "u00002"]


async def test_a_slow_answer_does_not_cost_the_lease(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = FAST.model_copy(update={"lease_seconds": 0.6})
    original = FakeReader.survey

    async def survey(self: FakeReader, holders: Any, *, since: Any) -> Any:
        await asyncio.sleep(1.5)
        return await original(self, holders, since=since)

    async with started(tmp_path, small_org(clock), clock, scanner_settings=short) as scanner:
        rule = await ready(scanner)
        monkeypatch.setattr(FakeReader, "survey", survey)
        run = await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
        work = asyncio.create_task(scanner.job("scan"))
        await asyncio.sleep(1)
        assert not await scanner.job("scan"), "nobody else may claim it"
        await work
        assert (await found(scanner, run.id)).attempts == 1


async def test_two_scans_at_once_open_one_case_a_seat(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    org = filled(clock, [idle(number) for number in range(1, 121)], page_size=10)
    async with started(tmp_path, org, clock, database_url=database_url) as scanner:
        connection = await connected(scanner)
        rules = [await ruled(scanner, connection, name=f"Rule {number}") for number in (1, 2)]
        runs = [
            await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
            for rule in (*rules, rules[0])
        ]
        await asyncio.gather(*(scanner.job("scan") for _ in runs))
        await scanner.scan_all()
        over = [await found(scanner, run.id) for run in runs]
        holders = await flagged(scanner)
    assert [run.status for run in over] == ["finished"] * 3
    assert sum(run.flagged for run in over) == 120
    assert sorted(holders) == sorted(f"u{number:05}" for number in range(1, 121))
    assert all(adds_up(run) for run in over)


# ------------------------------------------------------------------------------------------------ input sanity


async def test_a_truncated_list_opens_nothing(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    scanner.org.page_size = 2
    rule = await ready(scanner)
    disturb(scanner, monkeypatch, 2, Incomplete("4 of 6 rows came."))
    run = await scanned(scanner, rule)
    assert run.status == "stopped"
    assert "4 of 6" in (run.reason or "")
    assert "Nothing was opened" in (run.remedy or "")
    assert await flagged(scanner) == []


async def test_an_org_without_such_seats_stops_the_scan(scanner: Scanner) -> None:
    rule = await ready(scanner)
    scanner.org.users.clear()
    run = await scanned(scanner, rule)
    assert run.status == "stopped"
    assert "Nobody holds" in (run.reason or "")


async def test_seats_that_are_announced_and_not_listed_stop_the_scan(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seats(_self: FakeReader, _products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        for page in ():
            yield page

    rule = await ready(scanner)
    monkeypatch.setattr(FakeReader, "seats", seats)
    run = await scanned(scanner, rule)
    assert (run.status, run.expected) == ("stopped", 6)
    assert "listed none" in (run.reason or "")


async def test_a_licence_that_is_gone_stops_the_scan(scanner: Scanner) -> None:
    rule = await ready(scanner)
    scanner.org.licences = {"AUL": 10}
    run = await scanned(scanner, rule)
    assert run.status == "stopped"
    assert "AUL" in (run.remedy or "")


async def test_a_population_far_from_the_last_scan_stops_it_until_a_person_accepts_it(
    tmp_path: Path, clock: FixedClock
) -> None:
    org = filled(clock, [idle(number, days=200 if number < 4 else 2) for number in range(1, 40)])
    async with started(tmp_path, org, clock) as scanner:
        rule = await ready(scanner)
        assert (await scanned(scanner, rule)).status == "finished"
        for number in range(30, 35):
            del org.users[f"u{number:05}"]
        off = await scanned(scanner, rule)
        assert off.status == "stopped"
        assert "35" in (off.reason or "")
        assert "40" in (off.reason or "")
        assert "accept the new population" in (off.remedy or "")
        assert (await scanned(scanner, rule, accept_population=True)).status == "finished"
        assert (await scanned(scanner, rule)).status == "finished"


async def test_seats_that_we_reclaimed_ourselves_are_no_reason_to_stop(tmp_path: Path, clock: FixedClock) -> None:
    org = filled(clock, [idle(number, days=200 if number < 11 else 2) for number in range(1, 40)])
    async with started(tmp_path, org, clock) as scanner:
        rule = await ready(scanner)
        await scanned(scanner, rule)
        cases = await scanner.said(UserFlagged)
        assert len(cases) == 10
        clock.advance(timedelta(days=1))
        await scanner.hear(
            *(
                CaseClosed(case_id=case.case_id, outcome="reclaimed", reason="done", closed_at=clock.now())
                for case in cases
            )
        )
        for case in cases:
            org.users[case.seat.holder.id].active = False
        run = await scanned(scanner, rule)
        assert (run.status, run.seen) == ("finished", 30)


async def test_other_products_have_no_baseline(scanner: Scanner) -> None:
    scanner.org.licences = {"SFDC": 10, "AUL": 10}
    scanner.org.users |= {f"p{number}": idle(number, id=f"p{number}", product="AUL") for number in range(20)}
    rule = await ready(scanner)
    await scanned(scanner, rule)
    await actions.change_rule(scanner.deps, rule.id, {"products": ["SFDC", "AUL"]}, author="otto")
    assert (await scanned(scanner, rule)).status == "finished"


# ------------------------------------------------------------------------------------------------ the rule meanwhile


async def test_only_an_active_rule_is_scanned(scanner: Scanner) -> None:
    rule = await ready(scanner)
    await actions.pause_rule(scanner.deps, rule.id)
    with pytest.raises(Conflict, match="paused"):
        await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")


@pytest.mark.parametrize("change", ["pause", "edit", "remove"])
async def test_a_rule_that_changes_while_it_is_scanned_opens_nothing(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    rule = await ready(scanner)
    original = FakeReader.seats

    async def seats(self: FakeReader, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        async for page in original(self, products):
            yield page
        if change == "pause":
            await actions.pause_rule(scanner.deps, rule.id)
        elif change == "edit":
            await actions.change_rule(scanner.deps, rule.id, {"dry_run": True}, author="otto")
        else:
            await actions.remove_connection(scanner.deps, rule.connection_id)

    monkeypatch.setattr(FakeReader, "seats", seats)
    run = await scanned(scanner, rule)
    assert run.status == "stopped"
    assert "again" in (run.remedy or "")
    assert await flagged(scanner) == []


async def test_an_edit_leaves_open_cases_as_they_were(scanner: Scanner) -> None:
    rule = await ready(scanner)
    await scanned(scanner, rule)
    await actions.change_rule(scanner.deps, rule.id, {"grace_days": 30}, author="otto")
    async with scanner.running.database.reading() as db:
        assert {candidate.rule_version for candidate in await store.candidates(db)} == {1}
    assert {event.policy.grace_days for event in await scanner.said(UserFlagged)} == {14}


# ------------------------------------------------------------------------------------------------ what others say


def closed(case_id: str, outcome: Any, at: Any) -> CaseClosed:
    return CaseClosed(case_id=case_id, outcome=outcome, reason="because", closed_at=at)


@pytest.mark.parametrize("outcome", ["cancelled", "skipped", "reclaimed"])
async def test_a_closed_case_frees_its_seat(both: Scanner, outcome: str) -> None:
    rule = await ready(both)
    await scanned(both, rule)
    first, second = await both.said(UserFlagged)
    await both.hear(closed(first.case_id, outcome, NOON))
    again = await scanned(both, rule)
    assert again.flagged == 1
    assert await flagged(both) == [*[e.seat.holder.id for e in (first, second)], first.seat.holder.id]


@pytest.mark.parametrize("outcome", ["kept", "restored"])
async def test_a_kept_seat_is_left_in_peace_for_the_cooldown(both: Scanner, outcome: str) -> None:
    rule = await ready(both, cooldown_days=60)
    await scanned(both, rule)
    first = (await both.said(UserFlagged))[0]
    kept_at = both.clock.now()
    await both.hear(closed(first.case_id, outcome, kept_at))
    both.clock.advance(timedelta(days=59))
    assert (await scanned(both, rule)).flagged == 0
    connection = (await both.rows("SELECT id FROM connections"))[0].id
    async with both.running.database.reading() as db:
        held = await store.held(db, connection, ["u00001"], cooldown_days=60, now=both.clock.now())
    assert held.back == {("u00001", "SFDC"): f"{outcome} on 2026-11-20; asked again from 2027-01-19"}
    both.clock.advance(timedelta(days=1))
    assert (await scanned(both, rule)).flagged == 1


async def test_a_cooldown_of_nothing_holds_nobody_back(scanner: Scanner) -> None:
    rule = await ready(scanner, cooldown_days=0)
    await scanned(scanner, rule)
    first = (await scanner.said(UserFlagged))[0]
    await scanner.hear(closed(first.case_id, "kept", NOON))
    assert (await scanned(scanner, rule)).flagged == 1


async def test_a_reactivated_seat_is_left_in_peace_for_the_cooldown(both: Scanner) -> None:
    rule = await ready(both)
    await scanned(both, rule)
    first = (await both.said(UserFlagged))[0]
    back = SeatReactivated(
        case_id=first.case_id,
        seat=first.seat,
        rule_id=rule.id,
        rule_name="Idle",
        actor="otto",
        reason="needed",
        reactivated_at=NOON,
        dry_run=False,
    )
    # In either order: the reactivation may be heard of before the end of the case it follows.
    await both.hear(back)
    await both.hear(closed(first.case_id, "reclaimed", NOON - timedelta(days=1)), back)
    assert (await scanned(both, rule)).left_alone["already_frozen"] == 2


async def test_holds_keep_the_latest_whatever_the_order(both: Scanner) -> None:
    def hold(cause: str, day: int) -> store.Hold:
        return store.Hold("c", "h", "SFDC", cause, NOON + timedelta(days=day), dry_run=False)

    for order in ([hold("kept", 1), hold("restored", 5), hold("kept", 3)], [hold("kept", 2)]):
        async with both.running.database.unit() as unit:
            await store.hold_back(unit.db, order)
    rows = await both.rows("SELECT cause FROM holds")
    assert [row.cause for row in rows] == ["restored"]


async def test_the_end_of_a_case_not_heard_of_yet_waits_and_lets_its_neighbours_through(scanner: Scanner) -> None:
    rule = await ready(scanner)
    await scanned(scanner, rule)
    first, second = await scanner.said(UserFlagged)
    await scanner.hear(
        closed(first.case_id, "skipped", NOON), closed("unknown", "kept", NOON), closed(second.case_id, "skipped", NOON)
    )
    async with scanner.running.database.reading() as db:
        assert await store.open_count(db) == 0
    aside = await scanner.rows("SELECT reason, due FROM set_aside")
    assert len(aside) == 1
    assert "unknown" in aside[0].reason
    assert aside[0].due is not None


async def test_an_event_that_comes_twice_has_its_effect_once(scanner: Scanner) -> None:
    rule = await ready(scanner)
    await scanned(scanner, rule)
    first = (await scanner.said(UserFlagged))[0]
    for _ in range(2):
        await scanner.hear(closed(first.case_id, "kept", NOON), batch="the same")
    await scanner.hear(closed(first.case_id, "skipped", NOON + timedelta(days=1)))
    rows = await scanner.rows("SELECT outcome FROM candidates WHERE id = :id", id=first.case_id)
    assert [row.outcome for row in rows] == ["kept"]


# ------------------------------------------------------------------------------------------------ the schedule


async def test_each_due_instant_enqueues_one_run(both: Scanner) -> None:
    rule = await ready(both, schedule="*/5 * * * *", time_zone="Europe/Berlin")
    await both.job("schedule")
    assert await both.rows("SELECT id FROM scan_runs") == [], "activated at noon: noon itself is not due"
    both.clock.advance(timedelta(minutes=5))
    for _ in range(3):
        await asyncio.gather(both.job("schedule"), both.job("schedule"))
    runs = await both.rows("SELECT asked_by, status, dry_run FROM scan_runs")
    assert [(row.asked_by, row.status, bool(row.dry_run)) for row in runs] == [("schedule", "queued", False)]
    await both.scan_all()
    both.clock.advance(timedelta(minutes=5))
    await both.job("schedule")
    assert len(await both.rows("SELECT id FROM scan_runs")) == 2
    async with both.running.database.reading() as db:
        due = {run.due_at for run in await store.runs(db, rule_id=rule.id)}
    assert due == {NOON + timedelta(minutes=5), NOON + timedelta(minutes=10)}


async def test_of_instants_that_were_missed_only_the_latest_is_made_up_for(scanner: Scanner) -> None:
    await ready(scanner, schedule="0 6 * * *")
    scanner.clock.advance(timedelta(days=14))
    await scanner.job("schedule")
    await scanner.job("schedule")
    rows = await scanner.rows("SELECT due_at FROM scan_runs")
    assert len(rows) == 1
    assert str(rows[0].due_at).startswith("2026-12-04 06:00")


async def test_a_rule_that_is_being_scanned_is_not_scanned_again(scanner: Scanner) -> None:
    await ready(scanner, schedule="* * * * *")
    for _ in range(3):
        scanner.clock.advance(timedelta(minutes=1))
        await scanner.job("schedule")
    assert len(await scanner.rows("SELECT id FROM scan_runs")) == 1


async def test_a_clock_moved_back_enqueues_nothing(scanner: Scanner) -> None:
    await ready(scanner, schedule="* * * * *")
    scanner.clock.advance(timedelta(minutes=1))
    await scanner.job("schedule")
    await scanner.scan_all()
    scanner.clock.advance(timedelta(hours=-2))
    await scanner.job("schedule")
    assert len(await scanner.rows("SELECT id FROM scan_runs")) == 1


async def test_a_paused_rule_is_not_due_and_counts_anew_when_activated(scanner: Scanner) -> None:
    rule = await ready(scanner, schedule="* * * * *")
    await actions.pause_rule(scanner.deps, rule.id)
    scanner.clock.advance(timedelta(days=3))
    await scanner.job("schedule")
    await actions.activate_rule(scanner.deps, rule.id)
    await scanner.job("schedule")
    assert await scanner.rows("SELECT id FROM scan_runs") == []


# ------------------------------------------------------------------------------------------------ the database


async def test_the_migrations_make_what_the_code_declares(tmp_path: Path, database_url: str | None) -> None:
    engine = open_engine(database_url or f"sqlite+aiosqlite:///{tmp_path}/fresh.db")
    migrations = Path(store.__file__).parent / "migrations"
    await migrate.upgrade(engine, migrations)
    await migrate.upgrade(engine, migrations)
    assert await migrate.differences(engine, store.metadata) == []
    await engine.dispose()
