"""Suites in a running scanner: what a scan opens, what a merge makes of open cases, what looking again takes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from reclaim.common import migrate
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseClosed, CaseWithdrawn, Outcome, UserFlagged
from reclaim.common.db import open_engine
from reclaim.common.errors import Transient
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.ports import Members, SeatReader
from reclaim.scanner import actions, catalog_actions, catalog_store, groups, service, store
from reclaim.scanner import merging as merging_module
from reclaim.scanner.catalog import Changes, Row
from reclaim.scanner.scan import preview
from reclaim.scanner.store import Rule
from services.scanner.tests.scanner_world import FAST, NOON, Scanner
from services.scanner.tests.suite_world import SuiteOrg, row_of, ruled, scanned, seats, world


@pytest.fixture
async def office(tmp_path: Path, clock: FixedClock, database_url: str | None) -> AsyncIterator[Scanner]:
    """The world on both databases."""
    async with world(tmp_path, clock, database_url) as scanner:
        yield scanner


async def legacy(scanner: Scanner, *products: str, **terms: Any) -> Rule:
    """A rule as an earlier release left it: the migration found it and kept what it names."""
    rule = await ruled(scanner, *products, **terms)
    async with scanner.running.database.unit() as unit:
        rows = tuple(stored.row for stored in await catalog_store.rows(unit.db, rule.id))
        old = tuple(Row(product=product, mode="legacy") for product in products)
        await catalog_store.write(unit.db, rule.id, Changes(added=old, removed=rows), author="before", now=unit.now)
    return rule


async def rows(scanner: Scanner, rule: Rule) -> list[tuple[str, str, str]]:
    async with scanner.running.database.reading() as db:
        return [(one.row.parent, one.row.product, one.row.mode) for one in await catalog_store.rows(db, rule.id)]


async def close(scanner: Scanner, *cases: tuple[str, Outcome], merged: bool = False) -> None:
    await scanner.hear(
        *(
            CaseClosed(
                case_id=case_id,
                outcome=outcome,
                reason="said by a test",
                closed_at=scanner.clock.now(),
                withdrawn="merged" if merged else None,
            )
            for case_id, outcome in cases
        )
    )


async def review(scanner: Scanner) -> list[CaseWithdrawn]:
    before = len(await scanner.said(CaseWithdrawn))
    while await scanner.job("review"):
        pass
    found: list[CaseWithdrawn] = (await scanner.said(CaseWithdrawn))[before:]
    return found


# ------------------------------------------------------------------------------------------------ scans


async def test_a_suite_is_one_case_per_holder_and_word_used_keeps_it(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    flagged = await scanned(office, rule)
    assert seats(flagged) == [("ann", "OFFICE"), ("cid", "OFFICE")], "bob uses Excel: his idle Word is kept"
    ann = next(event for event in flagged if event.seat.holder.id == "ann")
    assert (ann.seat.product_name, ann.seat.components) == ("Office", ("EXCEL", "WORD"))
    assert ann.last_used_at is not None
    assert (NOON - ann.last_used_at).days == 150
    assert ann.seats_total == 3
    assert await scanned(office, rule) == [], "an open case holds its seat"


async def test_a_preview_shows_exactly_what_the_scan_opens(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", "VISIO")
    async with office.running.database.reading() as db:
        connection = await store.connection(db, rule.connection_id)
    shown = await preview(office.deps, connection, rule.terms, rule.id)
    unsaved = await preview(office.deps, connection, rule.terms)
    flagged = await scanned(office, rule)
    assert sorted((found.seat.holder.id, found.seat.product) for found in shown.found) == seats(flagged)
    assert [found.key for found in unsaved.found] == [found.key for found in shown.found]
    assert shown.tally.flagged == len(flagged)
    assert shown.tally.seen == 4


async def test_two_rules_that_match_one_seat_open_one_case(office: Scanner) -> None:
    suite, part = await ruled(office, "OFFICE"), await ruled(office, "WORD", name="Word alone")
    assert seats(await scanned(office, suite)) == [("ann", "OFFICE"), ("cid", "OFFICE")]
    assert seats(await scanned(office, part)) == [("bob", "WORD")], "ann is asked about Office already"
    await close(office, *((event.case_id, "kept") for event in await office.said(UserFlagged)))
    assert await scanned(office, part) == []
    assert await scanned(office, suite) == [], "who keeps the whole keeps the parts, and the other way round"


async def test_a_part_that_is_asked_about_holds_the_whole_back(office: Scanner) -> None:
    part, suite = await ruled(office, "WORD", name="Word alone"), await ruled(office, "OFFICE")
    assert seats(await scanned(office, part)) == [("ann", "WORD"), ("bob", "WORD")]
    assert seats(await scanned(office, suite)) == [("cid", "OFFICE")]


async def test_a_legacy_row_flags_its_own_product_and_nothing_else(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD")
    assert seats(await scanned(office, rule)) == [("ann", "WORD"), ("bob", "WORD"), ("cid", "OFFICE")]


# ------------------------------------------------------------------------------------------------ merging


async def test_readding_makes_a_legacy_suite_bulk_and_merges_open_cases(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD", "EXCEL")
    flagged = {(event.seat.holder.id, event.seat.product): event.case_id for event in await scanned(office, rule)}
    assert sorted(flagged) == [("ann", "EXCEL"), ("ann", "WORD"), ("bob", "WORD"), ("cid", "OFFICE")]
    await catalog_actions.renew_in_rule(office.deps, rule.id, await row_of(office, rule, "OFFICE"), author="otto")
    assert ("OFFICE", "WORD", "bulk") in await rows(office, rule)
    withdrawn = await office.said(CaseWithdrawn)
    asked = {event.case_id for event in withdrawn}
    assert asked == {flagged["ann", "EXCEL"], flagged["ann", "WORD"], flagged["bob", "WORD"]}, "cid's is the whole"
    assert {(event.kind, event.actor) for event in withdrawn} == {("merged", "otto")}
    assert all("Office is reclaimed as a whole now" in event.reason for event in withdrawn)
    before = len(await office.said(UserFlagged))
    assert await scanned(office, rule) == [], "nobody is asked twice while the parts are being withdrawn"

    await close(office, (flagged["ann", "EXCEL"], "skipped"), (flagged["ann", "WORD"], "skipped"), merged=True)
    assert await review(office) == []
    (opened,) = (await office.said(UserFlagged))[before:]
    assert (opened.seat.holder.id, opened.seat.product) == ("ann", "OFFICE")
    assert opened.policy.rule_version == 2, "by the rule as it is now"
    assert opened.seat.components == ("EXCEL", "WORD")
    assert opened.seats_total == 3, "the present reading counts them"
    await close(office, (flagged["ann", "EXCEL"], "skipped"), merged=True)
    await review(office)
    assert len(await office.said(UserFlagged)) == before + 1, "once"
    async with office.running.database.reading() as db:
        open_now = await store.candidates(db, rule_id=rule.id, is_open=True)
    assert sorted((one.holder.id, one.product) for one in open_now) == [
        ("ann", "OFFICE"),
        ("bob", "WORD"),
        ("cid", "OFFICE"),
    ]


async def test_taking_out_and_putting_in_again_does_the_same_as_renewing(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD")
    flagged = {(event.seat.holder.id, event.seat.product): event.case_id for event in await scanned(office, rule)}
    await catalog_actions.remove_from_rule(office.deps, rule.id, await row_of(office, rule, "OFFICE"), author="otto")
    await office.job("review")
    assert await office.said(CaseWithdrawn) == [], "what a person edits leaves open cases alone"
    await catalog_actions.add_to_rule(office.deps, rule.id, "OFFICE", author="otto")
    assert ("", "OFFICE", "bulk") in await rows(office, rule)
    asked = {event.case_id for event in await office.said(CaseWithdrawn)}
    assert asked == {flagged["ann", "WORD"], flagged["bob", "WORD"]}


async def test_cases_past_the_decision_are_left_out_of_the_merge(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD", "EXCEL")
    flagged = {(event.seat.holder.id, event.seat.product): event.case_id for event in await scanned(office, rule)}
    await catalog_actions.renew_in_rule(office.deps, rule.id, await row_of(office, rule, "OFFICE"), author="otto")
    before = len(await office.said(UserFlagged))
    # The lifecycle refuses to withdraw ann's Word and bob's only case: both were decided upon. It says so by silence.
    await close(office, (flagged["ann", "EXCEL"], "skipped"), merged=True)
    await review(office)
    assert len(await office.said(UserFlagged)) == before, "a part of it is being taken back"
    await close(office, (flagged["ann", "WORD"], "reclaimed"), (flagged["bob", "WORD"], "skipped"))
    await review(office)
    assert seats((await office.said(UserFlagged))[before:]) == [("ann", "OFFICE")], "bob's brings no case of the whole"
    assert await office.rows("SELECT * FROM merges") == []
    assert await office.rows("SELECT * FROM openings") == []


async def test_who_kept_a_part_meanwhile_is_not_asked_about_the_whole(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD", "EXCEL")
    flagged = {(event.seat.holder.id, event.seat.product): event.case_id for event in await scanned(office, rule)}
    await catalog_actions.renew_in_rule(office.deps, rule.id, await row_of(office, rule, "OFFICE"), author="otto")
    before = len(await office.said(UserFlagged))
    await close(office, (flagged["ann", "WORD"], "kept"))
    await close(office, (flagged["ann", "EXCEL"], "skipped"), merged=True)
    await review(office)
    assert len(await office.said(UserFlagged)) == before


async def test_who_was_excluded_meanwhile_is_not_asked_about_the_whole(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD")
    flagged = {event.seat.holder.id: event.case_id for event in await scanned(office, rule)}
    await catalog_actions.renew_in_rule(office.deps, rule.id, await row_of(office, rule, "OFFICE"), author="otto")
    before = len(await office.said(UserFlagged))
    raw = {"kind": "person", "value": "ann", "reason": "parental leave"}
    await actions.add_exclusion(office.deps, raw, author="otto")
    await close(office, (flagged["ann"], "skipped"), merged=True)
    await review(office)
    assert len(await office.said(UserFlagged)) == before
    assert await office.rows("SELECT * FROM openings") == []


async def test_merged_cases_are_a_dry_run_if_one_of_them_was(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD", dry_run=True)
    flagged = await scanned(office, rule)
    await actions.change_rule(office.deps, rule.id, {"dry_run": False}, author="otto")
    await catalog_actions.renew_in_rule(office.deps, rule.id, await row_of(office, rule, "OFFICE"), author="otto")
    word = next(event.case_id for event in flagged if event.seat.holder.id == "ann")
    await close(office, (word, "skipped"), merged=True)
    await review(office)
    last = (await office.said(UserFlagged))[-1]
    assert (last.seat.product, last.policy.dry_run) == ("OFFICE", True)


async def merging(scanner: Scanner, *holders: str, **terms: Any) -> tuple[Rule, dict[tuple[str, str], str]]:
    """Have the cases of a rule merged, up to the lifecycle's answer; return the rule and the cases."""
    rule = await legacy(scanner, "OFFICE", "WORD", "EXCEL", **terms)
    cases = {(event.seat.holder.id, event.seat.product): event.case_id for event in await scanned(scanner, rule)}
    await catalog_actions.renew_in_rule(scanner.deps, rule.id, await row_of(scanner, rule, "OFFICE"), author="otto")
    return rule, cases


