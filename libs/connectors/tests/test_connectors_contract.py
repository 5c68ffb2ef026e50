"""One contract, held to by the connector of an org in memory and by the Salesforce connector over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Protocol

import pytest
import pytest_asyncio

from reclaim.common.clock import FixedClock
from reclaim.common.errors import NotFound, Transient
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.checks import CHECK_NAMES, evaluate, left_alone_by
from reclaim.connectors.fake import FakeOrg, FakeRecord, FakeUser, Trouble
from reclaim.connectors.ports import (
    ConnectionProfile,
    Done,
    Downgrade,
    Grants,
    HandedOver,
    Known,
    Refused,
    SeatActor,
    SeatReader,
    SeatRecord,
    Transfer,
    TryLater,
)
from reclaim.connectors.salesforce import Tuning, open_actor, open_reader
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.demo_org import build_base
from reclaim.sandbox.org import Org

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SINCE = NOW - timedelta(days=90)
DAY = timedelta(days=1)
QUICK = Tuning(attempts=3, wait_initial=0.001, wait_max=0.01, wait_jitter=0.001, read_timeout=5, patience=20)


class World(Protocol):
    """An org that a test can fill, and look into from outside."""

    clock: FixedClock
    reader: SeatReader
    actor: SeatActor
    product: str
    run_as: str

    def add(self, **traits: Any) -> str:
        """Add a user, by default a person unused for 200 days; return the holder's id."""

    def give(self, holder: str, kind: str) -> str:
        """Give a holder one open record."""

    def close_record(self, record_id: str) -> None: ...

    def state(self, holder: str) -> tuple[bool, bool]:
        """Return whether the account is active, and whether it is frozen."""

    def owner(self, record_id: str) -> str: ...

    def writes(self) -> int: ...

    def block(self, holder: str) -> None:
        """Let something stand in the way of deactivating the holder."""

    def seats_bought(self, total: int) -> None: ...

    def lock(self, *ids: str) -> None:
        """Let somebody hold these accounts or records, until `recover`."""

    def lose_the_next_answer(self, operation: str) -> None:
        """Carry the next write of this operation out, and let its caller hear nothing."""

    def use_up_the_calls(self) -> None:
        """Let the org take no more calls today, until `recover`."""

    def end_sessions(self) -> None:
        """Let the org forget who is signed in; where there are no sessions nothing is to forget."""

    def recover(self) -> None:
        """Let everything be well again."""

    def grant(self, holder: str) -> tuple[str, str, str]:
        """Give a permission set that needs the licence, one that needs none, and an add-on; return their ids."""

    def ungrantable(self, holder: str) -> None:
        """Let something stand in the way of the cheaper licence."""


class Fake:
    product = "SFDC"

    def __init__(self) -> None:
        self.clock = FixedClock(NOW)
        self.org = FakeOrg(self.clock, page_size=2)
        self._numbers = count(1)
        self.run_as = self.org.run_as = self.add()
        self.org.users[self.run_as].product = "other"
        self.org.profiles = {"Standard User": "SFDC", "Standard Platform User": "AUL"}
        self.org.needs = {"Forecasting": "SFDC"}
        self.reader: SeatReader = self.org.reader()
        self.actor: SeatActor = self.org.actor()

    def add(self, **traits: Any) -> str:
        user_id = f"u{next(self._numbers):04d}"
        values = {"created_at": NOW - 400 * DAY, "last_used_at": NOW - 200 * DAY, "name": user_id, **traits}
        for flag in ("integration", "administrator", "exempt", "scheduled", "approvals", "queue"):
            if values.get(flag) is True:
                values[flag] = "evidence"
        self.org.users[user_id] = FakeUser(user_id, **values)
        return user_id

    def give(self, holder: str, kind: str) -> str:
        record_id = f"r{len(self.org.records):04d}"
        self.org.records[record_id] = FakeRecord(record_id, kind, holder)
        return record_id

    def close_record(self, record_id: str) -> None:
        self.org.records[record_id].open = False

    def state(self, holder: str) -> tuple[bool, bool]:
        user = self.org.users[holder]
        return user.active, user.frozen

    def owner(self, record_id: str) -> str:
        return self.org.records[record_id].owner

    def writes(self) -> int:
        return len(self.org.writes)

    def block(self, holder: str) -> None:
        self.org.users[holder].blocked = Refused("FIELD_INTEGRITY_EXCEPTION", "the default owner of cases", "Change it")

    def seats_bought(self, total: int) -> None:
        self.org.licences["SFDC"] = total

    def lock(self, *ids: str) -> None:
        self.org.trouble = lambda _operation, each: "before" if each in ids else "none"

    def lose_the_next_answer(self, operation: str) -> None:
        def trouble(asked: str, _id: str) -> Trouble:
            # The fake asks for each row; an answer that is lost is lost for all of them.
            return "after" if asked == operation else "none"

        self.org.trouble = trouble

    def use_up_the_calls(self) -> None:
        self.org.down = Transient("the org takes no more calls today")

    def end_sessions(self) -> None:
        """The fake knows no sessions."""

    def recover(self) -> None:
        self.org.down = None
        self.org.trouble = lambda _operation, _id: "none"

    def grant(self, holder: str) -> tuple[str, str, str]:
        self.org.licences["AUL"] = 25
        user = self.org.users[holder]
        user.profile = "Standard User"
        user.permission_sets += ["Forecasting", "Other"]
        user.permission_set_licences += ["Console"]
        return "Forecasting", "Other", "Console"

    def ungrantable(self, holder: str) -> None:
        self.org.licences["AUL"] = 0


