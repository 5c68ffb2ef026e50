"""Before each step the scanner is asked about seats that an exclusion may have come to apply to since."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseClosed, CaseWithdrawn, UsageJudged, UsageQuestioned, UserFlagged
from reclaim.common.errors import Transient
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.ports import Members, SeatReader
from reclaim.scanner import actions, groups, questions
from services.scanner.tests.scanner_world import FAST, Scanner, filled, idle, started
from services.scanner.tests.test_scanner_scan import ready, scanned


@pytest.fixture
async def office(tmp_path: Path, clock: FixedClock, database_url: str | None) -> AsyncIterator[Scanner]:
    async with started(tmp_path, filled(clock, [idle(1), idle(2)]), clock, database_url=database_url) as scanner:
        scanner.org.groups["VIP"] = {"u00002"}
        yield scanner


async def case_of(scanner: Scanner, **exclusion: Any) -> UserFlagged:
    """Exclude somebody, and scan; return the one case that is opened."""
    rule = await ready(scanner)
    if exclusion:
        raw = {"connection_id": rule.connection_id, "reason": "on the board", **exclusion}
        await actions.add_exclusion(scanner.deps, raw, author="otto")
    await scanned(scanner, rule)
    flagged: list[UserFlagged] = await scanner.said(UserFlagged)
    return next(event for event in flagged if event.seat.holder.id == "u00001")


async def answer_to(scanner: Scanner, event: UserFlagged, **more: Any) -> list[UsageJudged]:
    before = len(await scanner.said(UsageJudged))
    await scanner.hear(UsageQuestioned(case_id=event.case_id, asked_at=scanner.clock.now(), read=True, **more))
    await scanner.job("answer")
    found: list[UsageJudged] = (await scanner.said(UsageJudged))[before:]
    return found


async def test_who_joined_an_excluded_group_since_is_left_alone(office: Scanner) -> None:
    event = await case_of(office, kind="group", value="VIP")
    assert event.policy.ask_scanner
    (outside,) = await answer_to(office, event)
    assert (outside.use, outside.reason) == ("unused", "No exclusion covers it.")
    office.org.groups["VIP"].add("u00001")
    office.clock.advance(timedelta(minutes=1))
    (inside,) = await answer_to(office, event)
    assert (inside.case_id, inside.use, inside.asked_at) == (event.case_id, "excluded", office.clock.now())
    assert "in the group VIP, excluded by otto: on the board" in inside.reason
    assert await office.rows("SELECT * FROM questions") == []
    assert await office.rows("SELECT 1 FROM memberships WHERE person_id = 'u00001'"), "the register has heard of it"


async def test_while_nobody_can_say_who_is_in_a_group_there_is_no_answer(office: Scanner) -> None:
    event = await case_of(office, kind="group", value="VIP")
    office.org.down = Transient("503 SERVER_UNAVAILABLE")
    assert await answer_to(office, event) == []
    office.org.down = None
    office.org.groups["VIP"].add("u00001")
    while not await office.said(UsageJudged):
        await office.job("answer")
    assert [said.use for said in await office.said(UsageJudged)] == ["excluded"]


async def test_a_group_that_is_excluded_while_others_are_read_is_asked_about_as_well(
    office: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await case_of(office, kind="group", value="VIP")
    office.org.groups["Board"] = {"boss"}
    read = groups.read

    async def and_one_more(reader: SeatReader, wanted: Collection[str]) -> dict[str, Members]:
        found = await read(reader, wanted)
        monkeypatch.undo()
        raw = {"kind": "group", "value": "Board", "connection_id": event.seat.connection_id, "reason": "on the board"}
        await actions.add_exclusion(office.deps, raw, author="otto")
        return found

    monkeypatch.setattr(groups, "read", and_one_more)
    assert await answer_to(office, event) == [], "who is in the Board was not read"
    await office.job("answer")
    assert [said.use for said in await office.said(UsageJudged)] == ["unused"]


async def test_a_group_that_cannot_be_read_for_a_moment_closes_nobodys_case(office: Scanner) -> None:
    event = await case_of(office, kind="group", value="VIP")
    office.org.unreadable["VIP"] = "QUERY_TIMEOUT"
    office.org.passing = {"VIP"}
    assert await answer_to(office, event) == []
    office.org.unreadable, office.org.passing = {}, set()
    while not await office.said(UsageJudged):
        await office.job("answer")
    assert [said.use for said in await office.said(UsageJudged)] == ["unused"]


async def test_whoever_may_be_in_a_group_that_nobody_can_look_into_is_left_alone(office: Scanner) -> None:
    event = await case_of(office, kind="group", value="VIP")
    office.org.unreadable["VIP"] = "A role is in it."
    (said,) = await answer_to(office, event)
    assert (said.use, "may be in the group VIP" in said.reason) == ("excluded", True)


async def test_a_question_that_is_never_answered_is_dropped_for_the_next_one(office: Scanner) -> None:
    event = await case_of(office, kind="group", value="VIP")
    office.org.down = Transient("503 SERVER_UNAVAILABLE")
    await answer_to(office, event)
    while await office.rows("SELECT * FROM questions"):
        await office.job("answer")
    assert await office.said(UsageJudged) == []
    office.org.down = None
    assert [said.use for said in await answer_to(office, event)] == ["unused"]


async def test_a_fresh_question_is_put_off_by_itself_beside_one_that_was_tried_often(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    slow = FAST.model_copy(update={"first_wait_seconds": 100, "longest_wait_seconds": 100_000})
    org = filled(clock, [idle(1), idle(2), idle(3)])
    async with started(tmp_path, org, clock, database_url=database_url, scanner_settings=slow) as scanner:
        org.groups["VIP"] = {"boss"}
        await case_of(scanner, kind="group", value="VIP")
        spent, old, fresh = sorted(event.case_id for event in await scanner.said(UserFlagged))
        org.down = Transient("503 SERVER_UNAVAILABLE")
        await scanner.hear(
            *(UsageQuestioned(case_id=each, asked_at=clock.now(), read=True) for each in (spent, old, fresh))
        )
        async with scanner.running.database.unit() as unit:
            for case_id, attempts in ((spent, questions.MOST_ATTEMPTS - 1), (old, 5)):
                await unit.db.execute(
                    sa.update(questions.QUESTIONS)
                    .where(questions.QUESTIONS.c.case_id == case_id)
                    .values(attempts=attempts)
                )
        assert await scanner.job("answer") is True
        now = wall_milliseconds()
        left = {row.case_id: (row.attempts, row.look_at - now) for row in await scanner.rows("SELECT * FROM questions")}
        assert {case_id: attempts for case_id, (attempts, _wait) in left.items()} == {old: 6, fresh: 1}
        assert left[fresh][1] <= 200_000 < left[old][1], "a first failure waits as one"


async def test_who_moved_to_an_excluded_department_since_is_left_alone(office: Scanner) -> None:
    event = await case_of(office, kind="department", value="Board")
    assert event.policy.ask_scanner
    said = [(await answer_to(office, event, department=where))[0].use for where in (None, "Sales", "board")]
    assert said == ["unused", "unused", "excluded"]


async def test_a_scan_takes_the_cases_back_of_whoever_joined_an_excluded_group(office: Scanner) -> None:
    rule = await ready(office)
    await scanned(office, rule)
    cases = {event.seat.holder.id: event.case_id for event in await office.said(UserFlagged)}
    office.org.groups["VIP"] = {"boss"}
    raw = {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "on the board"}
    _added, closed = await actions.add_exclusion(office.deps, raw, author="otto")
    assert closed == 0, "nobody with a case is in it yet"
    office.org.groups["VIP"].add("u00001")
    await scanned(office, rule)
    (taken,) = await office.said(CaseWithdrawn)
    assert (taken.case_id, taken.kind, taken.actor) == (cases["u00001"], "exempted", "exclusions")
    office.org.unreadable["VIP"] = "QUERY_TIMEOUT"
    await scanned(office, rule)
    told = {event.case_id for event in await office.said(CaseWithdrawn)}
    assert told == {cases["u00001"]}, "that it cannot be read closes nobody's case"


async def test_a_case_that_stays_open_is_taken_back_again_at_growing_intervals(office: Scanner) -> None:
    rule = await ready(office)
    await scanned(office, rule)
    cases = {event.seat.holder.id: event.case_id for event in await office.said(UserFlagged)}
    office.org.groups["VIP"] = {"boss"}
    raw = {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "on the board"}
    first, _closed = await actions.add_exclusion(office.deps, raw, author="otto")
    office.org.groups["VIP"].add("u00001")
    days: list[int] = []
    start = office.clock.now()
    for day in (0, 1, 2, 3, 6, 7, 14, 15, 30, 31, 58, 59, 86, 87, 100):
        office.clock.advance(start + timedelta(days=day) - office.clock.now())
        for _twice in range(2):
            await scanned(office, rule)
        days += [day] * (len(await office.said(CaseWithdrawn)) - len(days))
    assert days == [0, 1, 3, 7, 15, 31, 59, 87], "the lifecycle refused, and may not for ever"
    await actions.add_exclusion(office.deps, {**raw, "reason": "a witness in court"}, author="otto")
    await actions.end_exclusion(office.deps, first.id, by="otto")
    at_once = len(await office.said(CaseWithdrawn))
    await scanned(office, rule)
    assert "a witness in court" in (await office.said(CaseWithdrawn))[-1].reason
    assert len(await office.said(CaseWithdrawn)) == at_once + 1, "what is for another reason waits for nothing"
    await office.hear(
        CaseClosed(case_id=cases["u00001"], outcome="skipped", reason="said by a test", closed_at=office.clock.now())
    )
    await scanned(office, rule)
    assert await office.rows("SELECT * FROM takebacks") == [], "what has ended is forgotten"


async def test_a_scan_takes_the_cases_back_of_whoever_moved_to_an_excluded_department(office: Scanner) -> None:
    rule = await ready(office)
    await scanned(office, rule)
    cases = {event.seat.holder.id: event.case_id for event in await office.said(UserFlagged)}
    raw = {"kind": "department", "value": "Board", "reason": "left alone"}
    _added, closed = await actions.add_exclusion(office.deps, raw, author="otto")
    assert closed == 0, "nobody with a case is in it yet"
    office.clock.advance(timedelta(days=1))
    await scanned(office, rule)
    assert await office.said(CaseWithdrawn) == []
    office.org.users["u00001"].department = "board"
    office.clock.advance(timedelta(days=1))
    await scanned(office, rule)
    (taken,) = await office.said(CaseWithdrawn)
    assert (taken.case_id, taken.kind, taken.actor) == (cases["u00001"], "exempted", "exclusions")
    assert "left alone" in taken.reason


async def test_nobody_is_asked_where_no_exclusion_can_come_to_apply(office: Scanner) -> None:
    event = await case_of(office, kind="person", value="u00002")
    assert not event.policy.ask_scanner


async def test_questions_about_many_cases_ask_once_for_a_group(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    org = filled(clock, [idle(number) for number in range(1, 60)])
    async with started(tmp_path, org, clock, database_url=database_url) as scanner:
        org.groups["VIP"] = {"boss"}
        await case_of(scanner, kind="group", value="VIP")
        flagged = await scanner.said(UserFlagged)
        assert len(flagged) > 50
        opened = len(scanner.connectors.profiles)
        now = clock.now()
        await scanner.hear(*(UsageQuestioned(case_id=event.case_id, asked_at=now, read=True) for event in flagged))
        while await scanner.job("answer"):
            pass
        assert len(await scanner.said(UsageJudged)) == len(flagged)
        assert len(scanner.connectors.profiles) == opened + 1