async def answered(scanner: Scanner, cases: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Let ann's cases be withdrawn, and return what is opened for her then."""
    before = len(await scanner.said(UserFlagged))
    parts = [(cases["ann", part], "skipped") for part in ("WORD", "EXCEL")]
    await close(scanner, *parts, merged=True)  # type: ignore[arg-type]
    await review(scanner)
    return seats((await scanner.said(UserFlagged))[before:])


async def test_who_uses_a_part_again_is_not_asked_about_the_whole(office: Scanner) -> None:
    _rule, cases = await merging(office)
    org = office.org
    assert isinstance(org, SuiteOrg)
    org.own("ann", WORD=200, EXCEL=1)
    assert await answered(office, cases) == []
    assert await office.rows("SELECT * FROM openings") == []


async def test_a_rule_that_was_paused_opens_nothing_for_what_was_merged(office: Scanner) -> None:
    rule, cases = await merging(office)
    await actions.pause_rule(office.deps, rule.id)
    assert await answered(office, cases) == []
    await actions.activate_rule(office.deps, rule.id)
    assert seats(await scanned(office, rule)) == [("ann", "OFFICE")], "a scan asks about her again"


@pytest.mark.parametrize(
    ("change", "check"),
    [({"administrator": "may manage users"}, "administrator"), ({"created_at": NOON}, "new_account")],
    ids=["administrator", "new"],
)
async def test_whom_a_check_protects_by_now_is_not_asked_about_the_whole(
    office: Scanner, change: dict[str, Any], check: str
) -> None:
    rule, cases = await merging(office)
    for name, value in change.items():
        setattr(office.org.users["ann"], name, value)
    assert await answered(office, cases) == [], check
    assert seats(await scanned(office, rule)) == [], "and a scan says the same"


async def test_another_rules_case_of_a_part_holds_the_merged_one_back(office: Scanner) -> None:
    _rule, cases = await merging(office)
    other = await ruled(office, "WORD", name="Word alone")
    await close(office, (cases["ann", "WORD"], "skipped"), merged=True)
    assert ("ann", "WORD") in seats(await scanned(office, other)), "it was faster"
    await close(office, (cases["ann", "EXCEL"], "skipped"), merged=True)
    before = len(await office.said(UserFlagged))
    await review(office)
    assert len(await office.said(UserFlagged)) == before
    assert await office.rows("SELECT * FROM openings") == []


async def test_a_group_that_cannot_be_read_for_a_moment_puts_the_merged_cases_off(office: Scanner) -> None:
    rule, cases = await merging(office)
    office.org.groups["VIP"] = {"bob"}
    raw = {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "on the board"}
    await actions.add_exclusion(office.deps, raw, author="otto")
    office.org.unreadable["VIP"] = "QUERY_TIMEOUT"
    office.org.passing = {"VIP"}
    await close(office, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
    before = len(await office.said(UserFlagged))
    assert await office.job("review") is True
    assert len(await office.said(UserFlagged)) == before
    office.org.unreadable, office.org.passing = {}, set()
    await catalog_actions.review_again(office.deps, rule.id)
    await review(office)
    assert seats((await office.said(UserFlagged))[before:]) == [("ann", "OFFICE")]


async def test_a_group_that_is_excluded_during_the_reading_puts_the_merged_cases_off(
    office: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, cases = await merging(office)
    office.org.groups["VIP"] = {"bob"}
    read = groups.read

    async def and_one_more(reader: SeatReader, wanted: Collection[str]) -> dict[str, Members]:
        found = await read(reader, wanted)
        monkeypatch.undo()
        raw = {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "on the board"}
        await actions.add_exclusion(office.deps, raw, author="otto")
        return found

    monkeypatch.setattr(groups, "read", and_one_more)
    await close(office, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
    before = len(await office.said(UserFlagged))
    assert await office.job("review") is True
    await catalog_actions.review_again(office.deps, rule.id)
    await review(office)
    assert seats((await office.said(UserFlagged))[before:]) == [("ann", "OFFICE")]


async def test_an_org_that_is_away_puts_the_merged_cases_off(office: Scanner) -> None:
    rule, cases = await merging(office)
    office.org.down = Transient("503 SERVER_UNAVAILABLE")
    await close(office, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
    before = len(await office.said(UserFlagged))
    assert await office.job("review") is True
    assert len(await office.said(UserFlagged)) == before
    office.org.down = None
    await catalog_actions.review_again(office.deps, rule.id)
    await review(office)
    assert seats((await office.said(UserFlagged))[before:]) == [("ann", "OFFICE")]


async def test_a_merged_case_that_cannot_be_opened_holds_no_withdrawal_back(
    office: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, cases = await merging(office)
    await close(office, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
    org = office.org
    assert isinstance(org, SuiteOrg)
    del org.owned["cid"]
    await catalog_actions.change_product(office.deps, "OFFICE", {"components": ["EXCEL", "WORD", "VISIO"]}, author="o")
    original = merging_module._read

    async def refused(*_args: Any) -> Any:
        raise Transient("503 SERVER_UNAVAILABLE")

    monkeypatch.setattr(merging_module, "_read", refused)
    before = len(await office.said(UserFlagged))
    assert await office.job("review") is True
    taken = [event.case_id for event in await office.said(CaseWithdrawn) if event.kind != "merged"]
    assert taken == [cases["cid", "OFFICE"]]
    assert await office.job("review") is True
    async with office.running.database.reading() as db:
        problem = await catalog_store.review_problem(db, rule.id)
    assert problem == "Merged cases wait to be opened: 503 SERVER_UNAVAILABLE"
    monkeypatch.setattr(merging_module, "_read", original)
    told = len(await office.said(CaseWithdrawn))
    await catalog_actions.review_again(office.deps, rule.id)
    assert await review(office) == [], "what was taken back is not taken back again"
    assert len(await office.said(CaseWithdrawn)) == told
    assert ("ann", "OFFICE") in seats((await office.said(UserFlagged))[before:])
    async with office.running.database.reading() as db:
        assert await catalog_store.review_problem(db, rule.id) is None


async def test_an_org_is_read_once_for_all_merges_that_settle_in_a_while(
    tmp_path: Path, clock: FixedClock, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = FAST.model_copy(update={"merge_seconds": 600})
    async with world(tmp_path, clock, database_url, settings=patient) as scanner:
        rule, cases = await merging(scanner)
        readings = 0
        original = merging_module._read

        async def counted(*args: Any) -> Any:
            nonlocal readings
            readings += 1
            return await original(*args)

        monkeypatch.setattr(merging_module, "_read", counted)
        for key in (("ann", "WORD"), ("ann", "EXCEL"), ("bob", "WORD")):
            await close(scanner, (cases[key], "skipped"), merged=True)
            assert await scanner.job("review") is False, "merges settle"
        await catalog_actions.review_again(scanner.deps, rule.id)
        await review(scanner)
        assert readings == 1
        assert await scanner.rows("SELECT * FROM openings") == []


@pytest.mark.parametrize("part", ["pending_approvals", "last_seen_elsewhere"])
async def test_a_part_of_a_survey_that_cannot_be_read_for_a_moment_puts_the_merged_cases_off(
    office: Scanner, part: str
) -> None:
    rule, cases = await merging(office)
    office.org.unreadable[part] = "QUERY_TIMEOUT"
    await close(office, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
    before = len(await office.said(UserFlagged))
    assert await office.job("review") is True
    assert len(await office.said(UserFlagged)) == before
    async with office.running.database.reading() as db:
        problem = await catalog_store.review_problem(db, rule.id)
    assert problem == f"Merged cases wait to be opened: {part.replace('_', ' ')} could not be read: QUERY_TIMEOUT"
    del office.org.unreadable[part]
    while await office.rows("SELECT * FROM reviews"):
        await office.job("review")
    assert seats((await office.said(UserFlagged))[before:]) == [("ann", "OFFICE")], "without a scan, and nobody asked"
    assert await office.rows("SELECT * FROM openings") == []


async def test_merged_cases_whose_survey_stays_unreadable_are_kept_and_not_tried_for_ever(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    thrice = FAST.model_copy(update={"most_attempts": 3})
    async with world(tmp_path, clock, database_url, settings=thrice) as scanner:
        rule, cases = await merging(scanner)
        scanner.org.unreadable["queues"] = "INSUFFICIENT_ACCESS"
        before = len(await scanner.said(UserFlagged))
        await close(scanner, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
        while await scanner.rows("SELECT * FROM reviews WHERE look_at IS NOT NULL"):
            await scanner.job("review")
        assert [row.attempts for row in await scanner.rows("SELECT attempts FROM reviews")] == [3]
        assert len(await scanner.rows("SELECT * FROM openings")) == 1
        scanner.org.unreadable = {}
        await catalog_actions.review_again(scanner.deps, rule.id)
        await review(scanner)
        assert seats((await scanner.said(UserFlagged))[before:]) == [("ann", "OFFICE")], "when a person has mended it"


ASKED_MEANWHILE = {"ann": {"WORD": 200, "EXCEL": 150}, "cid": {"OFFICE": None}, "eve": {"WORD": 200}}


async def test_what_is_asked_for_while_merged_cases_are_opened_is_read_next_and_not_beside_them(
    tmp_path: Path, clock: FixedClock, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, clock, database_url, ASKED_MEANWHILE) as scanner:
        _rule, cases = await merging(scanner)
        original = merging_module._read

        async def and_one_more(*args: Any) -> Any:
            monkeypatch.undo()
            await close(scanner, (cases["eve", "WORD"], "skipped"), merged=True)
            assert await scanner.job("review") is False, "one reading at a time"
            return await original(*args)

        monkeypatch.setattr(merging_module, "_read", and_one_more)
        before = len(await scanner.said(UserFlagged))
        await close(scanner, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
        assert await scanner.job("review") is True
        assert seats((await scanner.said(UserFlagged))[before:]) == [("ann", "OFFICE")]
        assert await scanner.job("review") is True
        assert seats((await scanner.said(UserFlagged))[before:]) == [("ann", "OFFICE"), ("eve", "OFFICE")]
        assert await scanner.rows("SELECT * FROM reviews") == []


@pytest.mark.parametrize(("most_attempts", "attempts"), [(5, 1), (1, 0)], ids=["put off", "given up"])
async def test_what_is_asked_for_during_a_reading_that_fails_keeps_the_wait_and_is_not_given_up_with_it(
    tmp_path: Path,
    clock: FixedClock,
    database_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
    most_attempts: int,
    attempts: int,
) -> None:
    slow = FAST.model_copy(
        update={"first_wait_seconds": 600, "longest_wait_seconds": 600, "most_attempts": most_attempts}
    )
    async with world(tmp_path, clock, database_url, ASKED_MEANWHILE, settings=slow) as scanner:
        rule, cases = await merging(scanner)
        original = merging_module._read

        async def asked_and_refused(*_args: Any) -> Any:
            for _twice in range(2):
                await close(scanner, (cases["eve", "WORD"], "skipped"), merged=True)
            raise Transient("503 SERVER_UNAVAILABLE")

        monkeypatch.setattr(merging_module, "_read", asked_and_refused)
        before = len(await scanner.said(UserFlagged))
        await close(scanner, (cases["ann", "WORD"], "skipped"), (cases["ann", "EXCEL"], "skipped"), merged=True)
        assert await scanner.job("review") is True
        (waiting,) = await scanner.rows("SELECT * FROM reviews")
        assert (waiting.attempts, waiting.lease) == (attempts, None)
        due = waiting.look_at <= wall_milliseconds()
        assert due is (most_attempts == 1), "what failed waits; what is new is not given up before it was read"
        assert ("SERVER_UNAVAILABLE" in (waiting.problem or "")) is not due
        await close(scanner, (cases["eve", "WORD"], "skipped"), merged=True)
        assert await scanner.rows("SELECT * FROM reviews") == [waiting], "a request more pushes nothing about"
        monkeypatch.setattr(merging_module, "_read", original)
        await catalog_actions.review_again(scanner.deps, rule.id)
        await review(scanner)
        assert seats((await scanner.said(UserFlagged))[before:]) == [("ann", "OFFICE"), ("eve", "OFFICE")]


# ------------------------------------------------------------------------------------------------ looking again


async def test_a_component_that_the_catalogue_drops_goes_and_its_open_case_is_looked_at_again(office: Scanner) -> None:
    org = office.org
    assert isinstance(org, SuiteOrg)
    org.own("eve", WORD=400)
    org.users["eve"] = replace(org.users["ann"], id="eve", name="Eve", email="eve@acme.example")
    rule = await ruled(office, "OFFICE")
    flagged = {event.seat.holder.id: event.case_id for event in await scanned(office, rule)}
    assert sorted(flagged) == ["ann", "cid", "eve"]
    await catalog_actions.change_product(office.deps, "OFFICE", {"components": ["EXCEL"]}, author="olga")
    assert await rows(office, rule) == [("", "OFFICE", "bulk"), ("OFFICE", "EXCEL", "bulk")]
    (gone,) = await review(office)
    assert (gone.case_id, gone.kind, gone.actor) == (flagged["eve"], "vanished", "the catalogue")
    assert "counts as OFFICE" in gone.reason
    async with office.running.database.reading() as db:
        after = await store.rule(db, rule.id)
    assert (after.version, after.author) == (2, "olga, by the catalogue")


async def test_a_suite_that_gains_a_used_component_takes_its_open_case_back(office: Scanner) -> None:
    org = office.org
    assert isinstance(org, SuiteOrg)
    org.own("ann", WORD=200, EXCEL=150, VISIO=1)
    rule = await ruled(office, "OFFICE")
    flagged = {event.seat.holder.id: event.case_id for event in await scanned(office, rule)}
    await catalog_actions.change_product(
        office.deps, "OFFICE", {"components": ["EXCEL", "VISIO", "WORD"]}, author="olga"
    )
    (gone,) = await review(office)
    assert (gone.case_id, gone.kind) == (flagged["ann"], "rule_withdrawn")
    assert "in use" in gone.reason


async def test_a_legacy_row_ignores_catalogue_updates_and_keeps_its_cases(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE")
    await scanned(office, rule)
    await catalog_actions.change_product(office.deps, "OFFICE", {"components": ["EXCEL", "VISIO"]}, author="olga")
    assert await rows(office, rule) == [("", "OFFICE", "legacy")]
    assert await review(office) == []
    async with office.running.database.reading() as db:
        assert (await store.rule(db, rule.id)).version == 1


async def test_a_suite_that_gains_a_component_merges_the_cases_that_the_rule_has_of_it(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", "VISIO")
    flagged = {(event.seat.holder.id, event.seat.product): event.case_id for event in await scanned(office, rule)}
    assert ("dan", "VISIO") in flagged
    await catalog_actions.change_product(
        office.deps, "OFFICE", {"components": ["EXCEL", "VISIO", "WORD"]}, author="olga"
    )
    merged = [event for event in await office.said(CaseWithdrawn) if event.kind == "merged"]
    assert [event.case_id for event in merged] == [flagged["dan", "VISIO"]]


async def test_an_org_that_is_away_takes_no_case_back_and_the_reason_is_shown(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    await scanned(office, rule)
    await catalog_actions.change_product(office.deps, "OFFICE", {"components": ["EXCEL"]}, author="olga")
    office.org.down = Transient("503 SERVER_UNAVAILABLE")
    assert await office.job("review") is True
    assert await office.said(CaseWithdrawn) == []
    async with office.running.database.reading() as db:
        assert "503" in (await catalog_store.review_problem(db, rule.id) or "")
    office.org.down = None
    await catalog_actions.review_again(office.deps, rule.id)
    assert await office.job("review") is True
    async with office.running.database.reading() as db:
        assert await catalog_store.review_problem(db, rule.id) is None


async def test_an_empty_list_takes_no_case_back(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    await scanned(office, rule)
    await catalog_actions.change_product(office.deps, "OFFICE", {"components": ["EXCEL"]}, author="olga")
    org = office.org
    assert isinstance(org, SuiteOrg)
    org.owned = {}
    assert await office.job("review") is True
    assert await office.said(CaseWithdrawn) == []


# ------------------------------------------------------------------------------------------------ the migration


async def test_what_rules_named_before_the_catalogue_becomes_legacy(tmp_path: Path, database_url: str | None) -> None:
    engine = open_engine(database_url or f"sqlite+aiosqlite:///{tmp_path}/old.db")
    versions = Path(service.__file__).parent / "migrations"

    def as_it_was(db: sa.Connection) -> None:
        config = migrate._config(versions, db)
        catalogue = ScriptDirectory.from_config(config).get_revision("scanner_0004")
        command.upgrade(config, str(catalogue.down_revision))
        for version, products in ((1, ["CRM"]), (2, ["OFFICE", "WORD"])):
            db.execute(
                sa.insert(store.RULE_VERSIONS).values(
                    rule_id="r", version=version, terms={"products": products}, author="otto", created_at=NOON
                )
            )
        rule = {"id": "r", "connection_id": "c", "name_key": "r", "status": "active", "version": 2, "created_at": NOON}
        db.execute(sa.insert(store.RULES).values(rule))

    async with engine.begin() as db:
        await db.run_sync(as_it_was)
    await migrate.upgrade(engine, versions)
    async with engine.connect() as db:
        kept = [(one.row.parent, one.row.product, one.row.mode) for one in await catalog_store.rows(db, "r")]
    await engine.dispose()
    assert kept == [("", "OFFICE", "legacy"), ("", "WORD", "legacy")]


async def test_every_case_of_a_merge_is_told_once(office: Scanner) -> None:
    rule = await legacy(office, "OFFICE", "WORD", "EXCEL")
    await scanned(office, rule)
    row = await row_of(office, rule, "OFFICE")
    await catalog_actions.renew_in_rule(office.deps, rule.id, row, author="otto")
    await catalog_actions.renew_in_rule(office.deps, rule.id, row, author="otto")
    told = Counter(event.case_id for event in await office.said(CaseWithdrawn))
    assert set(told.values()) == {1}


# ------------------------------------------------------------------------------------------------ at the same time


async def test_a_suite_that_comes_to_a_rule_while_the_catalogue_changes_it_is_never_half_there(office: Scanner) -> None:
    for attempt in range(5):
        parts = ["EXCEL", "VISIO"] if attempt % 2 == 0 else ["WORD"]
        rule = await ruled(office, "CRM" if attempt % 2 else "VISIO", name=f"Rule {attempt}", activate=False)
        await asyncio.gather(
            catalog_actions.add_to_rule(office.deps, rule.id, "OFFICE", author="otto"),
            catalog_actions.change_product(office.deps, "OFFICE", {"components": parts}, author="olga"),
        )
        under = [product for parent, product, _mode in await rows(office, rule) if parent == "OFFICE"]
        assert under == sorted(parts), attempt


async def test_a_whole_and_a_part_that_are_scanned_at_once_are_one_case(
    office: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, take_page = store.held, store.take_page
    both_read = asyncio.Barrier(2)

    async def slowly(*given: Any, **named: Any) -> Any:
        found = await held(*given, **named)
        await asyncio.sleep(0.3)
        return found

    async def together(*given: Any) -> Any:
        # On SQLite one of them waits for the other's transaction, and so in vain for both.
        with suppress(TimeoutError, asyncio.BrokenBarrierError):
            async with asyncio.timeout(2):
                await both_read.wait()
        return await take_page(*given)

    monkeypatch.setattr(store, "held", slowly)
    monkeypatch.setattr(store, "take_page", together)
    suite, part = await ruled(office, "OFFICE"), await ruled(office, "WORD", name="Word alone")
    for rule in (suite, part):
        await actions.start_scan(office.deps, rule.id, dry_run=False, accept_population=True, asked_by="otto")
    await asyncio.gather(office.scan_all(), office.scan_all())
    asked = Counter(event.seat.holder.id for event in await office.said(UserFlagged))
    assert asked["ann"] == 1, asked


async def test_a_rule_that_is_edited_while_merged_cases_are_judged_is_judged_anew(
    office: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, cases = await merging(office)
    original = merging_module._read
    edits = iter([{"grace_days": 30}])

    async def read(*args: Any) -> Any:
        found = await original(*args)
        for edit in edits:
            await actions.change_rule(office.deps, rule.id, edit, author="vera")
            break
        return found

    monkeypatch.setattr(merging_module, "_read", read)
    before = len(await office.said(UserFlagged))
    await answered(office, cases)
    await catalog_actions.review_again(office.deps, rule.id)
    await review(office)
    (event,) = (await office.said(UserFlagged))[before:]
    assert (event.seat.product, event.policy.grace_days) == ("OFFICE", 30)


async def test_processes_that_take_reviews_of_one_rule_at_once_do_not_wait_for_each_other(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    products = {f"part {number}" for number in range(6)}
    database = office.running.database
    async with database.unit() as unit:
        await catalog_store.ask_review(unit.db, rule.id, products, unit.now)

    async def take() -> catalog_store.Review | None:
        async with database.unit() as unit:
            return await catalog_store.claim_review(unit.db, lease_seconds=60)

    taken = Counter(
        product for review in await asyncio.gather(*(take() for _ in range(4))) if review for product in review.products
    )
    assert taken == Counter(products)
