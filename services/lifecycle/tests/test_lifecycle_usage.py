"""A rule that rests on sources of use: before each step the scanner is asked, and nothing is done without its word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from reclaim.common import envelope
from reclaim.common.contracts import (
    CaseWithdrawn,
    FulfilmentRequested,
    UsageJudged,
    UsageQuestioned,
    UsageTerms,
    Use,
    UserFlagged,
)
from reclaim.common.errors import Transient
from reclaim.lifecycle import store
from reclaim.lifecycle.actions import CHECK_HOLDS
from reclaim.lifecycle.domain import Decide, Fulfilled, Retry, State
from services.lifecycle.tests.test_lifecycle_service import DAY, World, decision, flagged, world

TERMS = UsageTerms(words="been used for less than 20 hours in the last complete month")


@pytest.fixture(name="database_url", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def either(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite in the test's own folder, else an empty PostgreSQL database."""
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


@pytest.fixture
async def it(database_url: str | None, tmp_path: Path) -> AsyncIterator[World]:
    async with world(database_url, tmp_path) as built:
        yield built


async def questions(it: World) -> list[UsageQuestioned]:
    async with it.running.database.reading() as db:
        bodies = (await db.exec_driver_sql("SELECT body FROM outbox ORDER BY seq")).scalars()
        said = [part.data for part in envelope.split(envelope.join(list(bodies)))]  # type: ignore[union-attr]
    return [event for event in said if isinstance(event, UsageQuestioned)]


async def answered(it: World, use: Use, reason: str = "3.50 hours of 20.") -> None:
    """Let the scanner answer the last question, and the lifecycle go on."""
    asked = (await questions(it))[-1]
    now = it.clock.now()
    await it.tell(
        UsageJudged(case_id=asked.case_id, use=use, reason=reason, asked_at=asked.asked_at, judged_at=now),
        source="scanner",
    )
    await it.act()


async def revoked(it: World, event: UserFlagged | None = None) -> None:
    await it.tell(event or flagged(usage=TERMS), source="scanner")
    await it.tell(decision("revoke"))
    await it.act()


def on_devices() -> UserFlagged:
    event = flagged(usage=TERMS, reclaim_by="task")
    return replace(event, seat=replace(event.seat, devices=("PC-1", "PC-2")))


async def test_each_step_waits_for_the_scanners_word(it: World) -> None:
    await revoked(it)
    assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE
    (question,) = await questions(it)
    holder = it.org.users["005A"]
    assert (question.asked_at, question.last_used_at, question.read) == (it.clock.now(), holder.last_used_at, True)
    assert it.org.writes == []
    await answered(it, "unused")
    assert (await it.case()).state is State.FROZEN
    it.clock.advance(7 * DAY)
    await it.act()
    assert (await it.case()).state is State.CHECKING_BEFORE_RECLAIM, "what was said a week ago is no word"
    await answered(it, "unused")
    assert (await it.case()).state is State.RECLAIMED
    assert len(await questions(it)) == 2
    assert await it.verified()


async def test_activity_while_a_case_is_open_is_cancelled_before_acting(it: World) -> None:
    await revoked(it)
    await answered(it, "used", "24.00 hours of 20.")
    case = await it.case()
    assert case.state is State.CANCELLED
    assert it.org.writes == []


async def test_who_is_excluded_by_now_is_left_alone_before_the_freeze(it: World) -> None:
    await revoked(it, flagged(ask_scanner=True))
    (question,) = await questions(it)
    assert question.department == it.org.users["005A"].department
    await answered(it, "excluded", "in the group VIP, excluded by otto: on the board")
    case = await it.case()
    assert (case.state, it.org.writes) == (State.SKIPPED, [])


async def test_who_is_excluded_by_now_is_given_back_before_the_reclaim(it: World) -> None:
    await revoked(it, flagged(ask_scanner=True))
    await answered(it, "unused", "No exclusion covers it.")
    assert (await it.case()).state is State.FROZEN
    it.clock.advance(7 * DAY)
    await it.act()
    await answered(it, "excluded", "in the group VIP, excluded by otto: on the board")
    assert (await it.case()).state is State.RESTORED
    assert not it.org.users["005A"].frozen


async def test_activity_in_grace_restores(it: World) -> None:
    await revoked(it)
    await answered(it, "unused")
    it.clock.advance(7 * DAY)
    await it.act()
    await answered(it, "used")
    assert (await it.case()).state is State.RESTORED
    assert not it.org.users["005A"].frozen


