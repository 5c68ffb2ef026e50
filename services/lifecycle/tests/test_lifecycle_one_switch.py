"""A system in which freezing an account and freeing its seat are one switch: a case goes its whole way all the same."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from reclaim.common.clock import FixedClock
from reclaim.connectors.fake import FakeOrg
from reclaim.lifecycle import drift_store
from reclaim.lifecycle.domain import Reactivate, State
from services.lifecycle.tests.test_lifecycle_service import DAY, World, decision, flagged, org_of, world


def org_with_one_switch(clock: FixedClock) -> FakeOrg:
    org = org_of(clock)
    org.one_switch = True
    return org


async def kinds_of_drift(it: World) -> list[str]:
    it.clock.advance(DAY + timedelta(minutes=1))
    await it.once("drift")
    async with it.running.database.reading() as db:
        return [each.drift.kind for each in await drift_store.drifts(db)]


async def test_the_end_of_grace_finds_the_seat_free_and_the_account_can_be_given_back(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_one_switch) as it:
        await it.frozen()
        ada = it.org.users["005A"]
        assert not ada.active
        assert await kinds_of_drift(it) == [], "what we switched off ourselves has not vanished"
        assert (await it.case()).state is State.FROZEN
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED
        assert [(write.field, write.after) for write in it.org.writes] == [("active", False)]
        assert await kinds_of_drift(it) == []
        await it.order(Reactivate("op", "needed again"))
        await it.act()
        assert (await it.case()).state is State.REACTIVATED
        assert ada.active
        assert await it.verified()


async def test_an_appeal_switches_the_account_on_again(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_one_switch) as it:
        await it.frozen()
        await it.tell(decision("keep"))
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert it.org.users["005A"].active


async def test_whom_somebody_switched_on_again_is_left_alone(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_one_switch) as it:
        await it.frozen()
        it.org.users["005A"].active = True
        assert await kinds_of_drift(it) == ["unfrozen"]
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is not State.RECLAIMED
        assert it.org.users["005A"].active


async def test_an_account_that_was_off_before_it_could_be_frozen_is_gone(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_one_switch) as it:
        it.org.users["005A"].active = False
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        assert (await it.case()).state is State.SKIPPED
        assert it.org.writes == []
