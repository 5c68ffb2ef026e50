"""The brakes in the service: caps under many claimers, trips, overrides by two, canaries, and the kill switch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from reclaim.common.clock import FixedClock
from reclaim.common.db import Database
from reclaim.common.errors import Conflict, Forbidden, NotFound
from reclaim.common.security import Sealer
from reclaim.connectors.fake import FakeActor, FakeOrg, FakeRecord, FakeUser
from reclaim.connectors.ports import ConnectionProfile, Guard
from reclaim.lifecycle import actions, attention, brake_gate, brake_store, store
from reclaim.lifecycle.actions import Actions
from reclaim.lifecycle.brakes import Limits
from reclaim.lifecycle.domain import Decide, Retry, State
from services.lifecycle.tests.test_lifecycle_service import (
    DAY,
    KEY,
    NOW,
    World,
    decision,
    flagged,
    world,
)

WIDE = Limits(1000, 100, 1000, 100, 1000, 100, 0)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


def crowd(clock: FixedClock) -> FakeOrg:
    org = FakeOrg(clock)
    for number in range(60):
        user = f"005{number:03}"
        org.users[user] = FakeUser(id=user, created_at=NOW - 900 * DAY, last_used_at=NOW - 200 * DAY)
    return org


async def limit(it: World, **figures: int) -> None:
    async with it.running.database.unit() as unit:
        wanted = asdict(replace(WIDE, **figures))
        await brake_gate.set_limits(unit, "c1", wanted, by="admin", reason="the test's")


async def revoke(it: World, count: int, *, first: int = 0, run: str | None = "run-1", **policy: Any) -> list[str]:
    """Flag and revoke so many seats, and let every one be checked; nothing is frozen yet."""
    names = [f"case-{number:03}" for number in range(first, first + count)]
    events = [
        flagged(name, f"005{number:03}", **{"hand_over": False, **policy}) for number, name in enumerate(names, first)
    ]
    await it.tell(*(msgspec.structs.replace(event, run_id=run, seats_total=60) for event in events), source="scanner")
    await it.tell(*(decision("revoke", name) for name in names))
    await it.once("act")
    assert set(names) <= set(await in_state(it, State.FREEZING))
    return names


def frozen(it: World) -> int:
    return sum(user.frozen for user in it.org.users.values())


async def in_state(it: World, state: State) -> list[str]:
    async with it.running.database.reading() as db:
        return sorted(case.id for case in await store.search(db, states=[state.value]))


async def open_trips(it: World) -> Sequence[Any]:
    async with it.running.database.reading() as db:
        return await brake_store.trips(db, closed=False)


async def permits(it: World) -> int:
    async with it.running.database.reading() as db:
        return int((await db.execute(sa.select(sa.func.count()).select_from(brake_store.PERMIT))).scalar_one())


# Caps.


async def test_a_rules_own_cap_holds_and_what_it_holds_is_tried_again_a_day_later(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it)
        await revoke(it, 5, most_a_day=3)
        await it.act()
        assert frozen(it) == 3
        (trip,) = await open_trips(it)
        assert (trip.cap, trip.scope, trip.used, trip.allowed) == ("day", "rule-1", 3, 3)
        await revoke(it, 2, first=10, run="run-2", most_a_day=None)
        await it.act()
        assert frozen(it) == 5, "a version without a cap goes on, within the connection's"
        it.clock.advance(DAY + timedelta(hours=1))
        async with it.running.database.unit() as unit:
            assert await brake_gate.retry_within_limits(unit, trip.id, by="otto") == 2
        await it.act()
        assert frozen(it) == 7


@pytest.mark.parametrize("cap", ["run", "day", "month"])
async def test_eight_claimers_never_exceed_a_cap_together(
    database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: str
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, **{f"{cap}_most": 17})
        await revoke(it, 60)
        monkeypatch.setattr("reclaim.lifecycle.actions.TOGETHER", 3)
        url = it.running.database.engine.url.render_as_string(hide_password=False)
        replicas = [Database(url, it.clock, append=it.running.outbox.append, pool_size=2) for _ in range(8)]
        try:

            async def work(database: Database) -> None:
                actions = Actions(database, it.org, Sealer([KEY]), it.clock)
                while await actions.run():
                    pass

            await asyncio.gather(*(work(database) for database in replicas))
        finally:
            for database in replicas:
                await database.close()
        assert frozen(it) == 17
        assert await permits(it) == 17
        held = await in_state(it, State.ATTENTION)
        assert len(held) == 43
        (trip,) = await open_trips(it)
        assert (trip.cap, trip.used, trip.allowed) == (cap, 17, 17)
        async with it.running.database.reading() as db:
            assert [case.id for case, _ in await brake_store.held(db, trip.id)] == held
        assert await it.verified()


async def test_the_default_limits_are_a_share_of_the_seats_that_the_scan_saw(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        await revoke(it, 10)
        await it.act()
        assert frozen(it) == 3, "5 % of 60 seats"
        case = await it.case("case-009")
        assert case.attention is not None
        assert "3 of at most 3 freezes" in case.attention.reason
        assert case.attention.resume is State.CHECKING_BEFORE_FREEZE


async def test_a_reclaim_needs_one_permit_for_both_of_its_effects(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_most=2)
        await revoke(it, 2, hand_over=True)
        await it.act()
        it.clock.advance(7 * DAY)
        await limit(it, day_most=1)
        await it.act()
        assert len(await in_state(it, State.RECLAIMED)) == 1
        (held,) = await in_state(it, State.ATTENTION)
        case = await it.case(held)
        assert case.attention is not None
        assert case.attention.resume is State.CHECKING_BEFORE_RECLAIM
        assert await permits(it) == 3, "two freezes, one reclaim"


async def test_a_retried_effect_takes_no_second_permit(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_most=1)
        await revoke(it, 1)
        it.org.trouble = lambda _operation, _id: "before"
        for _ in range(3):
            await it.once("act")
            await it.sql("UPDATE effect SET due = 0")
        it.org.trouble = lambda _operation, _id: "none"
        await it.act()
        assert frozen(it) == 1
        assert await permits(it) == 1
        assert await open_trips(it) == []


async def test_a_step_that_is_tried_again_after_days_counts_for_the_day_it_is_taken(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it, day_most=1)
        await revoke(it, 1)
        it.org.trouble = lambda _operation, _id: "before"
        await it.once("act")
        await it.sql("UPDATE effect SET attempts = 39, due = 0")
        await it.once("act")
        assert (await it.case("case-000")).state is State.ATTENTION
        it.org.trouble = lambda _operation, _id: "none"
        it.clock.advance(3 * DAY)
        await it.order(Retry("op"), "case-000")
        await it.act()
        await revoke(it, 1, first=1)
        await it.act()
        assert await in_state(it, State.FROZEN) == ["case-000"]
        assert await permits(it) == 1


async def test_a_retried_step_counts_from_when_it_is_taken(database_url: str | None, tmp_path: Path) -> None:
    """The org's log must show no more in any 24 hours than the limit, however long the first attempt is ago."""
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_most=1)
        await revoke(it, 1)
        it.org.trouble = lambda _operation, _id: "before"
        await it.once("act")
        it.org.trouble = lambda _operation, _id: "none"
        it.clock.advance(timedelta(hours=20))
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert frozen(it) == 1
        it.clock.advance(timedelta(hours=5))
        await revoke(it, 1, first=1)
        await it.act()
        assert frozen(it) == 1
        assert await in_state(it, State.ATTENTION) == ["case-001"]


