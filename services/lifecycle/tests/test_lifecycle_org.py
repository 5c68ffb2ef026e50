"""The service on a simulated Salesforce org, through the real connector, on that org's bad days.

Each row of a collection ends right, and nothing is written twice: judged by the org's own logs. What the org refuses
stands in attention in its own words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reclaim.common import migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import Clock, FixedClock
from reclaim.common.contracts import CheaperLicence, ConnectionChanged
from reclaim.common.outgoing import Outgoing
from reclaim.common.security import Sealer
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.connectors.ports import ConnectionProfile
from reclaim.connectors.salesforce import SalesforceActor, SalesforceReader, Tuning, open_actor, open_reader
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import Retry, State
from reclaim.lifecycle.service import build
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.demo_org import Base, build_base
from reclaim.sandbox.faults import REFUSALS, Fault
from reclaim.sandbox.org import Org
from services.lifecycle.tests.lifecycle_site import nothing_waits
from services.lifecycle.tests.test_lifecycle_service import DAY, KEY, NOW, World, decision, flagged

COLLECTION = 200
"""The most rows of one call."""
SOME = 20
QUICK = Tuning(
    attempts=4, wait_initial=0.001, wait_max=0.01, wait_jitter=0.001, connect_timeout=30, read_timeout=30, patience=90
)
PLATFORM = CheaperLicence(product="AUL", product_name="Salesforce Platform", profile="Standard Platform User")


class Quick:
    """The Salesforce connector, with short waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def reader(self, profile: ConnectionProfile) -> SalesforceReader:
        return open_reader(profile, self._clock, QUICK, outgoing=Outgoing(["127.0.0.1"]))

    def actor(self, profile: ConnectionProfile) -> SalesforceActor:
        return open_actor(profile, self._clock, QUICK, outgoing=Outgoing(["127.0.0.1"]))


@dataclass
class Site:
    """The service, and the org that it acts on."""

    it: World
    sandbox: Sandbox
    base: Base
    holders: list[str]

    @property
    def org(self) -> Org:
        return self.sandbox.org

    def fault(self, kind: str, **more: Any) -> Fault:
        return self.sandbox.world.faults.add(kind, **more)

    async def mend(self) -> None:
        """Let the org be well again, and what was put off be due."""
        self.sandbox.world.faults.clear()
        await self.it.sql("UPDATE effect SET due = 0")

    async def checked(self, **policy: Any) -> None:
        """Flag and revoke every holder's seat, and let the first collection of them be checked."""
        await self.it.tell(*(flagged(holder, holder, **policy) for holder in self.holders), source="scanner")
        await self.it.tell(*(decision("revoke", holder) for holder in self.holders))
        await self.it.once("act")

    async def frozen(self, **policy: Any) -> None:
        """Bring every holder's case to where grace is over and the seat is checked again."""
        await self.checked(**{"hand_over": False, **policy})
        await self.it.act()
        assert await self.states() == {State.FROZEN: len(self.holders)}
        self.it.clock.advance(7 * DAY)
        await self.it.once("timers")
        await self.it.once("act")

    async def states(self) -> Counter[State]:
        return Counter([(await self.it.case(holder)).state for holder in self.holders])

    async def put_off(self) -> set[str]:
        """Return why what is to be tried again was put off."""
        found: set[str] = set()
        async with self.it.running.database.reading() as db:
            for holder in self.holders:
                found |= {str(effect["reason"]) for effect in await store.effects_of(db, holder)}
        return found

    def written(self) -> Counter[tuple[str, Any]]:
        return Counter((entry.field, entry.after) for entry in self.org.write_log)

    def methods(self) -> list[str]:
        """Return the verbs of the calls for data, in order."""
        return [entry.method for entry in self.org.request_log if "/services/data" in entry.path]


@asynccontextmanager
async def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, holders: int) -> AsyncIterator[Site]:
    for name in ("RUN_MOST", "DAY_MOST", "MONTH_MOST"):
        monkeypatch.setenv(f"RECLAIM_LIFECYCLE_BRAKE_{name}", "1000")
    monkeypatch.setenv("RECLAIM_LIFECYCLE_BRAKE_CANARY", "0")
    clock = FixedClock(NOW)
    org = Org(clock)
    base = build_base(org, seats=1_000)
    boss = _user(org, base, 0, LastLoginDate=NOW - DAY)
    made = [_user(org, base, number + 1, ManagerId=boss) for number in range(holders)]
    settings = Settings(environment="test", data_dir=tmp_path, secret_keys=["s" * 32], sealing_keys=[KEY])
    running = Running.start(
        partial(build, connectors=Quick(clock)), "lifecycle", settings, clock, InprocBus(), catch_up=nothing_waits
    )
    await migrate.upgrade(running.database.engine, running.service.migrations)
    async with Sandbox(clock=clock, org=org) as sandbox:
        it = World(running, org, clock)  # type: ignore[arg-type]
        connection = ConnectionChanged(
            connection_id="c1", name="The org", kind="salesforce", version=1,
            settings={"instance_url": sandbox.url, "client_id": sandbox.client_id},
            credentials=Sealer([KEY]).seal({"client_secret": sandbox.client_secret}),
        )  # fmt: skip
        await it.tell(connection, source="scanner")
        try:
            yield Site(it, sandbox, base, made)
        finally:
            await running.close()


