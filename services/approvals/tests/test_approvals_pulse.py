"""When the pages were up: noted beside them, told every few minutes, and at once after a break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reclaim.approvals import pulse
from reclaim.approvals.pulse import BREAK, TELL, Beat, PulseJob, beat
from reclaim.common.contracts import PagesServed
from services.approvals.tests.approvals_world import Start

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WALL = 1_800_000_000_000


def later(minutes: int) -> tuple[datetime, int]:
    return NOON + minutes * MINUTE, WALL + minutes * 60_000


def up_for(minutes: int, before: Beat | None = None) -> Beat:
    """Beat every minute, for so many."""
    for minute in range(minutes + 1):
        before, _ = beat(before, *later(minute))
    assert before is not None
    return before


def test_the_first_beat_is_told_at_once_and_then_every_few_minutes() -> None:
    before, told = None, []
    for minute in range(12):
        before, said = beat(before, *later(minute))
        told += [(one.since, one.until) for one in said]
    assert told == [(NOON, NOON), (NOON, NOON + 5 * MINUTE), (NOON, NOON + 10 * MINUTE)]


def test_a_short_break_is_none() -> None:
    after, _ = beat(up_for(2), *later(2 + BREAK // 60_000))
    assert (after.since, after.until) == (NOON, NOON + 17 * MINUTE)


def test_after_a_break_both_of_its_ends_are_told() -> None:
    after, said = beat(up_for(7), *later(60))
    assert after.since == NOON + 60 * MINUTE
    assert [(one.since, one.until) for one in said] == [
        (NOON, NOON + 7 * MINUTE),
        (NOON + 60 * MINUTE, NOON + 60 * MINUTE),
    ]


def test_a_demo_that_moves_its_clock_by_weeks_breaks_nothing() -> None:
    after, said = beat(up_for(1), NOON + timedelta(days=14), WALL + 60_000 + TELL)
    assert (after.since, after.until) == (NOON, NOON + timedelta(days=14))
    assert [one.since for one in said] == [NOON]


def test_a_clock_that_is_set_back_takes_nothing_back() -> None:
    after, _ = beat(up_for(3), NOON - timedelta(hours=2), WALL + 4 * 60_000)
    assert (after.since, after.until) == (NOON, NOON + 3 * MINUTE)


def test_a_machine_whose_clock_was_weeks_ahead_notices_the_next_outage() -> None:
    ahead = 14 * 24 * 60
    wrong, _ = beat(up_for(7), *later(ahead))
    right, said = beat(wrong, *later(9))
    assert (right.since, right.beat) == later(9)
    assert [(one.since, one.until, one.beat) for one in said] == [
        (wrong.since, wrong.until, right.beat),
        (right.since, right.since, right.beat),
    ]
    after, said = beat(right, *later(9 + 60))
    assert (after.since, len(said)) == (NOON + 69 * MINUTE, 2)


async def test_the_job_tells_it_over_the_bus(
    start: Start, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await start(database_url=database_url)
    wall = WALL
    monkeypatch.setattr(pulse, "wall_milliseconds", lambda: wall)
    jobs = {job.name for job in world.running.service.jobs}
    assert "pulse" in jobs
    job = PulseJob(world.running.database)
    began = world.clock.now()
    for minutes in (0, 2, 40):
        world.clock.advance(minutes * MINUTE)
        wall += minutes * 60_000
        await job.run()
        await job.run()
    up, again = began + 2 * MINUTE, began + 42 * MINUTE
    said = [event for event in await world.emitted() if isinstance(event, PagesServed)]
    assert [(one.since, one.until) for one in said] == [(began, began), (began, up), (again, again)]
    assert said[-1].beat == wall
