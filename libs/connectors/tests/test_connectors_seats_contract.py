"""What every connector with seats holds to: one in memory, Salesforce's, and SCIM's over a server of somebody else's.

SCIM comes twice: with PATCH and versions, and with a server that has neither, so that whole accounts are put. By
`make test-node` it comes a third and fourth time, over another server in another language.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.connectors.tests.connectors_worlds import DAY, ENGAGED, NOW, SINCE, Fake, Letting, Scim, SeatWorld, Simulated
from libs.connectors.tests.scim_server import ScimmyServer, ScimServer
from reclaim.common.clock import FixedClock
from reclaim.common.errors import NotFound
from reclaim.connectors.ports import Done, Known, Members, Refused, SeatRecord, TryLater
from reclaim.sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def server() -> Iterator[ScimServer]:
    server = ScimServer()
    yield server
    server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=FixedClock(NOW), users=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def scimmy() -> Iterator[ScimmyServer]:
    server = ScimmyServer(Path(os.environ["RECLAIM_TEST_SCIMMY"]))
    yield server
    server.close()


WORLDS = [
    "fake",
    "salesforce",
    "scim",
    "scim-put",
    *(pytest.param(name, marks=pytest.mark.node) for name in ("scimmy", "scimmy-put")),
]


@pytest_asyncio.fixture(params=WORLDS, loop_scope="module")
async def world(request: pytest.FixtureRequest, sandbox: Sandbox, server: ScimServer) -> AsyncIterator[SeatWorld]:
    world: SeatWorld
    match request.param:
        case "fake":
            world = Fake()
        case "salesforce":
            world = Simulated(sandbox)
        case name:
            asked: ScimServer = request.getfixturevalue("scimmy") if name.startswith("scimmy") else server
            world = Scim(asked)
            asked.patch = not name.endswith("-put")
            asked.etag = name == "scim"
    yield world
    await world.reader.close()
    await world.actor.close()


async def all_seats(world: SeatWorld) -> dict[str, SeatRecord]:
    pages = [page async for page in world.reader.seats([world.product])]
    seats = [seat for page in pages for seat in page]
    assert len(seats) == len({seat.holder.id for seat in seats})
    return {seat.holder.id: seat for seat in seats}


async def used(world: SeatWorld) -> int:
    return {each.product: each.used for each in await world.reader.licences()}[world.product]


async def test_reading_changes_nothing_and_has_nothing_to_change_with(world: SeatWorld) -> None:
    holder = world.add()
    await world.reader.test()
    await world.reader.licences()
    await all_seats(world)
    await world.reader.seats_of([holder])
    await world.reader.survey([holder], since=SINCE)
    await world.reader.survey(None, since=SINCE)
    await world.reader.open_records([holder])
    assert world.writes() == 0
    for verb in ("freeze", "unfreeze", "deactivate", "reactivate", "hand_over", "update", "write"):
        assert not hasattr(world.reader, verb)


async def test_a_working_connection_tests_well(world: SeatWorld) -> None:
    results = await world.reader.test()
    assert results
    assert all(result.ok and result.what and result.detail for result in results)


async def test_licences_count_what_is_in_use(world: SeatWorld) -> None:
    before = await used(world)
    world.add()
    world.add(active=False)
    assert await used(world) == before + 1


async def test_seats_are_the_active_ones_once_each(world: SeatWorld) -> None:
    boss = world.add()
    holders = [world.add(manager_id=boss, department="Sales") for _ in range(7)]
    inactive = world.add(active=False)
    seats = await all_seats(world)
    assert set(seats) == {boss, *holders}
    assert inactive not in seats
    assert world.run_as not in seats
    seat = seats[holders[0]]
    assert (seat.product, seat.active, seat.usage_type, seat.department) == (world.product, True, "Standard", "Sales")
    assert seat.created_at == NOW - 400 * DAY
    assert seat.last_used_at == (NOW - 200 * DAY if world.tells_use else None)
    assert seat.manager is not None
    assert (seat.manager.person.id, seat.manager.able) == (boss, True)


async def test_who_tells_no_use_says_so_and_does_not_say_never(world: SeatWorld) -> None:
    survey = await world.reader.survey([world.add()], since=SINCE)
    assert isinstance(survey.last_seen_elsewhere, Known) is world.tells_use


async def test_a_survey_says_whose_account_it_came_upon(world: SeatWorld) -> None:
    on, off = world.add(), world.add(active=False)
    survey = await world.reader.survey([on, off, world.nobody], since=SINCE)
    assert [survey.misses(each) for each in (on, off, world.nobody)] == [False, False, True]
    assert (await world.reader.survey(None, since=SINCE)).seen is None


async def test_no_products_are_no_seats_and_an_unknown_one_is_an_error(world: SeatWorld) -> None:
    assert [page async for page in world.reader.seats([])] == []
    with pytest.raises(NotFound, match="no licence NOPE"):
        [page async for page in world.reader.seats([world.product, "NOPE"])]


async def test_a_manager_who_is_off_is_not_able(world: SeatWorld) -> None:
    off = world.add(active=False)
    under_off = world.add(manager_id=off)
    for found in (await all_seats(world), await world.reader.seats_of([under_off])):
        manager = found[under_off].manager
        assert manager is not None
        assert (manager.person.id, manager.able) == (off, False)


async def test_seats_of_knows_the_inactive_and_leaves_out_the_gone(world: SeatWorld) -> None:
    never, inactive = world.add(last_used_at=None), world.add(active=False)
    found = await world.reader.seats_of([never, inactive, world.nobody])
    assert set(found) == {never, inactive}
    assert found[never].last_used_at is None
    assert (found[never].active, found[inactive].active) == (True, False)
    assert await world.reader.seats_of([]) == {}


async def test_what_is_switched_off_frees_the_seat_and_is_given_back(world: SeatWorld) -> None:
    holder = world.add()
    before = await used(world)
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={world.flag: True})
    assert (world.active(holder), await used(world)) == (False, before - 1)
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=False, before={world.flag: False})
    given_back = (await world.actor.reactivate([holder]))[holder]
    assert isinstance(given_back, Done)
    assert (given_back.changed, given_back.before[world.flag]) == (True, False)
    assert world.active(holder)
    again = (await world.actor.reactivate([holder]))[holder]
    assert isinstance(again, Done)
    assert (again.changed, again.before[world.flag]) == (False, True)
    assert world.writes() == 2


async def test_one_refusal_does_not_touch_the_others(world: SeatWorld) -> None:
    fine, blocked = world.add(), world.add()
    world.block(blocked)
    results = await world.actor.deactivate([fine, blocked, world.nobody])
    assert results[fine] == Done(changed=True, before={world.flag: True})
    refusal, missing = results[blocked], results[world.nobody]
    assert isinstance(refusal, Refused)
    assert refusal.code == world.refusal
    assert refusal.message
    assert refusal.remedy
    assert isinstance(missing, Refused)
    assert missing.code == "NOT_FOUND"
    assert (world.active(fine), world.active(blocked)) == (False, True)
    assert world.writes() == 1


async def test_our_own_user_is_never_switched_off(world: SeatWorld) -> None:
    other = world.add()
    results = await world.actor.deactivate([world.run_as, other])
    refusal = results[world.run_as]
    assert isinstance(refusal, Refused)
    assert refusal.code == "OWN_USER"
    assert isinstance(results[other], Done)
    assert world.active(world.run_as)
    survey = await world.reader.survey(None, since=SINCE)
    assert isinstance(survey.administrators, Known)
    assert survey.administrators.value[world.run_as] == "Reclaim signs in as this user"


async def test_nothing_to_do_is_nothing_done(world: SeatWorld) -> None:
    for act in (world.actor.freeze, world.actor.unfreeze, world.actor.deactivate, world.actor.reactivate):
        assert await act([]) == {}
    assert await world.reader.open_records([]) == {}
    assert await world.reader.grants([]) == {}
    assert world.writes() == 0


async def test_of_many_each_ends_for_itself(world: SeatWorld) -> None:
    holders = [world.add() for _ in range(12)]
    blocked, *locked = holders[5], holders[2], holders[9]
    world.block(blocked)
    world.lock(*locked)
    results = await world.actor.deactivate([*holders, world.nobody])
    assert {holder: type(result) for holder, result in results.items()} == {
        **dict.fromkeys(holders, Done),
        **dict.fromkeys((blocked, world.nobody), Refused),
        **dict.fromkeys(locked, TryLater),
    }
    assert world.writes() == 12 - 3
    assert {holder for holder in holders if world.active(holder)} == {blocked, *locked}
    world.recover()
    again = await world.actor.deactivate(holders)
    assert all(again[holder] == Done(changed=True, before={world.flag: True}) for holder in locked)
    assert world.writes() == 12 - 1


@pytest.mark.parametrize("operation", ["deactivate", "reactivate"])
async def test_an_answer_that_is_lost_is_read_up_and_never_sent_again(world: SeatWorld, operation: str) -> None:
    holder = world.add(active=operation == "deactivate")
    world.lose_the_next_answer(operation)
    first = (await getattr(world.actor, operation)([holder]))[holder]
    assert isinstance(first, Done | TryLater)
    assert not isinstance(first, Done) or first.changed
    world.recover()
    again = (await getattr(world.actor, operation)([holder]))[holder]
    assert isinstance(again, Done)
    assert not again.changed
    assert world.writes() == 1


async def test_without_calls_left_everything_waits_and_nothing_is_written(world: SeatWorld) -> None:
    holder = world.add()
    world.use_up_the_calls()
    assert isinstance((await world.actor.deactivate([holder]))[holder], TryLater)
    assert not (await world.reader.test())[0].ok
    assert world.writes() == 0
    world.recover()
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={world.flag: True})
    assert world.writes() == 1


# What a guard stops is not sent.


async def test_what_a_guard_stops_between_two_calls_is_not_written(world: SeatWorld) -> None:
    holders = [world.add() for _ in range(world.together + 3)]
    guard = Letting(1)
    results = await world.actor.guarded(guard).deactivate(holders)
    sent = [holder for holder, result in results.items() if result == Done(changed=True, before={world.flag: True})]
    assert len(sent) == world.together == world.writes()
    assert {holder for holder in holders if not world.active(holder)} == set(sent)
    assert [results[holder] for holder in holders if holder not in sent] == [TryLater(ENGAGED)] * 3
    # The guard is the twin's alone, and the connections are still good.
    again = await world.actor.deactivate(holders)
    changed = [holder for holder, result in again.items() if isinstance(result, Done) and result.changed]
    assert set(changed) == set(holders) - set(sent)
    assert world.writes() == len(holders)


@pytest.mark.parametrize("operation", ["deactivate", "reactivate"])
async def test_a_guard_that_stops_at_once_leaves_everything_as_it_is(world: SeatWorld, operation: str) -> None:
    holder, settled = world.add(active=operation == "deactivate"), world.add(active=operation != "deactivate")
    guard = Letting(0)
    results = await getattr(world.actor.guarded(guard), operation)([holder, settled, world.nobody])
    assert results[holder] == TryLater(ENGAGED)
    assert isinstance(results[world.nobody], Refused)
    done = results[settled]
    assert isinstance(done, Done)
    assert not done.changed
    assert (guard.asked, world.writes()) == (1, 0), "reading is not asked about"


async def test_what_a_guard_stops_before_it_is_sent_again_is_not_written(world: SeatWorld) -> None:
    holder = world.add()
    world.be_busy_once()
    result = (await world.actor.guarded(Letting(1)).deactivate([holder]))[holder]
    assert isinstance(result, TryLater)
    assert (world.active(holder), world.writes()) == (True, 0)
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={world.flag: True})


# ------------------------------------------------------------------------------------------------ groups

grouped = pytest.mark.parametrize("world", ["fake", "salesforce", "scim", "scim-put"], indirect=True)
"""The other SCIM server has no groups."""


@grouped
async def test_members_of_a_group_are_listed_with_those_of_the_groups_in_it(world: SeatWorld) -> None:
    ann, bob, cid, dan = (world.add() for _ in range(4))
    inner = world.group("Inner", [cid])
    world.group("Leaders", [bob])
    world.group("VIP", [ann, bob], [inner])
    found = await world.reader.members(["VIP", "Leaders", "Inner"])
    assert set(found) == {"VIP", "Leaders", "Inner"}
    assert found["VIP"] == Members(frozenset({ann, bob, cid}))
    assert found["Leaders"] == Members(frozenset({bob}))
    assert [found["Inner"].has(each) for each in (cid, dan)] == [True, False]


@grouped
async def test_of_a_group_that_is_not_there_nobody_is_certain_to_be_outside(world: SeatWorld) -> None:
    ann = world.add()
    world.group("VIP", [ann])
    found = await world.reader.members(["VIP", "VIPs", "vip", "x' OR Name != '", 'x" or displayName pr or "'])
    assert found.pop("VIP").has(ann) is True
    assert len(found) == 4
    for name, members in found.items():
        assert members.has(ann) is None, name
        assert members.ids == frozenset()
        assert members.doubt
    assert await world.reader.members([]) == {}


@grouped
async def test_more_members_than_fit_on_a_page_are_all_listed(world: SeatWorld) -> None:
    holders = [world.add() for _ in range(9)]
    world.group("VIP", holders)
    assert (await world.reader.members(["VIP"]))["VIP"].ids == frozenset(holders)