async def test_what_may_have_been_sent_keeps_its_place_before_what_was_not(
    database_url: str | None, tmp_path: Path
) -> None:
    """Its permit is too old to serve again, and the only one left must not go to a case that nothing was done in."""
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_most=1)
        await revoke(it, 2)
        async with it.running.database.unit() as unit:
            claimed = await store.claim_effects(unit.db, most=10)
            assert [effect.case.id for effect in claimed] == ["case-000", "case-001"]
            sent = [replace(effect, tried=effect.case.id == "case-001") for effect in claimed]
            (admitted,) = await brake_gate.admit(unit, sent, WIDE)
        assert admitted.case.id == "case-001"
        assert await in_state(it, State.ATTENTION) == ["case-000"]


async def test_a_dry_run_counts_on_its_own(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_most=2)
        await revoke(it, 4, dry_run=True)
        await it.act()
        assert len(await in_state(it, State.FROZEN)) == 2
        assert it.org.writes == []
        await revoke(it, 2, first=10)
        await it.act()
        assert frozen(it) == 2
        (trip,) = await open_trips(it)
        assert trip.dry_run


async def test_giving_back_needs_no_permit(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, day_most=1)
        await revoke(it, 1)
        await it.act()
        await limit(it, day_most=0)
        await it.tell(decision("keep", "case-000"))
        await it.act()
        assert (await it.case("case-000")).state is State.RESTORED
        assert frozen(it) == 0