class Simulated:
    product = "SFDC"

    def __init__(self, sandbox: Sandbox) -> None:
        self.clock = FixedClock(NOW)
        self.org = Org(self.clock)
        self.base = build_base(self.org, seats=50)
        self.run_as = str(self.org.run_as)
        self.sandbox = sandbox
        self._numbers = count(1)
        sandbox.world.salesforce.attach(self.org)
        profile = ConnectionProfile(
            "c1",
            "Org",
            "salesforce",
            {"instance_url": self.sandbox.url, "client_id": self.sandbox.client_id},
            {"client_secret": self.sandbox.client_secret},
        )
        sandbox.world.faults.clear()
        here = Outgoing(["127.0.0.1"])
        self.reader = open_reader(profile, self.clock, QUICK, outgoing=here)
        self.actor = open_actor(profile, self.clock, QUICK, outgoing=here)

    def add(self, **traits: Any) -> str:
        number = next(self._numbers)
        profile = "API Only" if traits.get("integration") else "Standard User"
        user_id = self.org.insert(
            "User",
            Username=f"user{number}@example.com",
            FirstName="User",
            LastName=str(number),
            Email=f"user{number}@example.com",
            Department=traits.get("department"),
            ProfileId=self.base.profiles[profile],
            ManagerId=traits.get("manager_id"),
            IsActive=traits.get("active", True),
            CreatedDate=traits.get("created_at", NOW - 400 * DAY),
            LastLoginDate=traits.get("last_used_at", NOW - 200 * DAY),
        )
        login = self._login(user_id)
        if traits.get("frozen"):
            self.org.amend("UserLogin", login, IsFrozen=True)
        if "frozen_changed_at" in traits:
            self.org.amend("UserLogin", login, LastModifiedDate=traits["frozen_changed_at"])
        if "seen_elsewhere_at" in traits:
            at = traits["seen_elsewhere_at"]
            login_type = "Remote Access 2.0"
            self.org.insert("LoginHistory", UserId=user_id, LoginTime=at, LoginType=login_type, Status="Success")
        for flag, name in (("administrator", "Delegated_User_Admin"), ("exempt", "Reclaim_Exempt")):
            if traits.get(flag):
                set_id = self.base.permission_sets[name]
                self.org.insert("PermissionSetAssignment", AssigneeId=user_id, PermissionSetId=set_id)
        if traits.get("scheduled"):
            detail = self.org.insert("CronJobDetail", Name="Nightly")
            self.org.insert("CronTrigger", OwnerId=user_id, CronJobDetailId=detail, State="WAITING")
        if traits.get("approvals"):
            self.org.insert("ProcessInstanceWorkitem", ActorId=user_id)
        if traits.get("queue"):
            queue = self.org.insert("Group", Name="Support", Type="Queue")
            self.org.insert("GroupMember", GroupId=queue, UserOrGroupId=user_id)
        return user_id

    def give(self, holder: str, kind: str) -> str:
        more: dict[str, Any] = {
            "Opportunity": {"Name": "Deal", "StageName": "Prospecting", "CloseDate": NOW.date()},
            "Case": {"Subject": "Help", "Status": "New"},
            "Lead": {"LastName": "Doe", "Company": "Acme"},
        }[kind]
        return self.org.insert(kind, OwnerId=holder, **more)

    def close_record(self, record_id: str) -> None:
        self.org.amend("Opportunity", record_id, StageName="Closed Won")

    def state(self, holder: str) -> tuple[bool, bool]:
        return self.org.get("User", holder, "IsActive"), self.org.get("UserLogin", self._login(holder), "IsFrozen")

    def owner(self, record_id: str) -> str:
        kind = {"006": "Opportunity", "500": "Case", "00Q": "Lead"}[record_id[:3]]
        return str(self.org.get(kind, record_id, "OwnerId"))

    def writes(self) -> int:
        return len(self.org.write_log)

    def block(self, holder: str) -> None:
        self.org.settings.default_case_owner = holder

    def seats_bought(self, total: int) -> None:
        self.org.amend("UserLicense", self.base.licences["Salesforce"], TotalLicenses=total)

    def lock(self, *ids: str) -> None:
        rows = [each for row in ids for each in (row, self._login(row) if row.startswith("005") else row)]
        self.sandbox.world.faults.add("row_lock", method="PATCH", times=None, params={"ids": rows})

    def lose_the_next_answer(self, operation: str) -> None:
        self.sandbox.world.faults.add("timeout_after_commit", method="PATCH")

    def use_up_the_calls(self) -> None:
        self.sandbox.world.faults.add("request_limit", times=None)

    def end_sessions(self) -> None:
        self.sandbox.world.salesforce.authority.end_all()

    def recover(self) -> None:
        self.sandbox.world.faults.clear()

    def grant(self, holder: str) -> tuple[str, str, str]:
        sets = self.base.permission_sets["Forecasting"], self.org.insert("PermissionSet", Name="Other", Label="Other")
        (add_on,) = self.org.tables["PermissionSetLicense"].rows
        for set_id in sets:
            self.org.insert("PermissionSetAssignment", AssigneeId=holder, PermissionSetId=set_id)
        self.org.insert("PermissionSetLicenseAssign", AssigneeId=holder, PermissionSetLicenseId=add_on)
        return *sets, add_on

    def ungrantable(self, holder: str) -> None:
        self.org.amend("UserLicense", self.base.licences["Salesforce Platform"], TotalLicenses=0)

    def _login(self, holder: str) -> str:
        return str(self.org.tables["UserLogin"].where("UserId", holder)[0][0])


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


