"""What may have been sent and got no clear answer, and what comes in while a step is being prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from reclaim.common.contracts import ConnectionChanged
from reclaim.common.errors import Permanent
from reclaim.common.security import Sealer
from reclaim.connectors.fake import FakeActor, FakeOrg, FakeReader
from reclaim.connectors.ports import ActionResult, SeatRecord
from reclaim.lifecycle import store
from reclaim.lifecycle.actions import Actions
from reclaim.lifecycle.domain import Decide, Retry, State
from services.lifecycle.tests.test_lifecycle_service import (
    DAY,
    KEY,
    NOW,
    World,
    decision,
    flagged,
    give,
    world,
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


class Blind(FakeActor):
    """An actor that cannot read what became of what it wrote."""

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        await super().freeze(holders)
        raise Permanent("the session may not read users any more")

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        await super().deactivate(holders)
        raise Permanent("the session may not read users any more")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(FakeOrg, "actor", lambda org, _profile=None: Blind(org))
    return monkeypatch


@pytest.mark.parametrize("then", ["keep", "retry"])
async def test_a_freeze_that_could_not_be_read_back_is_ours(
    database_url: str | None, tmp_path: Path, blind: pytest.MonkeyPatch, then: str
) -> None:
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        case = await it.case()
        assert (case.state, case.unsure) == (State.ATTENTION, True)
        assert it.org.users["005A"].frozen
        if then == "keep":
            # It is undone by the same connection, whose user may do less than it could.
            await it.order(Decide("keep", "op", "console", "wanted", NOW))
            await it.act()
            assert (await it.case()).state is State.RESTORED
            assert not it.org.users["005A"].frozen
        else:
            blind.undo()
            await it.tell(_another_version(), source="scanner")
            await it.order(Retry("op"))
            await it.act()
            assert (await it.case()).state is State.FROZEN


async def test_a_deactivation_that_could_not_be_read_back_is_given_back_whole(
    tmp_path: Path, blind: pytest.MonkeyPatch
) -> None:
    blind.setattr(Blind, "freeze", FakeActor.freeze)
    async with world(None, tmp_path) as it:
        await it.frozen(hand_over=False)
        it.clock.advance(8 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.unsure) == (State.ATTENTION, True)
        assert not it.org.users["005A"].active
        await it.order(Decide("keep", "op", "console", "wanted", it.clock.now()))
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert it.org.users["005A"].active
        assert not it.org.users["005A"].frozen


def _another_version(*, removed: bool = False) -> ConnectionChanged:
    return ConnectionChanged(
        connection_id="c1",
        name="org",
        kind="salesforce",
        settings={},
        version=2,
        removed=removed,
        credentials=Sealer([KEY]).seal({"client_secret": "s"}),
    )


async def test_removing_a_connection_leaves_a_freeze_that_got_no_answer_in_doubt(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        it.org.trouble = lambda _operation, _id: "after"
        await it.once("act")
        assert it.org.users["005A"].frozen
        await it.tell(_another_version(removed=True), source="scanner")
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        case = await it.case()
        assert (case.state, case.unsure) == (State.ATTENTION, True)


@pytest.mark.parametrize("step", ["freeze", "hand over"])
async def test_a_keep_that_comes_while_a_step_is_prepared_stops_it(
    database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What a step needs to know is read for minutes, and somebody asks to keep the seat meanwhile."""
    async with world(database_url, tmp_path) as it:
        give(it.org, "005A", "Case", 3)

        class Slow(FakeReader):
            async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
                found = await super().open_records(holders)
                await it.order(Decide("keep", "op", "console", "wanted", it.clock.now()))
                return found

        if step == "hand over":
            await it.frozen()
            written = len(it.org.writes)
            monkeypatch.setattr(FakeOrg, "reader", lambda org, _profile=None: Slow(org))
            await it.tell(_another_version(), source="scanner")
            it.clock.advance(8 * DAY)
            await it.act()
            assert (await it.case()).state is State.RESTORED
            assert {record.owner for record in it.org.records.values()} == {"005A"}
            assert [write for write in it.org.writes[written:] if "frozen" not in str(write)] == []
        else:
            await _keep_while_freezing(it, monkeypatch)


async def _keep_while_freezing(it: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await it.tell(flagged(), source="scanner")
    await it.tell(decision("revoke"))
    await it.once("act")
    assert (await it.case()).state is State.FREEZING

    class Slow(FakeReader):
        async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
            found = await super().seats_of(holders)
            await it.order(Decide("keep", "op", "console", "wanted", it.clock.now()))
            return found

    it.clock.advance(DAY)  # the check is old, and is made again
    monkeypatch.setattr(FakeOrg, "reader", lambda org, _profile=None: Slow(org))
    await it.tell(_another_version(), source="scanner")
    await it.act()
    assert (await it.case()).state is State.KEPT
    assert it.org.writes == []


async def test_a_comparison_that_was_stopped_for_long_closes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process read, was stopped, and went on when the holder had long been active again."""
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.clock.advance(DAY)

        class Stopped(FakeReader):
            async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
                it.org.users["005A"].active = False
                found = await super().seats_of(holders)
                it.org.users["005A"].active = True
                it.clock.advance(DAY)
                return found

        monkeypatch.setattr(FakeOrg, "reader", lambda org, _profile=None: Stopped(org))
        await it.once("drift")
        assert (await it.case()).state is State.FROZEN


async def test_a_process_that_hung_does_not_take_a_later_attempt_of_ours_for_somebody_elses(
    database_url: str | None, tmp_path: Path
) -> None:
    """It was stopped right before its call; meanwhile another froze the account, and got no answer."""
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        async with it.running.database.unit() as unit:
            (stopped,) = await store.claim_effects(unit.db, most=200)
            connection = await store.connection(unit.db, "c1")
        await it.sql("UPDATE effect SET due = 0, sent = true")
        it.org.trouble = lambda _operation, _id: "after"
        await it.once("act")
        it.org.trouble = lambda _operation, _id: "none"
        assert it.org.users["005A"].frozen
        hung = Actions(it.running.database, it.org, Sealer([KEY]), it.clock)

        async def perform(*_: object) -> object:
            return await hung._act([stopped], stopped.kind, it.org.actor())

        hung._perform = perform  # type: ignore[method-assign,assignment]
        await hung._work_off([stopped], connection)
        assert (await it.case()).state is State.FREEZING
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is State.FROZEN
