"""A time-out counts only if the pages to answer on were up: what was missed is added, and what is unknown waits."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reclaim.common.contracts import PagesServed, TicketUndecided
from reclaim.lifecycle import attention, jobs, store
from reclaim.lifecycle.domain import State
from reclaim.lifecycle.uptime import FRESH, Stretch, Uptime
from services.lifecycle.tests.lifecycle_site import serving
from services.lifecycle.tests.test_lifecycle_service import DAY, NOW, World, decision, delivered, flagged, world

WALL = 1_800_000_000_000
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


class Pages:
    """The pages of approvals, and the machine's clock, which stands still."""

    def __init__(self) -> None:
        self.wall = WALL

    async def up(self, it: World, since: timedelta, until: timedelta) -> None:
        """Say for which days of the case they were up, the last of them being now."""
        await it.tell(PagesServed(since=NOW + since, until=NOW + until, beat=self.wall))

    def silent(self) -> None:
        """Let so much time go by that nobody knows of them any more."""
        self.wall += FRESH + 1


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    made = Pages()
    for module in (jobs, attention):
        monkeypatch.setattr(module, "wall_milliseconds", lambda: made.wall)
    return made


def test_what_was_missed_is_what_lies_between_the_stretches() -> None:
    uptime = Uptime(
        [
            Stretch(NOW, NOW + 10 * HOUR),
            Stretch(NOW + 4 * HOUR, NOW + 5 * HOUR),
            Stretch(NOW + 12 * HOUR, NOW + 20 * HOUR),
            Stretch(NOW + 23 * HOUR, NOW + 24 * HOUR),
        ],
        WALL,
    )
    assert uptime.missed(NOW - 9 * HOUR, NOW + 30 * HOUR) == 5 * HOUR
    assert uptime.missed(NOW + 11 * HOUR, NOW + 22 * HOUR) == 3 * HOUR
    assert uptime.missed(NOW + 13 * HOUR, NOW + 19 * HOUR) == timedelta()
    assert Uptime().missed(NOW, NOW + DAY) == timedelta()


async def asked(it: World, **policy: Any) -> None:
    await it.tell(flagged(**policy), source="scanner")
    await it.tell(delivered())


async def test_an_outage_extends_the_deadline_by_what_was_missed(
    database_url: str | None, tmp_path: Path, pages: Pages
) -> None:
    async with world(database_url, tmp_path) as it:
        await asked(it)
        await pages.up(it, -DAY, 3 * DAY)
        await pages.up(it, 5 * DAY, 14 * DAY)
        it.clock.advance(14 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.decide_by) == (State.AWAITING_DECISION, NOW + 16 * DAY)
        async with it.running.database.reading() as db:
            note = (await store.history(db, "case-1"))[-1].link.entry.note
        assert note == (
            f"the deadline is {(NOW + 16 * DAY).isoformat()} now: "
            "the pages to answer on were down for 48 h 0 min of the time"
        )
        assert it.org.writes == []
        it.clock.advance(2 * DAY - timedelta(seconds=1))
        await it.act()
        assert (await it.case()).state is State.AWAITING_DECISION
        it.clock.advance(timedelta(seconds=1))
        await it.act()
        assert (await it.case()).state is State.FROZEN
        assert await it.verified()


async def test_an_extended_deadline_leaves_the_case_with_those_that_wait_for_a_person(
    tmp_path: Path, pages: Pages
) -> None:
    async with world(None, tmp_path) as it:
        await asked(it, route="both")
        await it.tell(TicketUndecided(case_id="case-1", reason="closed", remedy="look", noticed_at=NOW), source="itsm")
        await pages.up(it, -DAY, 3 * DAY)
        await pages.up(it, 5 * DAY, 14 * DAY)
        it.clock.advance(14 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.decide_by) == (State.AWAITING_DECISION, NOW + 16 * DAY)
        assert case.attention is not None
        it.clock.advance(2 * DAY)
        await it.act()
        assert ((await it.case()).state, (await it.case()).attention) == (State.FROZEN, None)