async def test_a_source_that_is_stale_waits_with_attention_and_never_acts(it: World) -> None:
    await revoked(it)
    await answered(it, "unknown", "agent was last heard from on 2026-10-20: what it says is stale.")
    case = await it.case()
    assert case.state is State.ATTENTION
    assert case.attention is not None
    assert "stale" in case.attention.reason
    assert "Mend the source" in case.attention.remedy
    assert it.org.writes == []
    await it.order(Retry("op"))
    await it.act()
    assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE, "the old word does not count after a retry"
    assert len(await questions(it)) == 2
    await answered(it, "unused")
    assert (await it.case()).state is State.FROZEN


async def test_an_answer_that_comes_twice_or_late_changes_nothing(it: World) -> None:
    await revoked(it)
    (question,) = await questions(it)
    await answered(it, "unused")
    await answered(it, "used")
    assert (await it.case()).state is State.FROZEN
    it.clock.advance(7 * DAY)
    await it.act()
    late = UsageJudged(
        case_id="case-1", use="unused", reason="long ago", asked_at=question.asked_at, judged_at=it.clock.now()
    )
    await it.tell(late, source="scanner")
    await it.act()
    assert (await it.case()).state is State.CHECKING_BEFORE_RECLAIM


async def test_who_signs_in_after_the_question_is_asked_about_again(it: World) -> None:
    await revoked(it)
    it.clock.advance(timedelta(minutes=1))
    it.org.users["005A"].last_used_at = it.clock.now()
    await answered(it, "unused")
    assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE
    question = (await questions(it))[-1]
    assert question.last_used_at == it.clock.now()


async def test_a_word_that_waited_too_long_is_asked_for_again(it: World) -> None:
    await revoked(it)
    it.clock.advance(CHECK_HOLDS + timedelta(minutes=1))
    await answered(it, "unused")
    assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE
    assert len(await questions(it)) == 2


@pytest.mark.parametrize("state", [State.FLAGGED, State.CHECKING_BEFORE_FREEZE])
async def test_use_that_the_scanner_hears_of_cancels_the_case(it: World, state: State) -> None:
    await it.tell(flagged(usage=TERMS), source="scanner")
    if state is State.CHECKING_BEFORE_FREEZE:
        await it.tell(decision("revoke"))
    used = CaseWithdrawn(
        case_id="case-1",
        kind="used",
        reason="It is used: 20.00 hours of 20.",
        actor="sources of use",
        withdrawn_at=it.clock.now(),
    )
    await it.tell(used, source="scanner")
    await it.act()
    assert (await it.case()).state is State.CANCELLED
    assert it.org.writes == []


async def test_a_frozen_seat_that_turns_out_to_be_used_is_restored(it: World) -> None:
    await it.frozen()
    used = CaseWithdrawn(
        case_id="case-1", kind="used", reason="used on the day before", actor="sources", withdrawn_at=it.clock.now()
    )
    await it.tell(used, source="scanner")
    await it.act()
    assert (await it.case()).state is State.CANCELLED
    assert not it.org.users["005A"].frozen


async def test_installed_software_becomes_a_task_that_names_the_devices(it: World) -> None:
    """Its connection has no system: nobody is called, and the account of the same holder is not looked at."""
    await revoked(it, on_devices())
    (question,) = await questions(it)
    assert (question.last_used_at, question.read) == (None, False)
    it.org.users.pop("005A")
    await answered(it, "unused")
    assert (await it.case()).state is State.IN_GRACE
    await it.once("drift")
    assert (await it.case()).state is State.IN_GRACE, "what has no account has not vanished"
    it.clock.advance(7 * DAY)
    await it.act()
    await answered(it, "unused")
    assert (await it.case()).state is State.AWAITING_FULFILMENT
    async with it.running.database.reading() as db:
        bodies = (await db.exec_driver_sql("SELECT body FROM outbox ORDER BY seq")).scalars()
        said = [part.data for part in envelope.split(envelope.join(list(bodies)))]  # type: ignore[union-attr]
    (task,) = [event for event in said if isinstance(event, FulfilmentRequested)]
    assert task.instructions.startswith("Uninstall Salesforce from PC-1, PC-2, which Ada uses.")
    await it.order(Fulfilled("op", "both uninstalled"))
    assert (await it.case()).state is State.RECLAIMED
    assert it.org.writes == []


async def test_installed_software_that_was_removed_meanwhile_needs_no_case(it: World) -> None:
    await revoked(it, on_devices())
    await answered(it, "gone", "no longer installed on PC-1, PC-2")
    assert (await it.case()).state is State.SKIPPED


async def test_a_dry_run_asks_as_well_and_writes_nothing(it: World) -> None:
    await revoked(it, flagged(usage=TERMS, dry_run=True))
    await answered(it, "unused")
    assert (await it.case()).state is State.FROZEN
    assert it.org.writes == []