async def test_reading_changes_nothing_and_has_nothing_to_change_with(world: World) -> None:
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


async def test_a_working_connection_tests_well(world: World) -> None:
    results = await world.reader.test()
    assert results
    assert all(result.ok and result.what and result.detail for result in results)


async def test_licences_count_what_is_in_use(world: World) -> None:
    before = {each.product: each for each in await world.reader.licences()}
    world.add()
    world.add(active=False)
    after = {each.product: each for each in await world.reader.licences()}
    assert after[world.product].used == before[world.product].used + 1
    assert after[world.product].total == before[world.product].total


async def test_seats_are_the_active_ones_once_each(world: World) -> None:
    boss = world.add()
    holders = [world.add(manager_id=boss, department="Sales") for _ in range(7)]
    inactive = world.add(active=False)
    seats = await all_seats(world)
    assert set(holders) <= set(seats)
    assert inactive not in seats
    assert world.run_as not in seats
    seat = seats[holders[0]]
    assert (seat.product, seat.active, seat.usage_type, seat.department) == (world.product, True, "Standard", "Sales")
    assert (seat.created_at, seat.last_used_at) == (NOW - 400 * DAY, NOW - 200 * DAY)
    assert seat.manager is not None
    assert (seat.manager.person.id, seat.manager.able) == (boss, True)


async def test_no_products_are_no_seats_and_an_unknown_one_is_an_error(world: World) -> None:
    assert [page async for page in world.reader.seats([])] == []
    with pytest.raises(NotFound, match="no licence NOPE"):
        [page async for page in world.reader.seats([world.product, "NOPE"])]


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


async def test_seats_of_knows_the_inactive_and_leaves_out_the_gone(world: World) -> None:
    never = world.add(last_used_at=None)
    inactive = world.add(active=False)
    found = await world.reader.seats_of([never, inactive, "005000000000000AAA"])
    assert set(found) == {never, inactive}
    assert found[never].last_used_at is None
    assert not found[inactive].active
    assert await world.reader.seats_of([]) == {}


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


async def test_one_refusal_does_not_touch_the_others(world: World) -> None:
    fine, blocked, gone = world.add(), world.add(), "005000000000000AAA"
    world.block(blocked)
    results = await world.actor.deactivate([fine, blocked, gone])
    assert results[fine] == Done(changed=True, before={"IsActive": True})
    refusal = results[blocked]
    assert isinstance(refusal, Refused)
    assert refusal.code == "FIELD_INTEGRITY_EXCEPTION"
    assert "default owner of cases" in refusal.message
    assert refusal.remedy
    missing = results[gone]
    assert isinstance(missing, Refused)
    assert missing.code == "NOT_FOUND"
    assert world.state(blocked) == (True, False)
    assert world.writes() == 1


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


async def test_without_calls_left_everything_waits_and_nothing_is_written(world: World) -> None:
    holder, boss = world.add(), world.add()
    transfer = Transfer(holder, boss, {"Case": [world.give(holder, "Case")]})
    world.use_up_the_calls()
    for act in (world.actor.freeze, world.actor.deactivate):
        assert isinstance((await act([holder]))[holder], TryLater)
    assert isinstance((await world.actor.hand_over([transfer]))[holder], TryLater)
    assert world.writes() == 0
    world.recover()
    assert (await world.actor.freeze([holder]))[holder] == Done(changed=True, before={"IsFrozen": False})
    assert world.writes() == 1


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