async def test_a_time_out_waits_while_nothing_is_heard_of_the_pages(tmp_path: Path, pages: Pages) -> None:
    async with world(None, tmp_path) as it:
        await asked(it)
        await pages.up(it, -DAY, 13 * DAY)
        it.clock.advance(20 * DAY)
        pages.silent()
        for _ in range(3):
            await it.act()
            it.clock.advance(2 * HOUR)
        assert (await it.case()).state is State.AWAITING_DECISION
        # They come back, and say so: they were down from the 13th day on, and a day of the deadline is left.
        await pages.up(it, 21 * DAY, 21 * DAY)
        it.clock.advance(DAY - 5 * HOUR)
        await it.act()
        case = await it.case()
        assert (case.state, case.decide_by) == (State.AWAITING_DECISION, NOW + 22 * DAY)
        await it.tell(decision("keep"))
        assert (await it.case()).state is State.KEPT


async def test_an_outage_extends_grace_and_the_appeal_counts(
    database_url: str | None, tmp_path: Path, pages: Pages
) -> None:
    async with world(database_url, tmp_path) as it:
        await it.frozen()
        await pages.up(it, -DAY, 5 * DAY)
        await pages.up(it, 6 * DAY, 7 * DAY)
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.grace_ends_at) == (State.FROZEN, NOW + 8 * DAY)
        it.clock.advance(DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED


async def test_grace_that_was_extended_ends_on_a_day_on_which_seats_are_freed(tmp_path: Path, pages: Pages) -> None:
    async with world(None, tmp_path) as it:
        # Frozen on Monday the 2nd. Seven days, and four that were missed, end on a Friday.
        await it.frozen(no_reclaim_before_days_off=True, hand_over=False)
        await pages.up(it, -DAY, DAY)
        await pages.up(it, 5 * DAY, 7 * DAY)
        it.clock.advance(7 * DAY)
        await it.act()
        ends = (await it.case()).grace_ends_at
        assert ends is not None
        assert (ends - NOW, ends.weekday()) == (13 * DAY + 15 * HOUR, 0)


@pytest.mark.parametrize("how", ["by the desk", "never heard of", "heard of a moment ago"])
async def test_what_does_not_wait_for_the_pages_ends_as_it_always_did(tmp_path: Path, pages: Pages, how: str) -> None:
    async with world(None, tmp_path) as it:
        await asked(it, route="itsm" if how == "by the desk" else "email")
        if how != "never heard of":
            await pages.up(it, -DAY, DAY)
        if how == "by the desk":
            pages.silent()
        # A demo moves its clock by weeks, and the machine's stays where it is.
        it.clock.advance(14 * DAY)
        await it.act()
        assert (await it.case()).state is State.FROZEN


async def test_what_was_told_earlier_and_comes_later_takes_nothing_back(tmp_path: Path, pages: Pages) -> None:
    async with world(None, tmp_path) as it:
        await asked(it)
        await pages.up(it, -DAY, 14 * DAY)
        await pages.up(it, -DAY, 2 * DAY)
        it.clock.advance(14 * DAY)
        await it.act()
        assert (await it.case()).state is State.FROZEN


async def test_that_the_pages_are_down_stands_in_attention(tmp_path: Path, pages: Pages) -> None:
    async with serving(tmp_path) as site:
        async with site.client("viewer") as http:
            assert (await http.get("/lifecycle/api/attention")).json()["total"] == 0
            await site.tell(PagesServed(since=NOW, until=NOW + HOUR, beat=WALL))
            assert (await http.get("/lifecycle/api/attention")).json()["total"] == 0
            pages.silent()
            (item,) = (await http.get("/lifecycle/api/attention")).json()["items"]
            assert (item["kind"], item["service"]) == ("pages", "approvals")
            assert item["since"] == (NOW + HOUR).isoformat().replace("+00:00", "Z")
        operator = await site.browser("operator")
        assert "Nothing is heard of the pages" in await operator.get("/lifecycle/attention")