async def about_to_freeze(it: World) -> None:
    """Bring the case to where the freeze is claimed next, and its check is old: it asks the scanner once more."""
    await revoked(it)
    (asked,) = await questions(it)
    now = it.clock.now()
    await it.tell(
        UsageJudged(case_id="case-1", use="unused", reason="3 of 20.", asked_at=asked.asked_at, judged_at=now),
        source="scanner",
    )
    await it.once("act")
    it.clock.advance(CHECK_HOLDS + timedelta(minutes=1))


async def test_an_answer_takes_no_step_away_from_who_is_taking_it(it: World) -> None:
    """The process at work holds the lease; a second one beside it would send the step twice."""
    await about_to_freeze(it)
    await it.act()
    await it.sql("UPDATE effect SET due = 0")
    async with it.running.database.unit() as unit:
        (claimed,) = await store.claim_effects(unit.db, most=200)
    asked = (await questions(it))[-1]
    now = it.clock.now()
    told = UsageJudged(case_id="case-1", use="unused", reason="", asked_at=asked.asked_at, judged_at=now)
    await it.tell(told, source="scanner")
    async with it.running.database.unit() as unit:
        assert await store.claim_effects(unit.db, most=200) == []
        assert await store.prolong_leases(unit.db, {claimed.id: claimed.attempts}) == {claimed.id}


async def test_who_was_only_asked_about_is_not_restored(it: World) -> None:
    """Nothing was sent by the attempt that asked, so nothing is undone, and nobody is told that it was."""
    await about_to_freeze(it)
    await it.act()
    assert (await it.case()).state is State.FREEZING
    await answered(it, "used")
    assert (await it.case()).state is State.CANCELLED
    assert "UserRestored" not in await it.said()
    assert it.org.writes == []


async def test_a_freeze_by_somebody_else_while_the_scanner_is_asked_is_not_ours(it: World) -> None:
    await about_to_freeze(it)
    await it.act()
    it.org.users["005A"].frozen = it.org.users["005A"].frozen_by_another = True
    await answered(it, "unused")
    assert (await it.case()).state is State.SKIPPED
    assert it.org.users["005A"].frozen
    assert "UserFrozen" not in await it.said()


@pytest.mark.parametrize("trouble", ["away", "unreadable"])
async def test_a_freeze_by_somebody_else_after_a_check_that_could_not_be_made_is_not_ours(
    it: World, trouble: str
) -> None:
    """The attempt that could not even check sent nothing: who is found frozen after it was frozen by another."""
    await about_to_freeze(it)
    if trouble == "away":
        it.org.down = Transient("the org is away")
    else:
        it.org.unreadable["administrators"] = "no permission"
    await it.act()
    it.org.down = None
    it.org.unreadable.clear()
    it.org.users["005A"].frozen = it.org.users["005A"].frozen_by_another = True
    await it.sql("UPDATE effect SET due = 0")
    await it.act()
    await answered(it, "unused")
    assert (await it.case()).state is State.SKIPPED
    assert it.org.users["005A"].frozen
    assert "UserFrozen" not in await it.said()


async def test_who_left_while_the_scanner_was_asked_is_not_let_in_again(it: World) -> None:
    await about_to_freeze(it)
    await it.act()
    it.org.users["005A"].active = False
    await answered(it, "unused")
    assert (await it.case()).state is State.SKIPPED
    assert not it.org.users["005A"].active
    assert it.org.writes == []


async def test_a_scanner_that_never_answers_leaves_no_doubt_about_what_was_never_sent(it: World) -> None:
    await about_to_freeze(it)
    await it.sql("UPDATE effect SET attempts = 39")
    await it.act()
    case = await it.case()
    assert (case.state, case.unsure) == (State.ATTENTION, False)


async def test_a_freeze_that_got_no_answer_stays_in_doubt_when_its_use_is_not_known(it: World) -> None:
    await about_to_freeze(it)
    await it.act()
    it.org.trouble = lambda _operation, _id: "after"
    await answered(it, "unused")
    it.org.trouble = lambda _operation, _id: "none"
    assert it.org.users["005A"].frozen
    it.clock.advance(CHECK_HOLDS + timedelta(minutes=1))
    await it.sql("UPDATE effect SET due = 0")
    await it.act()
    await answered(it, "unknown")
    case = await it.case()
    assert (case.state, case.unsure) == (State.ATTENTION, True)
    await it.order(Decide("keep", "op", "console", "needed", it.clock.now()))
    await it.act()
    assert (await it.case()).state is State.RESTORED
    assert not it.org.users["005A"].frozen


async def test_a_rule_that_rests_on_the_system_alone_asks_nobody(it: World) -> None:
    await it.frozen()
    assert await questions(it) == []