# Trips and overrides.


async def tripped(it: World, count: int = 3) -> str:
    """Let a brake of one freeze a day stop all but the first of so many cases; return the trip."""
    await limit(it, day_most=1)
    await revoke(it, count)
    await it.act()
    (trip,) = await open_trips(it)
    return str(trip.id)


async def ask(it: World, trip: str, by: str = "anna") -> str:
    async with it.running.database.unit() as unit:
        return await brake_gate.ask_override(unit, trip, by=by, reason="a leaver wave")


async def approve(it: World, trip: str, override: str, by: str = "otto") -> int:
    async with it.running.database.unit() as unit:
        return await brake_gate.approve_override(unit, trip, override, Limits(), by=by)


async def test_a_tripped_brake_does_not_clear_itself(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        trip = await tripped(it)
        it.clock.advance(2 * DAY)
        await it.order(Retry("op"), "case-001")
        await it.act()
        case = await it.case("case-001")
        assert case.state is State.ATTENTION
        assert case.attention is not None
        assert "does not clear itself" in case.attention.reason
        async with it.running.database.unit() as unit:
            assert await brake_gate.retry_within_limits(unit, trip, by="op") == 2
        await it.act()
        assert frozen(it) == 2, "one more today; the limit stops the other one anew"
        (again,) = await open_trips(it)
        assert again.id != trip
        with pytest.raises(Conflict, match="tried again within the limits by op"):
            async with it.running.database.unit() as unit:
                await brake_gate.retry_within_limits(unit, trip, by="op")


async def test_an_override_needs_a_second_operator_and_lets_its_batch_through_once(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        trip = await tripped(it)
        override = await ask(it, trip)
        await revoke(it, 1, first=10)
        await it.act()
        assert frozen(it) == 1
        with pytest.raises(Forbidden, match="Another operator"):
            await approve(it, trip, override, by="Anna")
        with pytest.raises(Conflict, match="anna has asked"):
            await ask(it, trip, by="otto")
        assert await approve(it, trip, override) == 2
        with pytest.raises(Conflict, match="otto has approved"):
            await approve(it, trip, override, by="zoe")
        await it.act()
        assert await in_state(it, State.FROZEN) == ["case-000", "case-001", "case-002"]
        assert await in_state(it, State.ATTENTION) == ["case-010"], "it came after the override was asked for"
        async with it.running.database.reading() as db:
            history = [moment.link.entry for moment in await store.history(db, "case-001")]
        (let_through,) = [entry for entry in history if entry.command == "retry"]
        assert let_through.actor == "otto"
        assert "asked for by anna (a leaver wave), approved by otto" in let_through.evidence
        assert [one.id for one in await open_trips(it)] == [trip]
        second = await ask(it, trip, by="otto")
        assert await approve(it, trip, second, by="anna") == 1
        assert await open_trips(it) == []
        await it.act()
        assert frozen(it) == 4
        assert await it.verified()


async def test_an_override_stands_in_attention_until_somebody_else_approves_it(
    database_url: str | None, tmp_path: Path
) -> None:
    async def waiting() -> list[attention.Item]:
        return (await attention.listing(it.running.database, {}, "override")).items

    async with world(database_url, tmp_path, crowd) as it:
        trip = await tripped(it)
        assert await waiting() == []
        override = await ask(it, trip)
        (item,) = await waiting()
        assert item.reason.startswith("anna asked to let 2 held cases through (a leaver wave). The brake: ")
        assert item.document()["trip_id"] == trip
        found = await attention.listing(it.running.database, {})
        assert (found.counts["override"], found.total) == (1, 3)
        await it.order(Decide("keep", "op", "console", "wanted", it.clock.now()), "case-001")
        (item,) = await waiting()
        assert "1 held case through" in item.reason
        await approve(it, trip, override)
        assert await waiting() == []


async def test_an_override_of_cases_that_have_all_moved_on_waits_for_nobody(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        trip = await tripped(it, 2)
        await ask(it, trip)
        await it.order(Decide("keep", "op", "console", "wanted", it.clock.now()), "case-001")
        assert (await attention.listing(it.running.database, {})).counts["override"] == 0


async def test_who_was_kept_meanwhile_is_not_let_through(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        trip = await tripped(it)
        override = await ask(it, trip)
        await it.tell(decision("keep", "case-001"))
        assert (await it.case("case-001")).state is State.KEPT
        assert await approve(it, trip, override) == 1
        await it.act()
        assert await in_state(it, State.FROZEN) == ["case-000", "case-002"]


async def test_two_approvals_at_once_let_a_batch_through_once(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        trip = await tripped(it)
        override = await ask(it, trip)
        outcomes = await asyncio.gather(
            *(approve(it, trip, override, by=f"op-{number}") for number in range(4)), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Conflict", "Conflict", "int"]


async def test_an_override_of_nothing_is_refused(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        trip = await tripped(it, 2)
        await it.tell(decision("keep", "case-001"))
        with pytest.raises(Conflict, match="no case"):
            await ask(it, trip)
        with pytest.raises(NotFound):
            await ask(it, "nothing")
        with pytest.raises(NotFound):
            await approve(it, trip, "nothing")


# Canaries.


async def confirm(it: World, version: int = 1) -> int:
    async with it.running.database.unit() as unit:
        return await brake_gate.confirm_canary(unit, "rule-1", version, by="otto")


async def test_a_rules_first_live_batch_is_small_until_somebody_looked(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it, canary=2)
        await revoke(it, 5)
        with pytest.raises(NotFound):
            await confirm(it)
        await it.act()
        assert frozen(it) == 2
        case = await it.case("case-004")
        assert case.attention is not None
        assert case.attention.reason.startswith("Held by the canary")
        (trip,) = await open_trips(it)
        with pytest.raises(Conflict, match="not overridden"):
            await ask(it, trip.id)
        assert await confirm(it) == 3
        await it.act()
        assert frozen(it) == 5
        assert await open_trips(it) == []
        with pytest.raises(Conflict, match="otto has let"):
            await confirm(it)


async def test_a_canary_is_not_confirmed_before_its_cases_are_frozen_or_ended(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it, canary=2)
        await revoke(it, 3)
        it.org.trouble = lambda _operation, _id: "before"
        await it.once("act")
        with pytest.raises(Conflict, match="2 of the first seats"):
            await confirm(it)
        it.org.trouble = lambda _operation, _id: "none"
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert await confirm(it) == 1


async def test_an_override_does_not_lift_a_canary(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it, day_most=0, canary=2)
        await revoke(it, 4)
        await it.act()
        (trip,) = await open_trips(it)
        override = await ask(it, trip.id)
        assert await approve(it, trip.id, override) == 4
        await it.act()
        assert frozen(it) == 2
        (trip,) = await open_trips(it)
        assert trip.cap == "canary"


# The kill switch.


async def engage(it: World, scope: Any = "global", target: str = "") -> str:
    async with it.running.database.unit() as unit:
        found, _ = await brake_gate.engage(unit, scope, target, by="anna", reason="something is wrong")
    return str(found.id)


async def release(it: World, switch: str) -> None:
    async with it.running.database.unit() as unit:
        await brake_gate.release(unit, switch, by="otto", reason="it was nothing")
    await it.sql("UPDATE effect SET due = 0")


@pytest.mark.parametrize(("scope", "target"), [("global", ""), ("connection", "c1"), ("rule", "rule-1")])
async def test_an_engaged_kill_switch_holds_freezes_and_loses_none(
    database_url: str | None, tmp_path: Path, scope: str, target: str
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it)
        await revoke(it, 3)
        switch = await engage(it, scope, target)
        for _ in range(50):
            await it.act()
            await it.sql("UPDATE effect SET due = 0")
        assert it.org.writes == []
        assert len(await in_state(it, State.FREEZING)) == 3
        assert await permits(it) == 0
        async with it.running.database.reading() as db:
            (waiting,) = await store.effects_of(db, "case-000")
        assert waiting["attempts"] == 0
        assert "anna: something is wrong" in waiting["reason"]
        await release(it, switch)
        await it.act()
        assert frozen(it) == 3
        with pytest.raises(Conflict, match="otto has released"):
            await release(it, switch)


@pytest.mark.parametrize(("scope", "target"), [("connection", "c2"), ("rule", "rule-2")])
async def test_a_kill_switch_elsewhere_stops_nothing_here(tmp_path: Path, scope: Any, target: str) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it)
        async with it.running.database.unit() as unit:
            await brake_store.engage(unit.db, scope, target, by="anna", reason="x", now=NOW)
        with pytest.raises(NotFound):
            await engage(it, scope, target)
        await revoke(it, 1)
        await it.act()
        assert frozen(it) == 1


async def test_what_is_released_is_checked_again_first(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it)
        await revoke(it, 1)
        switch = await engage(it)
        await it.act()
        it.clock.advance(timedelta(minutes=16))
        it.org.users["005000"].last_used_at = it.clock.now()
        await release(it, switch)
        await it.act()
        assert (await it.case("case-000")).state is State.CANCELLED
        assert it.org.writes == []


def staffed(org: FakeOrg) -> FakeOrg:
    """Give the first two of a crowd a manager, and a record each to hand over."""
    org.users["005M"] = FakeUser(id="005M", created_at=NOW - 900 * DAY, last_used_at=NOW)
    for holder in ("005000", "005001"):
        org.users[holder].manager_id = "005M"
        org.records[f"for {holder}"] = FakeRecord(f"for {holder}", "Case", holder)
    return org


class Interrupted(FakeOrg):
    """An org during whose reading somebody engages the kill switch."""

    def reader(self, profile: ConnectionProfile | None = None) -> Any:
        reader = super().reader(profile)
        survey = reader.survey

        async def read(*arguments: Any, **options: Any) -> Any:
            found = await survey(*arguments, **options)
            await self.meanwhile()
            return found

        reader.survey = read  # type: ignore[method-assign]
        return reader

    async def meanwhile(self) -> None:
        """What happens during the reading."""


@pytest.mark.parametrize("step", ["freeze", "hand over", "deactivate"])
async def test_a_kill_switch_engaged_between_the_claim_and_the_call_stops_the_call(
    database_url: str | None, tmp_path: Path, step: str
) -> None:
    def org(clock: FixedClock) -> FakeOrg:
        return staffed(Interrupted(clock, users=crowd(clock).users))

    async with world(database_url, tmp_path, org) as it:
        await limit(it)
        await revoke(it, 2, hand_over=step == "hand over")
        if step != "freeze":
            await it.act()
            it.clock.advance(7 * DAY)
            await it.once("timers")
            await it.once("act")
        before = list(it.org.writes)
        it.clock.advance(timedelta(minutes=16))  # so that it is checked again, after the claim

        async def meanwhile() -> None:
            await engage(it)

        it.org.meanwhile = meanwhile  # type: ignore[attr-defined]
        await it.once("act")
        assert it.org.writes == before
        async with it.running.database.reading() as db:
            (waiting,) = await store.effects_of(db, "case-000")
        assert waiting["attempts"] == 0
        assert "kill switch" in waiting["reason"]


@pytest.mark.parametrize("step", ["freeze", "hand over", "deactivate"])
async def test_a_kill_switch_engaged_between_two_parts_of_a_call_stops_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A large action is many requests, and one that failed is sent again: each looks first."""
    monkeypatch.setattr(actions, "LOOK_AGAIN", 0)
    guarded = FakeActor.guarded

    async with world(None, tmp_path, lambda clock: staffed(crowd(clock))) as it:
        await limit(it)
        await revoke(it, 2, hand_over=step == "hand over")
        if step != "freeze":
            await it.act()
            it.clock.advance(7 * DAY)
            await it.once("timers")
            await it.once("act")
        before = len(it.org.writes)

        def interrupted(actor: FakeActor, guard: Guard) -> FakeActor:
            async def after_the_first_write() -> None:
                if len(it.org.writes) > before:
                    await engage(it)
                await guard()

            return guarded(actor, after_the_first_write)

        monkeypatch.setattr(FakeActor, "guarded", interrupted)
        await it.once("act")
        assert len(it.org.writes) == before + 1
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert len(it.org.writes) == before + 1


async def test_a_kill_switch_that_cannot_be_read_stops_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it)
        await revoke(it, 1)
        async with it.running.database.unit() as unit:
            claimed = await brake_gate.admit(unit, await store.claim_effects(unit.db, most=200), Limits())
            connection = await store.connection(unit.db, "c1")
        await it.sql("ALTER TABLE kill_switch RENAME TO elsewhere")
        actions = Actions(it.running.database, it.org, Sealer([KEY]), it.clock)
        await actions._perform(claimed, connection)
        assert it.org.writes == []
        await it.sql("UPDATE effect SET due = 0")
        with pytest.raises(sa.exc.OperationalError):
            await it.once("act")
        assert it.org.writes == []


@pytest.mark.parametrize(
    ("step", "end"), [("frozen", State.RESTORED), ("reclaiming", State.RESTORED), ("freezing", State.KEPT)]
)
async def test_appeals_are_granted_while_the_kill_switch_is_engaged(
    database_url: str | None, tmp_path: Path, step: str, end: State
) -> None:
    async with world(database_url, tmp_path, crowd) as it:
        await limit(it)
        await revoke(it, 1)
        if step != "freezing":
            await it.act()
        if step == "reclaiming":
            it.clock.advance(7 * DAY)
            await it.once("timers")
            await it.once("act")
            assert (await it.case("case-000")).state is State.RECLAIMING
        await engage(it)
        await it.act()
        await it.tell(decision("keep", "case-000"))
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case("case-000")).state is end
        assert frozen(it) == 0
        assert (it.org.writes == []) is (step == "freezing"), "what was never begun is not undone"
        assert await it.verified()


async def test_a_deactivation_that_may_have_happened_is_undone_for_an_appeal(tmp_path: Path) -> None:
    async with world(None, tmp_path, crowd) as it:
        await limit(it)
        await revoke(it, 1)
        await it.act()
        it.clock.advance(7 * DAY)
        await it.once("timers")
        await it.once("act")
        it.org.trouble = lambda _operation, _id: "after"
        await it.once("act")
        it.org.trouble = lambda _operation, _id: "none"
        assert not it.org.users["005000"].active
        await engage(it)
        await it.tell(decision("keep", "case-000"))
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case("case-000")).state is State.RESTORED
        assert it.org.users["005000"].active
        assert frozen(it) == 0