def _user(org: Org, base: Base, number: int, **values: Any) -> str:
    return org.insert(
        "User",
        **{
            "Username": f"user{number}@example.com",
            "LastName": f"User {number}",
            "Email": f"user{number}@example.com",
            "ProfileId": base.profiles["Standard User"],
            "CreatedDate": NOW - timedelta(days=400),
            "LastLoginDate": NOW - timedelta(days=200),
            **values,
        },
    )


# ------------------------------------------------------------------------------------------- collections


async def test_rows_that_are_locked_are_sent_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch, holders=SOME) as site:
        await site.checked()
        fault = site.fault("row_lock", method="PATCH", params={"rows": 7})
        before = len(site.methods())
        await site.it.once("act")
        assert fault.fired == 1
        assert await site.states() == {State.FROZEN: SOME}
        assert site.methods()[before:].count("PATCH") == 2
        # 13 by the first call, 7 by the second: none twice.
        assert site.written() == {("IsFrozen", True): SOME}


async def test_rows_that_stay_locked_wait_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch, holders=COLLECTION) as site:
        await site.frozen()
        assert await site.states() == {State.RECLAIMING: COLLECTION}
        site.fault("row_lock", method="PATCH", params={"ids": site.holders[:3]}, times=None)
        await site.it.once("act")
        assert await site.states() == {State.RECLAIMING: 3, State.RECLAIMED: COLLECTION - 3}
        (reason,) = await site.put_off()
        assert "UNABLE_TO_LOCK_ROW" in reason
        await site.mend()
        await site.it.act()
        assert await site.states() == {State.RECLAIMED: COLLECTION}
        assert site.written() == {("IsFrozen", True): COLLECTION, ("IsActive", False): COLLECTION}


async def test_rows_that_are_refused_call_a_person_and_the_others_are_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, holders=COLLECTION) as site:
        await site.frozen()
        refused = dict(zip(site.holders, REFUSALS, strict=False))
        site.fault("row_refused", method="PATCH", params={"refusals": refused}, times=None)
        before = site.methods().count("PATCH")
        await site.it.act()
        assert site.methods().count("PATCH") == before + 1, "a refusal is no reason to send anything again"
        await _stand_in_attention(site, refused)
        assert (await site.states())[State.RECLAIMED] == COLLECTION - len(refused)
        await site.mend()
        for holder in refused:
            await site.it.order(Retry("op"), holder)
        await site.it.act()
        assert await site.states() == {State.RECLAIMED: COLLECTION}
        assert site.written() == {("IsFrozen", True): COLLECTION, ("IsActive", False): COLLECTION}


async def _stand_in_attention(site: Site, refused: dict[str, str]) -> None:
    for holder, name in refused.items():
        case = await site.it.case(holder)
        code, message = REFUSALS[name]
        assert case.state is State.ATTENTION
        assert case.attention is not None
        assert case.attention.reason == f"{code}: {message}"
        assert case.attention.remedy


# ------------------------------------------------------------------------------------------- answers that are lost


@pytest.mark.parametrize("step", ["freeze", "deactivate"])
async def test_a_write_whose_answer_is_lost_is_read_back_and_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with serving(tmp_path, monkeypatch, holders=SOME) as site:
        await (site.checked() if step == "freeze" else site.frozen())
        fault = site.fault("timeout_after_commit", method="PATCH")
        before = len(site.methods())
        await site.it.once("act")
        assert fault.fired == 1
        after = State.FROZEN if step == "freeze" else State.RECLAIMED
        assert await site.states() == {after: SOME}
        assert site.methods()[before:].count("PATCH") == 1
        assert set(site.written().values()) == {SOME}


