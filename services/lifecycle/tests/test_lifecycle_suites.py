"""The case of a suite: whichever of its products the holder has, it is the seat; and what a merge is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from reclaim.common import envelope
from reclaim.common.contracts import CaseClosed, UserFlagged
from reclaim.lifecycle import drift_store
from reclaim.lifecycle.domain import State
from services.lifecycle.tests.test_lifecycle_service import DAY, World, decision, flagged, withdrawn, world


def suite(case_id: str = "case-1", holder: str = "005A") -> UserFlagged:
    """A case of a suite that the org lists as one of its components."""
    one = flagged(case_id, holder)
    seat = replace(one.seat, product="SUITE", product_name="Suite", components=("SFDC", "PLATFORM"))
    return replace(one, seat=seat)


async def closed(it: World) -> list[CaseClosed]:
    async with it.running.database.reading() as db:
        bodies = (await db.exec_driver_sql("SELECT body FROM outbox ORDER BY seq")).scalars()
        parts: list[Any] = envelope.split(envelope.join(list(bodies)))
    return [part.data for part in parts if isinstance(part.data, CaseClosed)]


async def test_a_holder_of_a_component_holds_the_suites_seat(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(suite(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        assert (await it.case()).state is State.FROZEN
        it.org.users["005A"].product = "PLATFORM"
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED
        await it.once("drift")
        async with it.running.database.reading() as db:
            assert await drift_store.drifts(db) == []


async def test_a_holder_who_has_nothing_of_the_suite_any_more_is_skipped(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(suite(), source="scanner")
        await it.tell(decision("revoke"))
        it.org.users["005A"].product = "OTHER"
        await it.act()
        assert (await it.case()).state is State.SKIPPED
        assert it.org.writes == []


async def test_a_case_that_was_merged_says_so_when_it_closes(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(withdrawn(kind="merged", reason="Office is reclaimed as a whole now"), source="scanner")
        (event,) = await closed(it)
        assert (event.outcome, event.withdrawn) == ("skipped", "merged")
        assert "as a whole now" in event.reason


async def test_a_case_past_the_decision_is_left_out_of_a_merge(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.tell(withdrawn(kind="merged"), source="scanner")
        assert await closed(it) == []
        assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE
