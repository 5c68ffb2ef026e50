"""One contract, held to by the connector of an org in memory and by the Salesforce connector over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from libs.connectors.tests.connectors_worlds import DAY, ENGAGED, NOW, SINCE, Fake, Letting, Simulated, World
from reclaim.common.clock import FixedClock
from reclaim.connectors.checks import CHECK_NAMES, evaluate, left_alone_by
from reclaim.connectors.ports import (
    FROZEN_BY_ANOTHER,
    Done,
    Downgrade,
    Grants,
    HandedOver,
    Known,
    Refused,
    SeatRecord,
    Transfer,
    TryLater,
)
from reclaim.sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """One server for the module; each test gives it an org of its own."""
    async with Sandbox(clock=FixedClock(NOW), users=0) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(params=["fake", "salesforce"], loop_scope="module")
async def world(request: pytest.FixtureRequest, sandbox: Sandbox) -> AsyncIterator[World]:
    if request.param == "fake":
        yield Fake()
        return
    simulated = Simulated(sandbox)
    yield simulated
    await simulated.reader.close()
    await simulated.actor.close()


async def all_seats(world: World) -> dict[str, SeatRecord]:
    pages = [page async for page in world.reader.seats([world.product])]
    seats = [seat for page in pages for seat in page]
    assert len(seats) == len({seat.holder.id for seat in seats})
    return {seat.holder.id: seat for seat in seats}


async def test_a_manager_who_is_off_or_frozen_is_not_able(world: World) -> None:
    off, frozen = world.add(active=False), world.add(frozen=True)
    under_off, under_frozen = world.add(manager_id=off), world.add(manager_id=frozen)
    seats = await all_seats(world)
    one_by_one = await world.reader.seats_of([under_off, under_frozen])
    for found in (seats, one_by_one):
        for holder in (under_off, under_frozen):
            manager = found[holder].manager
            assert manager is not None
            assert not manager.able


TRAITS: dict[str, dict[str, Any]] = {
    "new_account": {"created_at": NOW - 3 * DAY},
    "active_elsewhere": {"seen_elsewhere_at": NOW - 3 * DAY},
    "integration_user": {"integration": True},
    "administrator": {"administrator": True},
    "exempt": {"exempt": True},
    "already_frozen": {"frozen": True},
    "scheduled_jobs": {"scheduled": True},
    "pending_approvals": {"approvals": True},
    "queue_member": {"queue": True},
    "no_successor": {},
}


@pytest.mark.parametrize("scope", ["everybody", "asked for"])
async def test_a_survey_feeds_every_check(world: World, scope: str) -> None:
    boss = world.add()
    # A freeze in the account's past must not make everybody young.
    old = {"frozen_changed_at": NOW - 300 * DAY}
    expected: dict[str, str | None] = {world.add(manager_id=boss, **old): None}
    for check, traits in TRAITS.items():
        manager = {} if check == "no_successor" else {"manager_id": boss}
        holder = world.add(**{**old, **manager, **traits})
        world.give(holder, "Case")
        expected[holder] = check
    thawed = world.add(manager_id=boss, frozen_changed_at=NOW - 3 * DAY)
    expected[thawed] = "new_account"
    survey = await world.reader.survey(None if scope == "everybody" else list(expected), since=SINCE)
    assert survey.taken_at == NOW
    seats = await world.reader.seats_of(list(expected))
    found = {
        holder: left_alone_by(evaluate(seats[holder], survey, now=NOW, inactive_days=90, young_days=30))
        for holder in expected
    }
    assert found == expected
    assert set(expected.values()) == {None, *CHECK_NAMES}


async def test_use_before_the_window_is_no_use(world: World) -> None:
    before = world.add(seen_elsewhere_at=SINCE - DAY)
    within = world.add(seen_elsewhere_at=SINCE)
    survey = await world.reader.survey([before, within], since=SINCE)
    assert isinstance(survey.last_seen_elsewhere, Known)
    assert dict(survey.last_seen_elsewhere.value) == {within: SINCE}


async def test_a_survey_of_nobody_is_empty(world: World) -> None:
    survey = await world.reader.survey([], since=SINCE)
    assert survey.frozen == Known(frozenset())


async def test_the_user_we_run_as_is_an_administrator(world: World) -> None:
    survey = await world.reader.survey(None, since=SINCE)
    assert isinstance(survey.administrators, Known)
    assert survey.administrators.value[world.run_as] == "Reclaim signs in as this user"


async def test_freeze_and_unfreeze(world: World) -> None:
    first, second = world.add(), world.add(frozen=True)
    results = await world.actor.freeze([first, second])
    assert results == {
        first: Done(changed=True, before={"IsFrozen": False}),
        second: Done(changed=False, before={"IsFrozen": True}),
    }
    assert world.state(first) == world.state(second) == (True, True)
    assert world.writes() == 1
    assert (await world.actor.freeze([first, first]))[first] == Done(changed=False, before={"IsFrozen": True})
    assert world.writes() == 1
    results = await world.actor.unfreeze([first])
    assert results[first] == Done(changed=True, before={"IsFrozen": True})
    assert world.state(first) == (True, False)


async def test_what_somebody_else_froze_is_neither_taken_for_ours_nor_undone(world: World) -> None:
    theirs, ours = world.add(), world.add()
    await world.actor.freeze([theirs, ours])
    for frozen in (False, True):
        world.somebody_sets_frozen(theirs, frozen=frozen)
    assert (await world.actor.freeze([theirs, ours]))[ours] == Done(changed=False, before={"IsFrozen": True})
    writes = world.writes()
    for act in (world.actor.freeze, world.actor.unfreeze, world.actor.reactivate):
        refusal = (await act([theirs]))[theirs]
        assert isinstance(refusal, Refused)
        assert refusal.code == FROZEN_BY_ANOTHER
        assert "unfreeze" in refusal.remedy.lower()
    assert (world.state(theirs), world.writes()) == ((True, True), writes)
    assert (await world.actor.unfreeze([ours]))[ours] == Done(changed=True, before={"IsFrozen": True})
    # Once they have undone it themselves, it may be frozen again, and is ours then.
    world.somebody_sets_frozen(theirs, frozen=False)
    for act, before in ((world.actor.unfreeze, False), (world.actor.freeze, False), (world.actor.unfreeze, True)):
        done = (await act([theirs]))[theirs]
        assert isinstance(done, Done)
        assert done.before == {"IsFrozen": before}
    assert world.state(theirs) == (True, False)


async def test_deactivate_frees_the_seat_and_reactivate_takes_it_again(world: World) -> None:
    holder = world.add(frozen=True)
    used = {each.product: each.used for each in await world.reader.licences()}[world.product]
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={"IsActive": True})
    assert {each.product: each.used for each in await world.reader.licences()}[world.product] == used - 1
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=False, before={"IsActive": False})
    result = (await world.actor.reactivate([holder]))[holder]
    assert result == Done(changed=True, before={"IsActive": False, "IsFrozen": True})
    assert world.state(holder) == (True, False)
    again = (await world.actor.reactivate([holder]))[holder]
    assert again == Done(changed=False, before={"IsActive": True, "IsFrozen": False})


async def test_no_seat_free_refuses_a_reactivation(world: World) -> None:
    holder = world.add(active=False)
    world.seats_bought({each.product: each.used for each in await world.reader.licences()}[world.product])
    result = (await world.actor.reactivate([holder]))[holder]
    assert isinstance(result, Refused)
    assert result.code == "LICENSE_LIMIT_EXCEEDED"
    assert world.state(holder)[0] is False


async def test_our_own_user_is_never_frozen_or_deactivated(world: World) -> None:
    other = world.add()
    for act in (world.actor.freeze, world.actor.deactivate):
        results = await act([world.run_as, other])
        refusal = results[world.run_as]
        assert isinstance(refusal, Refused)
        assert refusal.code == "OWN_USER"
        assert isinstance(results[other], Done)
    assert world.state(world.run_as) == (True, False)


async def test_nothing_to_do_is_nothing_done(world: World) -> None:
    for act in (world.actor.freeze, world.actor.unfreeze, world.actor.deactivate, world.actor.reactivate):
        assert await act([]) == {}
    assert await world.actor.hand_over([]) == {}
    assert await world.reader.open_records([]) == {}
    assert world.writes() == 0


async def test_hand_over_moves_the_open_records(world: World) -> None:
    holder, boss, other = world.add(), world.add(), world.add()
    records = [world.give(holder, kind) for kind in ("Opportunity", "Case", "Case", "Lead")]
    closed = world.give(holder, "Opportunity")
    world.close_record(closed)
    foreign = world.give(other, "Case")
    found = await world.reader.open_records([holder, boss])
    assert {kind: set(ids) for kind, ids in found[holder].items()} == {
        "Opportunity": {records[0]},
        "Case": {records[1], records[2]},
        "Lead": {records[3]},
    }
    assert set(found) == {holder}
    transfer = Transfer(holder, boss, found[holder])
    whole = HandedOver(moved={"Opportunity": 1, "Case": 2, "Lead": 1}, failed={})
    assert await world.actor.hand_over([transfer]) == {holder: whole}
    assert {world.owner(each) for each in records} == {boss}
    assert (world.owner(closed), world.owner(foreign)) == (holder, other)
    assert world.writes() == 4
    # Repeated, it counts what the first call moved, and moves nothing.
    assert await world.actor.hand_over([transfer]) == {holder: whole}
    assert world.writes() == 4


async def test_hand_over_leaves_what_changed_meanwhile(world: World) -> None:
    holder, boss, other = world.add(), world.add(), world.add()
    closed, taken, open_ = (world.give(holder, "Opportunity") for _ in range(3))
    found = await world.reader.open_records([holder])
    world.close_record(closed)
    await world.actor.hand_over([Transfer(holder, other, {"Opportunity": [taken]})])
    results = await world.actor.hand_over([Transfer(holder, boss, found[holder])])
    assert results == {holder: HandedOver(moved={"Opportunity": 1}, failed={})}
    assert (world.owner(closed), world.owner(taken), world.owner(open_)) == (holder, other, boss)


@pytest.mark.parametrize(
    ("traits", "code"), [({"active": False}, "INACTIVE_SUCCESSOR"), ({"frozen": True}, "FROZEN_SUCCESSOR")]
)
async def test_a_successor_must_be_able(world: World, traits: dict[str, Any], code: str) -> None:
    holder, unfit, able = world.add(), world.add(**traits), world.add()
    second = world.add()
    records = {each: world.give(each, "Case") for each in (holder, second)}
    results = await world.actor.hand_over(
        [
            Transfer(holder, unfit, {"Case": [records[holder]]}),
            Transfer(second, able, {"Case": [records[second]]}),
        ]
    )
    refusal = results[holder]
    assert isinstance(refusal, Refused)
    assert refusal.code == code
    assert results[second] == HandedOver(moved={"Case": 1}, failed={})
    assert world.owner(records[holder]) == holder


async def test_nobody_succeeds_himself(world: World) -> None:
    holder = world.add()
    results = await world.actor.hand_over([Transfer(holder, holder, {"Case": [world.give(holder, "Case")]})])
    refusal = results[holder]
    assert isinstance(refusal, Refused)
    assert refusal.code == "SAME_OWNER"


# Row by row, on the org's bad days. Whatever happens to a call, each row ends right, and nothing is written twice.


async def test_in_a_call_of_200_each_row_ends_for_itself(world: World) -> None:
    holders = [world.add() for _ in range(200)]
    blocked, *locked = holders[17], holders[3], holders[150]
    gone = "005000000000000AAA"
    world.block(blocked)
    world.lock(*locked)
    asked = [*holders[:199], gone]
    results = await world.actor.deactivate(asked)
    kinds = {holder: type(result) for holder, result in results.items()}
    assert kinds == {
        **dict.fromkeys(asked, Done),
        **dict.fromkeys((blocked, gone), Refused),
        **dict.fromkeys(locked, TryLater),
    }
    assert world.writes() == 199 - 3
    assert {holder for holder in asked[:-1] if world.state(holder)[0]} == {blocked, *locked}
    world.recover()
    again = await world.actor.deactivate(asked)
    assert all(again[holder] == Done(changed=True, before={"IsActive": True}) for holder in locked)
    assert isinstance(again[blocked], Refused)
    assert world.writes() == 199 - 1
    assert world.state(holders[199])[0], "who was not asked about is left alone"


@pytest.mark.parametrize("operation", ["freeze", "unfreeze", "deactivate", "reactivate"])
async def test_an_answer_that_is_lost_is_read_up_and_never_sent_again(world: World, operation: str) -> None:
    traits = {"unfreeze": {"frozen": True}, "reactivate": {"active": False}}.get(operation, {})
    holders = [world.add(**traits) for _ in range(3)]
    world.lose_the_next_answer(operation)
    results = await getattr(world.actor, operation)(holders)
    assert all(isinstance(result, Done | TryLater) for result in results.values())
    world.recover()
    results = await getattr(world.actor, operation)(holders)
    assert all(isinstance(result, Done) and not result.changed for result in results.values())
    assert world.writes() == 3


async def test_a_lost_answer_to_a_hand_over_is_read_up_and_never_sent_again(world: World) -> None:
    holder, boss = world.add(), world.add()
    transfer = Transfer(holder, boss, {"Case": [world.give(holder, "Case") for _ in range(3)]})
    world.lose_the_next_answer("hand_over")
    first = (await world.actor.hand_over([transfer]))[holder]
    assert isinstance(first, HandedOver | TryLater)
    world.recover()
    assert (await world.actor.hand_over([transfer]))[holder] == HandedOver(moved={"Case": 3}, failed={})
    assert world.writes() == 3


async def test_what_is_locked_waits_and_what_moved_by_then_is_counted(world: World) -> None:
    holder, boss = world.add(), world.add()
    fine, stuck = world.give(holder, "Case"), world.give(holder, "Case")
    world.lock(stuck)
    transfer = Transfer(holder, boss, {"Case": [fine, stuck]})
    result = (await world.actor.hand_over([transfer]))[holder]
    assert isinstance(result, TryLater)
    assert result.moved == 1
    assert (world.owner(fine), world.owner(stuck)) == (boss, holder)
    world.recover()
    assert (await world.actor.hand_over([transfer]))[holder] == HandedOver(moved={"Case": 2}, failed={})
    assert world.writes() == 2


async def test_a_session_that_expired_is_nobodys_failure(world: World) -> None:
    first, second = world.add(), world.add()
    await world.actor.freeze([first])
    world.end_sessions()
    assert (await world.actor.freeze([first, second])) == {
        first: Done(changed=False, before={"IsFrozen": True}),
        second: Done(changed=True, before={"IsFrozen": False}),
    }
    assert world.writes() == 2


# To a cheaper licence and back.

PLATFORM = "Standard Platform User"


async def test_a_downgrade_takes_away_what_needs_the_licence_and_an_upgrade_puts_it_back(world: World) -> None:
    holder, other = world.add(frozen=True), world.add()
    needs, free, add_on = world.grant(holder)
    before = (await world.reader.grants([holder, other]))[holder]
    assert (set(before.permission_sets), before.permission_set_licences) == ({needs, free}, (add_on,))
    assert before.product == "SFDC"

    done = await world.actor.downgrade([Downgrade(holder, "AUL", PLATFORM)])
    assert done.keys() == {holder}
    assert isinstance(done[holder], Done)
    assert done[holder].changed
    after = (await world.reader.grants([holder]))[holder]
    assert (after.product, after.permission_sets, after.permission_set_licences) == ("AUL", (free,), ())
    assert after.profile != before.profile
    assert world.state(holder) == (True, False), "who keeps an account can sign in to it"
    assert (await world.reader.seats_of([holder]))[holder].product == "AUL"
    assert (await world.reader.grants([other]))[other].product == "SFDC"

    writes = world.writes()
    again = (await world.actor.downgrade([Downgrade(holder, "AUL", PLATFORM)]))[holder]
    assert isinstance(again, Done)
    assert (again.changed, world.writes()) == (False, writes)

    back = (await world.actor.upgrade({holder: before}))[holder]
    assert isinstance(back, Done)
    assert back.changed
    assert (await world.reader.grants([holder]))[holder] == before
    assert world.state(holder) == (True, False)
    writes = world.writes()
    assert (await world.actor.upgrade({holder: before}))[holder] == Done(changed=False, before=_any_before)
    assert world.writes() == writes


class _AnyBefore(dict[str, object]):
    """Equal to any image: what one read shows is not what these tests are about."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict)

    __hash__ = None  # type: ignore[assignment]


_any_before = _AnyBefore()


async def test_a_downgrade_finds_the_only_profile_by_itself_and_refuses_to_guess(world: World) -> None:
    holder = world.add()
    world.grant(holder)
    unknown = (await world.actor.downgrade([Downgrade(holder, "AUL", "No Such Profile")]))[holder]
    assert isinstance(unknown, Refused)
    assert unknown.code == "NO_PROFILE"
    assert PLATFORM in unknown.message
    assert (await world.reader.grants([holder]))[holder].product == "SFDC"
    found = (await world.actor.downgrade([Downgrade(holder, "AUL")]))[holder]
    assert isinstance(found, Done)
    assert (await world.reader.grants([holder]))[holder].product == "AUL"


async def test_a_downgrade_that_is_refused_can_be_put_back_whole(world: World) -> None:
    holder = world.add(frozen=True)
    world.grant(holder)
    before = (await world.reader.grants([holder]))[holder]
    world.ungrantable(holder)
    refused = (await world.actor.downgrade([Downgrade(holder, "AUL", PLATFORM)]))[holder]
    assert isinstance(refused, Refused)
    assert refused.code == "LICENSE_LIMIT_EXCEEDED"
    half = (await world.reader.grants([holder]))[holder]
    assert half.product == "SFDC"
    assert world.state(holder) == (True, True), "the holder stays frozen: nothing is decided anew"
    assert isinstance((await world.actor.upgrade({holder: before}))[holder], Done)
    assert (await world.reader.grants([holder]))[holder] == before


async def test_an_upgrade_needs_a_free_seat(world: World) -> None:
    holder = world.add()
    world.grant(holder)
    before = (await world.reader.grants([holder]))[holder]
    await world.actor.downgrade([Downgrade(holder, "AUL", PLATFORM)])
    world.seats_bought(0)
    refused = (await world.actor.upgrade({holder: before}))[holder]
    assert isinstance(refused, Refused)
    assert refused.code == "LICENSE_LIMIT_EXCEEDED"
    assert (await world.reader.grants([holder]))[holder].product == "AUL"


async def test_neither_our_own_user_nor_an_inactive_one_is_downgraded(world: World) -> None:
    idle = world.add(active=False)
    world.grant(idle)
    writes = world.writes()
    wanted = [Downgrade(world.run_as, "AUL", PLATFORM), Downgrade(idle, "AUL", PLATFORM)]
    results = await world.actor.downgrade(wanted)
    codes = {holder: result.code for holder, result in results.items() if isinstance(result, Refused)}
    assert codes == {world.run_as: "OWN_USER", idle: "INACTIVE_USER"}
    assert world.writes() == writes


async def test_grants_of_nobody_are_none(world: World) -> None:
    assert await world.reader.grants([]) == {}
    assert await world.actor.upgrade({}) == {}
    assert await world.actor.downgrade([]) == {}
    missing: Grants | None = (await world.reader.grants(["005000000000000AAA"])).get("005000000000000AAA")
    assert missing is None


# What a guard stops is not sent.


async def test_a_guard_stops_a_hand_over_between_two_calls_and_what_moved_is_counted(world: World) -> None:
    holder, boss = world.add(), world.add()
    records = [world.give(holder, "Case") for _ in range(world.together + 2)] + [world.give(holder, "Lead")]
    transfer = Transfer(holder, boss, {"Case": records[:-1], "Lead": records[-1:]})
    result = (await world.actor.guarded(Letting(1)).hand_over([transfer]))[holder]
    assert result == TryLater(ENGAGED, moved=world.together)
    assert [world.owner(each) for each in records].count(boss) == world.together == world.writes()
    whole = HandedOver(moved={"Case": world.together + 2, "Lead": 1}, failed={})
    assert await world.actor.hand_over([transfer]) == {holder: whole}
    assert world.writes() == len(records)


@pytest.mark.parametrize("calls", range(4))
async def test_a_guard_stops_a_downgrade_before_any_of_its_writes(world: World, calls: int) -> None:
    holder = world.add(frozen=True)
    world.grant(holder)
    guard = Letting(calls)
    wanted = [Downgrade(holder, "AUL", PLATFORM)]
    before = (await world.reader.grants([holder]))[holder]
    assert await world.actor.guarded(guard).downgrade(wanted) == {holder: TryLater(ENGAGED)}
    assert guard.asked == calls + 1
    after = (await world.reader.grants([holder]))[holder]
    gone = [
        len(after.permission_sets) < len(before.permission_sets),
        len(after.permission_set_licences) < len(before.permission_set_licences),
        after.product != before.product,
    ]
    assert gone == [calls > each for each in range(3)]
    assert world.state(holder) == (True, True)
    done = (await world.actor.downgrade(wanted))[holder]
    assert isinstance(done, Done)
    assert world.state(holder) == (True, False)


@pytest.mark.parametrize("calls", range(3))
async def test_a_guard_stops_an_upgrade_before_any_of_its_writes(world: World, calls: int) -> None:
    holder = world.add()
    world.grant(holder)
    before = (await world.reader.grants([holder]))[holder]
    await world.actor.downgrade([Downgrade(holder, "AUL", PLATFORM)])
    guard = Letting(calls)
    assert await world.actor.guarded(guard).upgrade({holder: before}) == {holder: TryLater(ENGAGED)}
    assert guard.asked == calls + 1
    after = (await world.reader.grants([holder]))[holder]
    back = [after.profile == before.profile, bool(after.permission_set_licences), len(after.permission_sets) == 2]
    assert back == [calls > each for each in range(3)]
    assert isinstance((await world.actor.upgrade({holder: before}))[holder], Done)
    assert (await world.reader.grants([holder]))[holder] == before