async def test_what_cannot_be_read_back_is_read_before_it_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One holder appeals while nobody knows whether the freeze has happened."""
    async with serving(tmp_path, monkeypatch, holders=20) as site:
        await site.checked()
        site.fault("timeout_after_commit", method="PATCH")
        site.fault("server_unavailable", object_name="UserLogin", method="GET", after=1, times=None)
        await site.it.once("act")
        assert await site.states() == {State.FREEZING: 20}
        await site.it.tell(decision("keep", site.holders[0]))
        await site.mend()
        before = len(site.methods())
        await site.it.act()
        assert await site.states() == {State.FROZEN: 19, State.RESTORED: 1}
        assert site.written() == {("IsFrozen", True): 20, ("IsFrozen", False): 1}
        assert site.methods()[before:].count("PATCH") == 1, "the only write is the one that undoes the freeze"


async def test_a_hand_over_whose_answer_is_lost_moves_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, holders=2) as site:
        for holder in site.holders:
            for _ in range(150):
                site.org.insert("Case", Subject="Help", Status="New", OwnerId=holder)
        await site.frozen(hand_over=True)
        assert await site.states() == {State.HANDING_OVER: 2}
        site.fault("timeout_after_commit", method="PATCH")
        await site.it.act()
        assert await site.states() == {State.RECLAIMED: 2}
        assert [(await site.it.case(holder)).records_transferred for holder in site.holders] == [150, 150]
        moved = Counter(entry.id for entry in site.org.write_log if entry.field == "OwnerId")
        assert len(moved) == 300
        assert set(moved.values()) == {1}


# ------------------------------------------------------------------------------------------- the org is busy


async def test_when_the_days_calls_are_used_up_nothing_is_tried_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, holders=SOME) as site:
        await site.checked()
        site.fault("request_limit", method="PATCH", times=None)
        before = site.methods().count("PATCH")
        await site.it.once("act")
        assert site.methods().count("PATCH") == before + 1, "every refused call would be one more"
        assert await site.states() == {State.FREEZING: SOME}
        (reason,) = await site.put_off()
        assert "API calls are used up" in reason
        assert site.written() == {}
        await site.mend()
        await site.it.act()
        assert await site.states() == {State.FROZEN: SOME}
        assert site.written() == {("IsFrozen", True): SOME}


async def test_the_limit_in_the_middle_of_a_hand_over_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, holders=1) as site:
        (holder,) = site.holders
        for _ in range(350):
            site.org.insert("Case", Subject="Help", Status="New", OwnerId=holder)
        await site.frozen(hand_over=True)
        site.fault("request_limit", method="PATCH", object_name="Case", after=1, times=None)
        await site.it.once("act")
        assert (await site.it.case(holder)).state is State.HANDING_OVER
        assert site.written()[_to_the_boss(site, holder)] == 200
        await site.mend()
        await site.it.act()
        assert (await site.it.case(holder)).state is State.RECLAIMED
        assert (await site.it.case(holder)).records_transferred == 350
        assert site.written()[_to_the_boss(site, holder)] == 350


def _to_the_boss(site: Site, holder: str) -> tuple[str, Any]:
    return "OwnerId", site.org.get("User", holder, "ManagerId")


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_session_that_expires_is_renewed_and_each_row_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with serving(tmp_path, monkeypatch, holders=SOME) as site:
        await site.checked()
        fault = site.fault("session_expired", method=method)
        await site.it.once("act")
        assert fault.fired == 1
        assert await site.states() == {State.FROZEN: SOME}
        assert site.written() == {("IsFrozen", True): SOME}


# ------------------------------------------------------------------------------------------- what the org refuses


def _default_owner(site: Site, holder: str) -> None:
    site.org.settings.default_case_owner = holder


def _in_a_hierarchy(site: Site, holder: str) -> None:
    site.org.amend("User", site.org.get("User", holder, "ManagerId"), Backup_Approver__c=holder)


def _last_administrator(site: Site, holder: str) -> None:
    site.fault("row_refused", method="PATCH", times=None, params={"refusals": {holder: "last_admin"}})


@pytest.mark.parametrize(
    ("stand_in_the_way", "said", "advice"),
    [
        (_default_owner, "default owner of cases", "Support Settings"),
        (_in_a_hierarchy, "value of a hierarchy field: Backup Approver", "Empty the field"),
        (_last_administrator, "last active administrator", "give another user that role"),
    ],
)
async def test_who_cannot_be_deactivated_stands_in_attention_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in_the_way: Any, said: str, advice: str
) -> None:
    async with serving(tmp_path, monkeypatch, holders=3) as site:
        await site.frozen()
        holder = site.holders[1]
        stand_in_the_way(site, holder)
        await site.it.act()
        assert await site.states() == {State.RECLAIMED: 2, State.ATTENTION: 1}
        await _says(site, holder, said, advice)
        assert site.written() == {("IsFrozen", True): 3, ("IsActive", False): 2}


async def test_who_cannot_have_the_profile_stands_in_attention_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, holders=3) as site:
        await site.frozen(reclaim_by="downgrade", downgrade_to=PLATFORM)
        holder = site.holders[1]
        refusals = {holder: "incompatible_profile"}
        site.fault("row_refused", method="PATCH", object_name="User", times=None, params={"refusals": refusals})
        await site.it.act()
        assert await site.states() == {State.RECLAIMED: 2, State.ATTENTION: 1}
        await _says(site, holder, "compatible with the user's license", "The profile does not go with")
        changed = [entry.id for entry in site.org.write_log if entry.field == "ProfileId"]
        assert sorted(changed) == sorted(set(site.holders) - {holder})


async def _says(site: Site, holder: str, said: str, advice: str) -> None:
    case = await site.it.case(holder)
    assert case.attention is not None
    assert said in case.attention.reason
    assert advice in case.attention.remedy
    assert "AttentionRaised" in await site.it.said()
